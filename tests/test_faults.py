"""Whatever fails: a typed error, nothing changed, and the next operation works."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vramx
from vramx import Advice
from vramx._core import Core, Memory, Operation, Purpose, SimulatedDevice

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
OpenCore = Callable[..., tuple[Core, SimulatedDevice]]
Linears = Callable[..., nn.Sequential]

TYPES = {
    Operation.RESERVE: vramx.OutOfMemoryError,
    Operation.FETCH: vramx.DeviceError,
    Operation.EVICT: vramx.DeviceError,
    Operation.MAP_HOST: vramx.DeviceError,
}


class Normed(nn.Module):
    """Five weights of a block each, and buffers."""

    def __init__(self, linears: Linears) -> None:
        super().__init__()
        self.body = linears(5)
        self.norm = nn.BatchNorm1d(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(x))


@dataclass
class Scene:
    """A session in the middle of its work, with clean, written and freed memory in it."""

    session: vramx.Session
    model: nn.Module
    plain: nn.Module
    x: torch.Tensor
    kept: torch.Tensor
    made: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, session: vramx.Session, linears: Linears, managed: bool) -> Scene:
        model, plain = Normed(linears).eval(), Normed(linears).eval()
        x = torch.linspace(-1, 1, 384).view(3, 128)
        kept = session.empty((BLOCK // 4,)).copy_(torch.arange(BLOCK // 4))
        if managed:
            session.manage(model)
            model(x)
            with torch.no_grad():
                for each in (model, plain):
                    each.body[1].weight.add_(0.25)
                    each.body[4].weight.mul_(2.0)
                    each.norm.running_mean.add_(0.5)
            session.prefetch([kept, model.body[1], model.body[4], model.norm])
        return cls(session, model, plain, x, kept)

    def assert_sound(self) -> None:
        """Nothing is leased, every byte is counted, and the budget holds."""
        stats, device = self.session.stats(), self.session.device
        assert stats.leased == 0
        assert stats.resident == device.on_card <= stats.budget
        assert device.peak_on_card <= 4 * BLOCK
        assert stats.moved_out == device.moved_out

    def assert_right(self) -> None:
        assert torch.equal(self.model(self.x), self.plain(self.x))
        assert torch.equal(self.kept.clone(), torch.arange(BLOCK // 4).float())
        self.assert_sound()


def manage(scene: Scene) -> None:
    scene.session.manage(scene.model)


def run(scene: Scene) -> None:
    assert torch.equal(scene.model(scene.x), scene.plain(scene.x))


def run_what_does_not_fit(scene: Scene) -> None:
    previous = scene.session.set_budget(BLOCK)
    try:
        with scene.session.pin(scene.kept):
            run(scene)
    finally:
        scene.session.set_budget(previous)


def touch(scene: Scene) -> None:
    with torch.no_grad():
        for each in scene.model.body:
            each.weight.sum()


def evict(scene: Scene) -> None:
    scene.session.prefetch([scene.kept, scene.model])
    scene.session.evict([scene.kept, scene.model])


def allocate(scene: Scene) -> None:
    made = scene.session.empty((9 * BLOCK // 4,))
    scene.made = [made[:100].fill_(3.0)]


def allocate_little(scene: Scene) -> None:
    scene.made.append(scene.session.empty((3 * BLOCK // 4,)).fill_(3.0))


def set_budget(scene: Scene) -> None:
    assert scene.session.set_budget(BLOCK) == 4 * BLOCK
    assert scene.session.set_budget(4 * BLOCK) == BLOCK


def unmanage(scene: Scene) -> None:
    scene.session.unmanage(scene.model)


def pin(scene: Scene) -> None:
    with scene.session.pin(scene.model):
        pass


def prefetch(scene: Scene) -> None:
    scene.session.prefetch(scene.model.body[0])
    scene.session.prefetch(scene.model.body)


def prefer_host(scene: Scene) -> None:
    scene.session.advise(scene.model, Advice.PREFERRED_HOST)


def unset_read_mostly(scene: Scene) -> None:
    scene.session.advise(scene.model, Advice.UNSET_READ_MOSTLY)


def map_for_card(scene: Scene) -> None:
    scene.session.advise(scene.model, Advice.ACCESSED_BY)


def load(scene: Scene) -> None:
    scene.model.load_state_dict({n: t.clone() for n, t in scene.plain.state_dict().items()})


def close(scene: Scene) -> None:
    scene.session.close()


FAULTS = [
    (manage, Operation.RESERVE, 2),
    (run, Operation.FETCH, 3),
    (run, Operation.EVICT, 3),
    (run_what_does_not_fit, Operation.EVICT, 2),
    (run_what_does_not_fit, Operation.MAP_HOST, 5),
    (touch, Operation.FETCH, 2),
    (touch, Operation.EVICT, 2),
    (evict, Operation.EVICT, 4),
    (allocate_little, Operation.FETCH, 1),
    (allocate_little, Operation.EVICT, 2),
    (set_budget, Operation.EVICT, 3),
    (unmanage, Operation.EVICT, 3),
    (pin, Operation.FETCH, 1),
    (pin, Operation.EVICT, 1),
    (pin, Operation.MAP_HOST, 2),
    (prefetch, Operation.FETCH, 2),
    (prefetch, Operation.EVICT, 2),
    (prefer_host, Operation.EVICT, 3),
    (unset_read_mostly, Operation.EVICT, 3),
    (map_for_card, Operation.MAP_HOST, 3),
    (load, Operation.EVICT, 3),
    (close, Operation.EVICT, 3),
]


@pytest.mark.parametrize(
    ("act", "operation", "nth"),
    [(act, operation, n + 1) for act, operation, most in FAULTS for n in range(most)],
    ids=lambda each: getattr(each, "__name__", None) or getattr(each, "name", str(each)),
)
def test_a_fault_gives_a_typed_error_and_the_same_works_afterwards(
    open_session: OpenSession,
    linears: Linears,
    act: Callable[[Scene], None],
    operation: Operation,
    nth: int,
) -> None:
    # Only memory of one address faults when an operation touches it.
    memory = "managed" if act is touch else "mapped"
    with torch.no_grad(), open_session(4 * BLOCK, policy="lru", memory=memory) as session:
        scene = Scene.of(session, linears, managed=act is not manage)
        device = session.device
        parameters = dict(scene.model.named_parameters())
        device.fail(operation, nth)
        with pytest.raises(TYPES[operation], match="injected failure"):
            act(scene)
        device.fail(operation, 0)
        gc.collect()
        scene.assert_sound()
        if act in (manage, unmanage, close):
            # Nothing changed: what was managed is, and what was not is not.
            assert (session.stats().managed > 8 * BLOCK) is (act is not manage)
            assert dict(scene.model.named_parameters()) == parameters
        act(scene)
        if act is not close:
            scene.assert_right()
            for other in (run, evict, set_budget):
                if act is unmanage and other is evict:
                    continue
                other(scene)
                scene.assert_right()
    state, expected = scene.model.state_dict(), scene.plain.state_dict()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    assert torch.equal(scene.kept, torch.arange(BLOCK // 4).float())
    for made in scene.made:
        assert (made == 3.0).all()


@pytest.mark.parametrize("operation", [Operation.FETCH, Operation.EVICT])
@pytest.mark.parametrize("policy", ["adaptive", "lru", "mru", "clairvoyant"])
@pytest.mark.parametrize("nth", range(1, 13))
def test_a_pass_that_meets_a_fault_fails_typed_or_is_right(
    open_session: OpenSession, linears: Linears, policy: str, operation: Operation, nth: int
) -> None:
    """What is only brought ahead may fail without anybody noticing."""
    with torch.no_grad(), open_session(4 * BLOCK, policy=policy) as session:
        scene = Scene.of(session, linears, managed=True)
        session.device.fail(operation, nth)
        for _ in range(3):
            try:
                run(scene)
            except vramx.DeviceError as error:
                assert "injected failure" in str(error)
            scene.assert_sound()
        session.device.fail(operation, 0)
        failed = session.stats().failed_moves
        assert failed > 0
        scene.assert_right()
        assert session.stats().failed_moves == failed


@pytest.mark.parametrize("nth", [1, 2])
def test_managing_that_fails_leaves_the_module_as_it_was(
    open_session: OpenSession, linears: Linears, nth: int
) -> None:
    model, plain = Normed(linears).eval(), Normed(linears).eval()
    parameters = dict(model.named_parameters())
    attributes = [{**each.__dict__} for each in model.modules()]
    with open_session() as session:
        session.device.fail(Operation.RESERVE, nth)
        with pytest.raises(vramx.OutOfMemoryError):
            session.manage(model)
        gc.collect()
        assert session.stats() == vramx.Stats(budget=4 * BLOCK)
        named = dict(model.named_parameters())
        assert all(named[name] is parameters[name] for name in parameters)
        assert [each.__dict__ for each in model.modules()] == attributes
        assert torch.equal(model(torch.ones(2, 128)), plain(torch.ones(2, 128)))
        assert session.stats().passes == 0
        session.manage(model)
        assert torch.equal(model(torch.ones(2, 128)), plain(torch.ones(2, 128)))
    state = model.state_dict()
    assert [n for n, t in plain.state_dict().items() if not torch.equal(state[n], t)] == []


def test_an_allocation_is_tried_again_with_less_when_memory_is_short(
    open_session: OpenSession,
) -> None:
    with open_session(4 * BLOCK, host_limit=9 * BLOCK) as session:
        small = session.empty((4,))  # an arena of eight blocks
        session.device.fail(Operation.RESERVE, 1)
        more = session.empty((8 * BLOCK // 4 - 128,))
        assert session.stats().managed == 8 * BLOCK
        with pytest.raises(vramx.OutOfMemoryError, match="host_limit") as raised:
            session.empty((2 * BLOCK // 4,))
        assert raised.value.asked == 2 * BLOCK
        last = session.empty((BLOCK // 4,))  # there is room for just that
        assert session.stats().managed == 9 * BLOCK
        del small, more, last
        assert session.empty((9 * BLOCK // 4,)).numel() > 0  # what nothing lives in is given back
        assert session.stats().managed == 9 * BLOCK


def test_host_memory_that_runs_out_gives_an_error_with_its_figures(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(4 * BLOCK, host_memory=6 * BLOCK) as session:
        model = session.manage(linears(4))
        with pytest.raises(vramx.OutOfMemoryError, match=r"128\.00 KiB left of 384\.00 KiB"):
            session.manage(linears(3))
        assert session.stats().managed == 4 * BLOCK
        session.manage(linears(2))
        assert torch.equal(model(torch.ones(1, 128)), linears(4)(torch.ones(1, 128)))


# A core alone


def span(*memories: Memory) -> list[tuple[int, int]]:
    return [(memory.address, memory.nbytes) for memory in memories]


def use(core: Core, *memories: Memory) -> None:
    core.take(span(*memories), 0, True)
    core.give(span(*memories), 0, True)


@pytest.mark.parametrize("operation", [Operation.FETCH, Operation.EVICT])
@pytest.mark.parametrize("nth", range(1, 6))
@pytest.mark.parametrize("threaded", [False, True], ids=["no mover thread", "a mover thread"])
def test_the_budget_holds_through_every_fault(
    open_core: OpenCore, threaded: bool, nth: int, operation: Operation
) -> None:
    """Blocks of all sizes, so that room made by one is taken by others."""
    core, device = open_core(4 * BLOCK, threaded=threaded)
    sizes = [BLOCK, 4096, BLOCK, 4096, 3 * 4096, BLOCK, 2 * BLOCK, 4096, BLOCK]
    memories = [core.reserve([size], Purpose.WEIGHTS)[0] for size in sizes]
    for memory in memories[5:]:
        use(core, memory)
    device.fail(operation, nth)
    for group in ([1, 3, 4], [0, 1], [2, 3, 7], [6, 4], [8, 0, 1, 3]):
        try:
            use(core, *(memories[each] for each in group))
        except vramx.DeviceError as error:
            assert "injected failure" in str(error)
        assert device.peak_on_card <= 4 * BLOCK
        assert core.stats().leased == 0
    device.fail(operation, 0)
    for memory in memories:
        use(core, memory)
    core.evict(span(*memories))
    assert core.stats().resident == device.on_card == 0
    assert core.stats().failed_moves > 0


def test_small_blocks_do_not_take_the_room_that_a_large_one_did_not_leave(
    open_core: OpenCore,
) -> None:
    """They are too many for one job, and the later jobs have nothing to take off the card."""
    core, device = open_core(BLOCK)
    (large,) = core.reserve([BLOCK], Purpose.WEIGHTS)
    small = [core.reserve([4096], Purpose.WEIGHTS)[0] for _ in range(12)]
    use(core, large)
    device.fail(Operation.EVICT, 1)
    with pytest.raises(vramx.DeviceError):
        use(core, *small)
    assert device.peak_on_card == BLOCK
    assert device.on_card == core.stats().resident <= BLOCK
    use(core, *small)
    assert device.on_card == core.stats().resident == 12 * 4096
    assert device.peak_on_card == BLOCK


def test_a_failure_is_reported_once(open_core: OpenCore) -> None:
    core, device = open_core(2 * BLOCK)
    first, second, third = core.reserve([BLOCK] * 3, Purpose.WEIGHTS)
    device.fail(Operation.FETCH, 1)
    with pytest.raises(vramx.DeviceError):
        use(core, first)
    core.take(span(second, third), 0, False)
    core.prefetch(span(first))  # there is no room, which is no error
    device.fail(Operation.EVICT, 1)
    core.give(span(second, third), 0, False)
    with pytest.raises(vramx.DeviceError):
        core.evict(span(second))
    core.evict(span(second, third))
    core.take(span(first), 0, False)
    core.advise(span(second), vramx._core.Advice.PREFERRED_HOST)
    core.prefetch(span(second))
    core.give(span(first), 0, False)


def test_what_failed_to_come_ahead_is_brought_when_it_is_used(open_core: OpenCore) -> None:
    core, device = open_core(4 * BLOCK, threaded=True)
    (memory,) = core.reserve([BLOCK], Purpose.WEIGHTS)
    source = np.full(BLOCK, 9, np.uint8)
    core.store([(memory.address, source.ctypes.data, BLOCK)])
    device.fail(Operation.FETCH, 1)
    device.hold()
    core.prefetch(span(memory))
    device.let_go()
    try:
        use(core, memory)  # it may have waited for the move that failed
    except vramx.DeviceError as error:
        assert "injected failure" in str(error)
    core.take(span(memory), 0, True)
    assert (np.asarray(memory) == 9).all()
    core.give(span(memory), 0, True)
    assert core.stats().failed_moves == 1


def test_a_failing_write_back_loses_nothing(open_core: OpenCore) -> None:
    core, device = open_core(BLOCK)
    first, second = core.reserve([BLOCK] * 2, Purpose.SCRATCH)
    views: Any = [np.asarray(each) for each in (first, second)]
    for place, memory in enumerate((first, second)):
        core.take(span(memory), 0, True)
        views[place][:] = place + 1
        core.give(span(memory), 0, True)
    for nth in (1, 1, 1):
        device.fail(Operation.EVICT, nth)
        with pytest.raises(vramx.DeviceError):
            use(core, first)
        core.take(span(second), 0, True)
        assert (views[1] == 2).all()
        core.give(span(second), 0, True)
    core.take(span(first), 0, True)
    assert (views[0] == 1).all()
    core.give(span(first), 0, True)
