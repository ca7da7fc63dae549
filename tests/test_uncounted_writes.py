"""Writes that torch does not count are seen: by the next pass, and after the session."""

from __future__ import annotations

import copy
import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import dlpack
from torch.utils.dlpack import from_dlpack

import vramx

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]
Write = Callable[[nn.Parameter, float], None]

X = torch.linspace(-1, 1, 256).view(2, 128)


def add_to_data(p: nn.Parameter, by: float) -> None:
    p.data.add_(by)


def iadd_data(p: nn.Parameter, by: float) -> None:
    p.data += by


def set_items_of_data(p: nn.Parameter, by: float) -> None:
    p.data[3, 5:9] = by


def write_a_slice_of_data(p: nn.Parameter, by: float) -> None:
    p.data[2:4].mul_(1 + by)


def write_a_view_of_data(p: nn.Parameter, by: float) -> None:
    p.data.view(-1)[::31].copy_(torch.full((529,), by))


def write_data_of_data(p: nn.Parameter, by: float) -> None:
    p.data.data.T.data.add_(by)


def write_data_of_a_view(p: nn.Parameter, by: float) -> None:
    p.detach()[1].data.fill_(by)


def write_a_numpy_array(p: nn.Parameter, by: float) -> None:
    p.detach().numpy()[7] += by


def write_an_address(p: nn.Parameter, by: float) -> None:
    values = np.full(64, by, np.float32)
    ctypes.memmove(p.data_ptr() + 256, values.ctypes.data, values.nbytes)


def write_a_storage(p: nn.Parameter, by: float) -> None:
    storage = p.untyped_storage()
    storage[5] = int(by * 10) % 120
    other = torch.full((128 * 128,), by).untyped_storage()
    storage.copy_(other)


def write_by_dlpack(p: nn.Parameter, by: float) -> None:
    from_dlpack(p.detach()).add_(by)


def write_by_a_capsule(p: nn.Parameter, by: float) -> None:
    from_dlpack(dlpack.to_dlpack(p.detach())).mul_(1 + by)


def write_by_swapped_data(p: nn.Parameter, by: float) -> None:
    p.data = p.data + by


def count_it(p: nn.Parameter, by: float) -> None:
    with torch.no_grad():
        p.sub_(by)


WRITES: list[Write] = [
    add_to_data,
    iadd_data,
    set_items_of_data,
    write_a_slice_of_data,
    write_a_view_of_data,
    write_data_of_data,
    write_data_of_a_view,
    write_a_numpy_array,
    write_an_address,
    write_a_storage,
    write_by_dlpack,
    write_by_a_capsule,
    write_by_swapped_data,
    count_it,
]


def on_a_thread(act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def at_once(act: Callable[[], None]) -> None:
    act()


@pytest.mark.parametrize("budget", [2, 16], ids=["streams", "fits"])
@pytest.mark.parametrize("where", [at_once, on_a_thread], ids=["here", "on a thread"])
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_write_is_seen_by_the_next_pass_and_after_the_session(
    open_session: OpenSession, linears: Linears, write: Write, where: Any, budget: int
) -> None:
    plain, model = linears(6), linears(6)
    with torch.no_grad(), open_session(budget * BLOCK) as session:
        session.manage(model)
        for _ in range(4):
            assert torch.equal(model(X), plain(X))
        for n in range(3):
            for each in (model, plain):
                where(lambda each=each, n=n: write(each[n].weight, 0.25 + n))
            assert torch.equal(model(X), plain(X))
            assert torch.equal(model(X), plain(X))
    for mine, other in zip(model.parameters(), plain.parameters()):
        assert torch.equal(mine, other)


def test_a_fused_optimizer_s_step_is_seen(open_session: OpenSession, linears: Linears) -> None:
    plain, model = linears(6), linears(6)
    session = open_session(16 * BLOCK)  # without a scope, where a mode would see the operations
    session.manage(model)
    for _ in range(3):
        for each in (plain, model):
            optimizer = torch.optim.Adam(each.parameters(), lr=0.1, fused=True)
            each(X).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(model(X), plain(X))
    session.close()
    for mine, other in zip(model.parameters(), plain.parameters()):
        assert torch.equal(mine, other)


changes = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(WRITES), st.integers(0, 5)),
        st.tuples(st.just("take"), st.sampled_from(["data", "numpy", "view"]), st.integers(0, 5)),
        st.tuples(st.just("use"), st.just(None), st.integers(0, 5)),
        st.tuples(st.just("run"), st.just(None), st.integers(1, 3)),
        st.tuples(st.just("evict"), st.just(None), st.integers(0, 5)),
        st.tuples(st.just("pinned"), st.sampled_from(WRITES[:6]), st.integers(0, 5)),
        st.tuples(st.just("in the pass"), st.sampled_from(WRITES[:6]), st.integers(0, 5)),
    ),
    max_size=12,
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=changes, budget=st.sampled_from([2, 4, 16]))
def test_what_was_taken_may_be_written_at_any_time(
    open_session: OpenSession, linears: Linears, changes: list[Any], budget: int
) -> None:
    plain, model = linears(6), linears(6)
    taken: list[tuple[Any, Any]] = []
    writing: list[Any] = []

    def write_meanwhile(module: nn.Module, *_: Any) -> None:
        for act, at in writing:
            if module in (model[at], plain[at]):
                act(module.weight, 0.125)

    for each in (*model, *plain):
        each.register_forward_hook(write_meanwhile)
    with torch.no_grad(), open_session(budget * BLOCK) as session:
        session.manage(model)
        for kind, what, at in changes:
            if kind == "write":
                for each in (model, plain):
                    what(each[at].weight, 0.5)
            elif kind == "take":
                pair = []
                for each in (model, plain):
                    alias = each[at].weight.data
                    pair.append(
                        {"data": alias, "numpy": alias.numpy(), "view": alias.view(-1)[5:]}[what]
                    )
                taken.append((*pair,))
            elif kind == "use" and taken:
                for one in taken[at % len(taken)]:
                    one[...] += 0.25
            elif kind == "run":
                for _ in range(at):
                    assert torch.equal(model(X), plain(X))
            elif kind == "evict":
                session.evict(model[at])
            elif kind == "pinned":
                with session.pin(model[at]):
                    what(model[at].weight, 0.5)
                what(plain[at].weight, 0.5)
            elif kind == "in the pass":
                writing[:] = [(what, at)]
                assert torch.equal(model(X), plain(X))
                writing.clear()
        assert torch.equal(model(X), plain(X))
    for mine, other in zip(model.parameters(), plain.parameters()):
        assert torch.equal(mine, other)


