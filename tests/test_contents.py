"""What a module holds is looked at again when a pass begins: replaced, cast, added and removed."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx

KIB = 2**10
BLOCK = 64 * KIB
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

X = torch.linspace(-1, 1, 256).view(2, 128)


class Network(nn.Module):
    """Layers of whatever type they have, and what is put beside them."""

    def __init__(self, linears: Linears) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linears(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x.to(layer.weight.dtype))).float()
        shift = getattr(self, "shift", None)
        return x if shift is None else x + shift.float()


def values(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Step:
    """Where in which model something is changed, and to what."""

    model: Network
    at: int
    seed: int

    @property
    def square(self) -> torch.Tensor:
        return values(self.seed, 128, 128)


def replace(step: Step) -> None:
    step.model.layers[step.at].weight = nn.Parameter(step.square)


def give_data(step: Step) -> None:
    step.model.layers[step.at].weight.data = step.square


def set_storage(step: Step) -> None:
    with torch.no_grad():
        step.model.layers[step.at].weight.set_(
            step.square.to(step.model.layers[step.at].weight.dtype)
        )


def to_half(step: Step) -> None:
    step.model.layers[step.at].half()


def all_to_float(step: Step) -> None:
    step.model.float()


def all_to_double(step: Step) -> None:
    step.model.to(torch.float64)


def put_beside(step: Step) -> None:
    if "shift" in step.model._buffers:
        del step.model.shift
    step.model.register_buffer("shift", values(step.seed, 128))


def write_beside(step: Step) -> None:
    if "shift" in step.model._buffers:
        step.model.shift.add_(0.5)


def add_layer(step: Step) -> None:
    layer = nn.Linear(128, 128, bias=False)
    with torch.no_grad():
        layer.weight.copy_(step.square)
    step.model.layers.insert(step.at, layer)


def remove_layer(step: Step) -> None:
    if len(step.model.layers) > 1:
        del step.model.layers[step.at]


def swap_layers(step: Step) -> None:
    step.model.layers[step.at], step.model.layers[0] = (
        step.model.layers[0],
        step.model.layers[step.at],
    )


def tie(step: Step) -> None:
    step.model.layers[step.at].weight = step.model.layers[0].weight


def load_assigned(step: Step) -> None:
    state = {name: values(step.seed, *each.shape) for name, each in step.model.state_dict().items()}
    step.model.load_state_dict(state, assign=True)


def add_in_place(step: Step) -> None:
    with torch.no_grad():
        step.model.layers[step.at].weight.add_(0.25)


CHANGES = [
    replace,
    give_data,
    set_storage,
    to_half,
    all_to_float,
    all_to_double,
    put_beside,
    write_beside,
    add_layer,
    remove_layer,
    swap_layers,
    tie,
    load_assigned,
    add_in_place,
]

steps = st.lists(
    st.tuples(st.sampled_from(CHANGES), st.integers(0, 7), st.integers(0, 99)), max_size=6
)


def live_bytes(model: nn.Module) -> int:
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}.values()
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps, budget=st.sampled_from([2, 3, 32]), policy=st.sampled_from(["lru", "adaptive"]))
def test_every_change_between_passes_is_that_of_an_unmanaged_module(
    open_session: OpenSession,
    linears: Linears,
    steps: list[tuple[Callable[[Step], None], int, int]],
    budget: int,
    policy: str,
) -> None:
    plain = Network(linears)
    managed = copy.deepcopy(plain)
    with torch.no_grad(), open_session(budget * 4 * BLOCK, policy=policy) as session:
        session.manage(managed)
        assert torch.equal(managed(X), plain(X))
        for change, at, seed in steps:
            for model in (plain, managed):
                change(Step(model, at % len(model.layers), seed))
            for _ in range(3):
                assert torch.equal(managed(X), plain(X))
        session.report()
        assert session._torch.passes.modules[0].nbytes == live_bytes(managed)
        assert session.stats().peak_resident <= budget * 4 * BLOCK
    assert torch.equal(managed(X), plain(X))
    for (name, mine), (_, other) in zip(managed.state_dict().items(), plain.state_dict().items()):
        assert mine.dtype == other.dtype, name
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("cast", [torch.float16, torch.float64])
def test_what_is_cast_is_taken_in_and_its_old_memory_is_let_go(
    open_session: OpenSession, linears: Linears, cast: torch.dtype
) -> None:
    model = linears(8)
    with torch.no_grad(), open_session(4 * BLOCK, policy="lru") as session:
        session.manage(model)
        model(X)
        model.to(cast)
        model(X.to(cast))
        nbytes = 8 * 128 * 128 * cast.itemsize
        assert session._torch.passes.modules[0].nbytes == nbytes
        assert session.stats().managed <= nbytes + BLOCK
        before = session.stats()
        model(X.to(cast))
        after = session.stats()
        assert after.moved_in - before.moved_in <= nbytes
        assert after.moved_out == before.moved_out


def test_a_layer_cast_for_each_call_stays_the_session_s(
    open_session: OpenSession, linears: Linears
) -> None:
    """As 8-bit storage of weights does it: up before the call, down after it."""

    def make() -> nn.Sequential:
        model = linears(8)
        for layer in model:
            layer.to(torch.float8_e4m3fn)
            layer.register_forward_pre_hook(lambda layer, _: layer.to(torch.float32) and None)
            layer.register_forward_hook(lambda layer, *_: layer.to(torch.float8_e4m3fn) and None)
        return model

    plain, model = make(), make()
    nbytes = 8 * 128 * 128
    with torch.no_grad(), open_session(BLOCK, block=16 * KIB, policy="lru") as session:
        session.manage(model)
        for _ in range(4):
            before = session.stats().moved_in
            assert torch.equal(model(X), plain(X))
            assert session.stats().moved_in - before <= nbytes
        assert session._torch.passes.modules[0].nbytes == nbytes
        assert session.stats().managed <= nbytes + BLOCK
    assert torch.equal(model(X), plain(X))


def test_parameters_that_are_there_for_one_call_are_left_where_they_are(
    open_session: OpenSession, linears: Linears
) -> None:
    model = linears(4)
    others = {name: torch.randn_like(each) for name, each in model.named_parameters()}
    addresses = {name: each.data_ptr() for name, each in others.items()}
    with torch.no_grad(), open_session(2 * BLOCK) as session:
        expected, other = model(X), torch.func.functional_call(model, others, (X,))
        session.manage(model)
        for _ in range(3):
            assert torch.equal(model(X), expected)
            assert torch.equal(torch.func.functional_call(model, others, (X,)), other)
        assert torch.equal(model(X), expected)
        assert {name: each.data_ptr() for name, each in others.items()} == addresses


def test_a_tensor_that_the_program_shares_with_others_stays_shared(
    open_session: OpenSession, linears: Linears
) -> None:
    model = linears(4)
    mine = torch.zeros(128, 128)
    with torch.no_grad(), open_session(2 * BLOCK) as session:
        session.manage(model)
        model[1].weight.data = mine
        with pytest.warns(RuntimeWarning, match=r"1\.weight shares its bytes"):
            model(X)
        assert "1.weight shares its bytes" in session.report()
        mine.fill_(0.5)
        plain = linears(4)
        plain[1].weight.copy_(mine)
        assert torch.equal(model(X), plain(X))
        assert model[1].weight.data_ptr() == mine.data_ptr()
        del mine
        session.report()
        assert "shares its bytes" not in session.report()


def test_what_cannot_be_taken_in_is_named_once(open_session: OpenSession, linears: Linears) -> None:
    model = linears(2)
    with torch.no_grad(), open_session(2 * BLOCK) as session:
        session.manage(model)
        model.extra = nn.Parameter(torch.eye(4).to_sparse(), requires_grad=False)
        with pytest.warns(RuntimeWarning, match=r"extra has the layout torch\.sparse_coo"):
            model(X)
        assert "extra has the layout" in session.report()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(X)


def test_a_plan_goes_on_after_weights_of_another_module_were_cast(
    open_session: OpenSession, linears: Linears
) -> None:
    long, short = linears(12), linears(2, seed=1)
    with torch.no_grad(), open_session(6 * BLOCK) as session:
        session.manage(long)
        session.manage(short)
        for _ in range(4):
            long(X)
        for cast in (torch.float64, torch.float32):
            short.to(cast)
            short(X.to(cast))
        for _ in range(6):
            long(X)
        before = session.stats().moved_in
        long(X)
        assert session.stats().moved_in - before < 12 * BLOCK  # less than all of it


def test_looks_while_another_thread_runs_the_module_change_nothing(
    open_session: OpenSession, linears: Linears
) -> None:
    model = linears(4)
    between, go_on = threading.Event(), threading.Event()

    class Waiting(nn.Module):
        def forward(self, x: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                between.set()
                go_on.wait(20)
            return x

    model.insert(2, Waiting())
    made: list[torch.Tensor] = []
    with torch.no_grad(), open_session(2 * BLOCK) as session:
        expected = model(X)
        session.manage(model)

        def run() -> None:
            with torch.no_grad(), session.route():
                made.append(model(X))

        thread = threading.Thread(target=run)
        thread.start()
        between.wait(20)
        model[0].weight.data = model[0].weight + 1
        other = model(X)
        session.report()
        assert session._torch.passes.modules[0].nbytes < live_bytes(
            model
        )  # it is where it was made
        go_on.set()
        thread.join()
        assert torch.equal(made[0], expected)
        assert torch.equal(other, model(X))
        assert session._torch.passes.modules[0].nbytes == live_bytes(model)
