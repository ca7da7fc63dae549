"""What outlives what: tensors, scopes, modules, sessions and exceptions."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vramx
from vramx import _core

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
OpenCore = Callable[..., tuple[_core.Core, _core.SimulatedDevice]]
Linears = Callable[..., nn.Sequential]


class Model(nn.Module):
    """With all that must be left alone: a tied weight, a buffer, hooks, a frozen parameter."""

    def __init__(self, linears: Linears) -> None:
        super().__init__()
        self.body = linears(3)
        self.head = nn.Linear(128, 128, bias=False)
        self.head.weight = self.body[0].weight
        self.body[1].weight.requires_grad_(False)
        self.register_buffer("scale", torch.full((128,), 2.0))
        self.called = 0
        self.body[2].register_forward_hook(self.count)

    def count(self, *_: Any) -> None:
        self.called += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)) * self.scale


# Tensors


@pytest.mark.parametrize("where", ["on the card", "on the host", "on the host, mapped"])
def test_tensors_outlive_the_scope_with_their_bytes(open_session: OpenSession, where: str) -> None:
    with open_session(4 * BLOCK) as session:
        x = session.empty((100, 3)).copy_(torch.arange(300).view(100, 3))
        y = session.empty((7,), np.int64)
        with session.pin(y):
            y[:] = range(7)
        part = x[10:20]
        if where != "on the card":
            session.evict([x, y])
        if where == "on the host, mapped":
            session.advise([x, y], vramx.Advice.ACCESSED_BY)
    assert torch.equal(x, torch.arange(300).float().view(100, 3))
    assert (y == range(7)).all()
    del session
    gc.collect()
    x += 1
    y += 1
    assert torch.equal(part, torch.arange(31, 61).float().view(10, 3))
    assert (y == range(1, 8)).all()


def test_what_a_module_gave_outlives_it(open_session: OpenSession, linears: Linears) -> None:
    model, x = linears(4), torch.randn(2, 128)
    expected = model(x)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    with open_session(2 * BLOCK) as session:
        session.manage(model)
        output, taken = model(x), model.state_dict()
    del model, session
    gc.collect()
    assert torch.equal(output, expected)
    assert [name for name in state if not torch.equal(taken[name], state[name])] == []


def test_memory_is_given_back_when_its_last_tensor_goes(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(4 * BLOCK) as session:
        model = session.manage(linears(6))
        model(torch.ones(1, 128))
        kept = model[3].weight.detach()
        assert session.stats().managed == 6 * BLOCK
        session.unmanage(model)
        gc.collect()
        assert session.stats().managed == 6 * BLOCK
        assert torch.equal(kept, model[3].weight)
        del kept
        gc.collect()
        assert session.stats().managed == session.stats().resident == session.device.on_card == 0


def test_memory_is_given_back_without_unmanaging_when_the_session_ends(
    open_session: OpenSession, linears: Linears
) -> None:
    session = open_session(4 * BLOCK)
    with session:
        session.manage(Model(linears))
        x = session.empty((4,))
    gc.collect()
    session._core.trim()
    assert session.stats().managed == 8 * BLOCK  # the arena that x lies in
    del x
    session._core.trim()
    assert session.stats().managed == session.device.on_card == 0


def test_a_closed_session_is_let_go(open_session: OpenSession, linears: Linears) -> None:
    session = open_session(4 * BLOCK)
    with session:
        model = session.manage(linears(4))
        model(torch.ones(1, 128))
    dead = [weakref.ref(session), weakref.ref(session._torch_bridge)]
    del session
    gc.collect()
    assert [each() for each in dead] == [None, None]


# Modules


def test_modules_go_back_as_they_came(open_session: OpenSession, linears: Linears) -> None:
    model, plain, x = Model(linears), Model(linears), torch.randn(2, 128)
    expected = plain(x)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers())
    before = {each: {**each.__dict__} for each in model.modules()}
    state = [*model.state_dict()]
    model.body[0].weight.grad = torch.ones(128, 128)
    with open_session(2 * BLOCK) as session:
        assert session.manage(model, name="it") is model
        assert torch.equal(model(x), expected)
        assert [*model.state_dict()] == state
        named = dict(model.named_parameters(remove_duplicate=False))
        assert all(named[name] is parameters[name] for name in parameters)
        assert torch.equal(model.head.weight.grad, torch.ones(128, 128))
        model.train(), model.eval()
        assert session.unmanage(model) is model
        assert torch.equal(model(x), expected)
    named = dict(model.named_parameters(remove_duplicate=False))
    assert list(named) == list(parameters)
    assert all(named[name] is parameters[name] for name in parameters)
    assert dict(model.named_buffers())["scale"] is buffers["scale"]
    assert model.head.weight is model.body[0].weight
    assert not model.body[1].weight.requires_grad
    assert torch.equal(model.head.weight.grad, torch.ones(128, 128))
    assert {
        n: torch.equal(t, plain.state_dict()[n]) for n, t in model.state_dict().items()
    } == dict.fromkeys(state, True)
    assert model.called == 2
    for each in model.modules():
        assert set(each.__dict__) == set(before[each])
        assert len(each._load_state_dict_pre_hooks) == 0
    assert torch.equal(model(x), expected)


def test_the_same_module_is_managed_again_and_again(
    open_session: OpenSession, linears: Linears
) -> None:
    model, x = Model(linears), torch.randn(2, 128)
    expected = model(x)
    with open_session(2 * BLOCK) as session:
        for _ in range(3):
            session.manage(model)
            assert torch.equal(model(x), expected)
            session.unmanage(model)
            gc.collect()
            assert session.stats().managed == 0
    with open_session(2 * BLOCK) as session:
        session.manage(model)
        assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)


def test_parts_are_unmanaged_in_any_order(open_session: OpenSession, linears: Linears) -> None:
    models, x = [linears(2, seed=seed) for seed in range(4)], torch.randn(2, 128)
    expected = [model(x) for model in models]
    with open_session(2 * BLOCK) as session:
        for model in models:
            session.manage(model)
        for place in (2, 0, 3, 1):
            session.unmanage(models[place])
            assert [torch.equal(m(x), e) for m, e in zip(models, expected)] == [True] * 4
        gc.collect()
        assert session.stats().managed == 0


def test_a_session_manages_what_it_has_charge_of_until_it_is_closed(
    open_session: OpenSession, linears: Linears
) -> None:
    mine, others, nobodys = linears(2), linears(1), linears(1)
    with open_session(2 * BLOCK) as outer, open_session(2 * BLOCK) as session:
        assert not session.manages(mine)
        outer.manage(others), session.manage(mine)
        assert all(map(session.manages, (mine, mine[1])))
        assert not any(map(session.manages, (others, nobodys)))
        session.unmanage(mine)
        assert not session.manages(mine)
        session.manage(mine)
        assert not session.closed
    assert session.closed
    assert not session.manages(mine)


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, through_pickle, through_torch_save], ids=lambda each: each.__name__
)
@pytest.mark.parametrize("part", [False, True], ids=["the whole", "a part"])
def test_a_copy_of_a_managed_module_is_unmanaged_and_equal(
    open_session: OpenSession,
    linears: Linears,
    copied: Callable[[nn.Module], nn.Module],
    part: bool,
) -> None:
    model, x = linears(4), torch.randn(2, 128)
    one = model[1:3] if part else model
    expected = one(x)
    with open_session(BLOCK) as session:
        session.manage(model)
        model(x)
        # Pickling reads past torch, which on the simulated card takes a pin.
        with session.pin(model):
            made = copied(one)
        before = session.stats()
        assert torch.equal(made(x), expected)
        assert session.stats() == before  # the copy is none of the session's business
        made.load_state_dict(made.state_dict())
        made[0].weight.detach().zero_()
        assert torch.equal(one(x), expected)
    made = copied(one)
    assert torch.equal(made(x), expected)
    with open_session(BLOCK) as session:
        session.manage(made)
        assert torch.equal(made(x), expected)


def test_a_managed_module_is_deep_copied_while_it_is_on_the_host(
    open_session: OpenSession, linears: Linears
) -> None:
    model, x = linears(4), torch.randn(2, 128)
    expected = model(x)
    with open_session(BLOCK) as session:
        session.manage(model)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert session.stats().leased == 0


def test_a_state_dict_saved_from_a_managed_module_is_the_module_s(
    open_session: OpenSession, linears: Linears
) -> None:
    model, plain, file = linears(4), linears(4), io.BytesIO()
    with open_session(BLOCK) as session:
        session.manage(model)
        with session.pin(model):
            torch.save(model.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    assert [n for n, t in plain.state_dict().items() if not torch.equal(saved[n], t)] == []


# Scopes


def test_scopes_nest_and_the_innermost_is_acted_on(
    open_session: OpenSession, linears: Linears
) -> None:
    first, second = linears(3), linears(3, seed=1)
    x = torch.randn(2, 128)
    expected = [first(x), second(x)]
    with open_session(BLOCK) as outer:
        outer.manage(first)
        assert vramx.current_session() is outer
        with open_session(2 * BLOCK) as inner:
            assert vramx.current_session() is inner
            inner.manage(second)
            assert vramx.stats().budget == 2 * BLOCK
            assert torch.equal(second(first(x)), second(expected[0]))
            with outer:
                assert torch.equal(first(x), expected[0])
            assert torch.equal(first(x), expected[0])
        assert vramx.current_session() is outer
        assert torch.equal(first(x), expected[0])
        assert torch.equal(second(x), expected[1])
    with pytest.raises(vramx.Error, match=r"oversubscribe\(\)"):
        vramx.current_session()


def test_an_exception_in_a_scope_closes_it_and_puts_modules_back(
    open_session: OpenSession, linears: Linears
) -> None:
    model, x = linears(4), torch.randn(2, 128)
    expected = model(x)
    with (
        pytest.raises(ZeroDivisionError),
        open_session(4 * BLOCK) as outer,
        open_session(BLOCK) as session,
        outer.pin(outer.empty(4)),
    ):
        session.manage(model)
        with session.pin(model[0]):
            model(x)
            raise ZeroDivisionError
    for each in (session, outer):
        assert each.stats().leased == 0
        with pytest.raises(vramx.SessionClosedError):
            each.empty(1)
    assert torch.equal(model(x), expected)


def test_an_exception_in_forward_leaves_the_session_usable_and_nothing_leased(
    open_session: OpenSession, linears: Linears
) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(128, 128))
            self.fails = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.fails:
                raise ZeroDivisionError
            return x @ self.weight

    failing = Failing()
    model, x = nn.Sequential(linears(2), failing, linears(2)), torch.randn(2, 128)
    with open_session(2 * BLOCK) as session:
        session.manage(model)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                model(x)
            assert session.stats().leased == 0
        assert session.stats().passes == 0
        failing.fails = False
        output = model(x)
        assert session.stats().passes == 1
        session.evict(model)
        assert session.device.on_card == 0
    assert torch.equal(output, model(x))


def test_closing_twice_is_fine(open_session: OpenSession, linears: Linears) -> None:
    model = linears(2)
    session = open_session(2 * BLOCK)
    with session:
        session.manage(model)
        session.close()
        session.close()
    session.close()
    assert session.stats().leased == 0
    never_entered = open_session(2 * BLOCK)
    never_entered.close()
    never_entered.close()


def test_closing_while_a_module_runs_is_refused_and_the_session_stays_open(
    open_session: OpenSession, linears: Linears
) -> None:
    class Closing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linears(1)
            self.weight = nn.Parameter(torch.ones(128))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for act in (session.close, lambda: session.unmanage(self)):
                with pytest.raises(vramx.InUseError, match=r"running|pinned"):
                    act()
            return self.inner(x) * self.weight

    model, x = Closing(), torch.randn(2, 128)
    with open_session(4 * BLOCK) as session:
        session.manage(model)
        output = model(x)
        assert vramx.current_session() is session
        session.evict(model)
    assert torch.equal(output, model.inner(x))


def test_a_pin_keeps_the_session_from_closing_or_ends_quietly_after_it(
    open_session: OpenSession, linears: Linears
) -> None:
    session = open_session(4 * BLOCK)
    model = linears(2)
    session.manage(model)
    for held in (model, session.empty((4,))):
        with session.pin(held):
            try:
                session.close()
            except vramx.InUseError:
                assert session.stats().leased > 0
    session.close()
    assert session.stats().leased == 0


def test_keep_lets_a_session_outlive_its_scope(open_session: OpenSession, linears: Linears) -> None:
    model, x = linears(4), torch.randn(2, 128)
    expected = model(x)
    with open_session(2 * BLOCK) as session:
        session.keep()
        session.manage(model)
    assert vramx.current_session() is session
    assert torch.equal(model(x), expected)
    assert session.stats().passes == 1
    assert session.stats().resident > 0
    with session:
        assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)
    assert session.stats().passes == 3
    session.close()
    assert torch.equal(model(x), expected)
    assert session.stats().passes == 3


def test_a_session_needs_no_scope(open_session: OpenSession, linears: Linears) -> None:
    model, x = linears(4), torch.randn(2, 128)
    expected = model(x)
    session = open_session(2 * BLOCK)
    session.manage(model)
    assert torch.equal(model(x), expected)
    session.close()
    assert torch.equal(model(x), expected)


USES: dict[str, Callable[[vramx.Session, nn.Module], object]] = {
    "enter": lambda session, _: session.__enter__(),
    "manage": lambda session, _: session.manage(nn.Linear(2, 2)),
    "unmanage": lambda session, model: session.unmanage(model),
    "empty": lambda session, _: session.empty(4),
    "prefetch": lambda session, model: session.prefetch(model),
    "evict": lambda session, model: session.evict(model),
    "evict nothing": lambda session, _: session.evict([]),
    "pin": lambda session, model: session.pin(model).__enter__(),
    "advise": lambda session, model: session.advise(model, vramx.Advice.READ_MOSTLY),
    "written": lambda session, model: session.written(model),
    "set_budget": lambda session, _: session.set_budget("1MiB"),
    "route": lambda session, _: session.route().__enter__(),
}


@pytest.mark.parametrize("use", USES)
def test_use_after_close_is_refused(open_session: OpenSession, linears: Linears, use: str) -> None:
    session, model = open_session(2 * BLOCK), linears(1)
    session.manage(model)
    session.close()
    before = session.stats()
    with pytest.raises(vramx.SessionClosedError, match=r"closed.*oversubscribe\(\)"):
        USES[use](session, model)
    assert session.stats() == before
    assert "budget" in session.report()


# A core alone


def test_memory_that_a_lease_held_when_it_was_freed_is_given_back_later(
    open_core: OpenCore,
) -> None:
    core, device = open_core()
    memory = core.empty(1, 0)
    group = core.define([(memory.address, memory.nbytes)])
    core.acquire(group, 0)
    del memory
    core.trim()
    assert core.stats().managed > 0
    core.release(group, 0)
    core.trim()
    assert (core.stats().managed, device.on_card) == (0, 0)


def test_a_core_s_memory_is_all_given_back(open_core: OpenCore) -> None:
    core, device = open_core(4 * BLOCK)
    memories = core.reserve([1000, BLOCK, 3 * BLOCK], _core.Purpose.WEIGHTS)
    memories += core.reserve([5], _core.Purpose.SCRATCH)
    memories.append(core.empty(5 * BLOCK, 0))
    core.prefetch([(each.address, each.nbytes) for each in memories])
    assert core.stats().resident == device.on_card > 0
    while memories:
        memories.pop(0)
        gc.collect()
        assert core.stats().resident == device.on_card
    core.trim()
    assert core.stats().managed == core.stats().resident == device.on_card == 0
    assert device.free_bytes == device.capacity


def test_memory_outlives_its_core_s_last_name(open_core: OpenCore) -> None:
    core, device = open_core(4 * BLOCK)
    (memory,) = core.reserve([BLOCK], _core.Purpose.SCRATCH)
    view = np.asarray(memory)
    ranges = [(memory.address, memory.nbytes)]
    core.take(ranges, 0, False)
    view[:] = 7
    core.give(ranges, 0, False)
    core.close()
    core.close()
    del core, memory
    gc.collect()
    assert (view == 7).all()
    del view
    gc.collect()
    assert device.on_card == 0