def test_bytes_that_were_written_and_then_replaced_are_asked_for_no_more(
    open_session: OpenSession, linears: Linears
) -> None:
    plain, model = linears(4), linears(4)
    with torch.no_grad(), open_session(2 * BLOCK) as session:
        session.manage(model)
        for layer in (plain[3], model[3]):
            write_by_swapped_data(layer.weight, 0.5)
        with session.pin(model[3]):
            add_to_data(model[3].weight, 0.5)
        add_to_data(plain[3].weight, 0.5)
        for layer in (plain[3], model[3]):
            write_by_swapped_data(layer.weight, 0.5)
        session.evict(model[0])
        assert torch.equal(model(X), plain(X))


def test_an_alias_is_let_go_once_nobody_else_has_it(
    open_session: OpenSession, linears: Linears
) -> None:
    model = linears(4)
    with torch.no_grad(), open_session(4 * BLOCK) as session:
        session.manage(model)
        alias = model[0].weight.data
        model(X)
        alone = sys.getrefcount(alias)
        kept = [model[0].weight.data]
        kept.clear()
        model(X)
        del alias
        model(X)
        assert alone == 3  # the variable, the call's argument, and the session's
        assert torch.equal(model[0].weight, model[0].weight.data)


def test_addresses_that_were_handed_out_are_told_of_until_writes_are_reported(
    open_session: OpenSession, linears: Linears
) -> None:
    model = linears(4)
    with torch.no_grad(), open_session(8 * BLOCK) as session:
        session.manage(model)
        model(X)
        array = model[0].weight.detach().numpy()
        assert "64.00 KiB of weights are copied to the card anew at each use" in session.report()
        array += 1
        expected = copy.deepcopy(linears(4))
        expected[0].weight.add_(1)
        assert torch.equal(model(X), expected(X))
        session.written(model[0].weight)
        assert "copied to the card anew" not in session.report()


def test_torch_is_as_it_was_once_nothing_is_managed(
    open_session: OpenSession, linears: Linears
) -> None:
    ways = ("data", "data_ptr", "numpy", "__dlpack__")
    before = [vars(torch.Tensor).get(way) for way in ways]
    with open_session(4 * BLOCK) as session, open_session(4 * BLOCK) as other:
        session.manage(linears(2))
        model = other.manage(linears(2))
        assert vars(torch.Tensor).get("data") is not None
        session.close()
        assert vars(torch.Tensor).get("data") is not None
        model(X)
    assert [vars(torch.Tensor).get(way) for way in ways] == before


def test_function_modes_and_compiled_code_see_data_as_ever(
    open_session: OpenSession, linears: Linears
) -> None:
    class Counts(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(128))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.data * 2

    module = Doubled()
    module.compile(backend="eager")
    with torch.no_grad(), open_session(4 * BLOCK) as session:
        session.manage(linears(2))
        session.manage(module)
        assert torch.equal(module(X), X * 2)
        with Counts() as counts:
            assert module.weight.data is not None
        assert counts.calls >= 1
