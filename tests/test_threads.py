"""Threads and signals: what several threads do at once, and what an interrupt leaves behind.

Races are forced with gates: a card that holds its moves, events, and counters that say where
another thread has come to.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

import vramx
from vramx import _core
from vramx.integrations.torch.bridge import in_a_session
from vramx.integrations.torch.units import is_leased_with_parts

BLOCK = 64 * 2**10
LONG = 30.0  # seconds after which something is known to hang
OpenSession = Callable[..., vramx.Session]
OpenCore = Callable[..., tuple[_core.Core, _core.SimulatedDevice]]
Linears = Callable[..., nn.Sequential]


class Thread:
    """Work on a thread of its own, that cannot hang the tests."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def result(self, seconds: float = LONG) -> Any:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error
        return self._result


def wait_until(condition: Callable[[], bool]) -> None:
    """Let other threads run until they have come somewhere."""
    timer = threading.Event()
    alarm = threading.Timer(LONG, timer.set)
    alarm.daemon = True
    alarm.start()
    while not condition():
        assert not timer.is_set(), "it never comes there"
    alarm.cancel()


@contextlib.contextmanager
def interrupt(when: Callable[[], bool], then: Callable[[], object]) -> Iterator[None]:
    """Send this process SIGINT, once, when a condition holds, and see that it ends what goes on.

    `then` is called after that, on the thread that sent it.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if when():
                signal.raise_signal(signal.SIGINT)
                break
        then()

    # A shell that starts a run in the background has it ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            watcher = Thread(watch)
            try:
                yield
            finally:
                over.set()
                watcher.result()
    finally:
        signal.signal(signal.SIGINT, before)


def span(*memories: _core.Memory) -> list[tuple[int, int]]:
    return [(memory.address, memory.nbytes) for memory in memories]


def filled(core: _core.Core, count: int, size: int = BLOCK) -> list[_core.Memory]:
    """Weights of a block each, the n-th full of n + 1."""
    memories = core.reserve([size] * count, _core.Purpose.WEIGHTS)
    sources = [np.full(size, place + 1, np.uint8) for place in range(count)]
    core.store([(m.address, source.ctypes.data, size) for m, source in zip(memories, sources)])
    return memories


def assert_holds(core: _core.Core, memory: _core.Memory, value: int) -> None:
    core.take(span(memory), 0, True)
    try:
        assert (np.asarray(memory) == value).all()
    finally:
        core.give(span(memory), 0, True)


# Models


@pytest.mark.parametrize("reads_over_link", [True, False])
@pytest.mark.parametrize("routed", [False, True], ids=["threads alone", "threads in the session"])
@pytest.mark.parametrize("shared", [False, True], ids=["a model each", "one model for all"])
def test_threads_compute_as_alone_under_a_tight_budget(
    open_session: OpenSession, linears: Linears, shared: bool, routed: bool, reads_over_link: bool
) -> None:
    count, rounds, x = 4, 12, torch.randn(2, 128)
    models = [linears(3, seed=0 if shared else seed) for seed in range(count)]
    expected = [model(x) for model in models]
    together = threading.Barrier(count)
    with open_session(2 * BLOCK, reads_over_link=reads_over_link) as session:
        for model in models[:1] if shared else models:
            session.manage(model)

        def work(model: nn.Module, right: torch.Tensor) -> int:
            with torch.no_grad(), session.route() if routed else contextlib.nullcontext():
                together.wait(LONG)
                return sum(torch.equal(model(x), right) for _ in range(rounds))

        threads = [
            Thread(lambda m=models[0] if shared else model, r=right: work(m, r))
            for model, right in zip(models, expected)
        ]
        assert [each.result() for each in threads] == [rounds] * count
        stats = session.stats()
        assert stats.leased == 0
        assert stats.passes == count * rounds
        assert stats.resident == session.device.on_card
        assert session.device.peak_on_card <= 2 * BLOCK
        if not reads_over_link:
            assert stats.over_link == 0


@pytest.mark.parametrize("policy", ["adaptive", "mru", "clairvoyant"])
def test_threads_and_the_main_thread_move_things_under_each_other(
    open_session: OpenSession, linears: Linears, policy: str
) -> None:
    models, x = [linears(4, seed=seed) for seed in range(3)], torch.randn(2, 128)
    expected = [model(x) for model in models]
    over = threading.Event()
    with open_session(3 * BLOCK, policy=policy) as session:
        for model in models:
            session.manage(model)

        def work(model: nn.Module, right: torch.Tensor) -> bool:
            with torch.no_grad():
                return all(torch.equal(model(x), right) for _ in range(15))

        def disturb() -> None:
            turn = 0
            while not over.is_set():
                turn += 1
                with contextlib.suppress(vramx.InUseError, vramx.OutOfMemoryError):
                    session.evict(models[turn % 3])
                with contextlib.suppress(vramx.OutOfMemoryError):
                    session.set_budget((1 + turn % 3) * BLOCK)
                session.prefetch(models[turn % 2])
                with session.pin(models[2][turn % 4]):
                    pass

        disturber = Thread(disturb)
        threads = [Thread(lambda m=m, r=r: work(m, r)) for m, r in zip(models, expected)]
        try:
            assert [each.result() for each in threads] == [True] * 3
        finally:
            over.set()
            disturber.result()
        assert session.stats().leased == 0
        assert session.device.peak_on_card <= 3 * BLOCK


# Gates


def test_prefetch_returns_while_the_move_goes_on_and_counts_what_arrives(
    open_core: OpenCore,
) -> None:
    core, device = open_core(2 * BLOCK, threaded=True)
    memories = filled(core, 3)
    device.hold()
    core.prefetch(span(*memories))
    assert core.stats().resident == 2 * BLOCK
    assert device.on_card == 0
    device.let_go()
    assert_holds(core, memories[2], 3)
    assert device.peak_on_card == core.stats().peak_resident == 2 * BLOCK


def test_what_two_threads_want_is_brought_once(open_core: OpenCore) -> None:
    core, device = open_core(2 * BLOCK, threaded=True)
    (memory,) = filled(core, 1)
    device.hold()
    threads = [Thread(lambda: assert_holds(core, memory, 1)) for _ in range(3)]
    wait_until(lambda: core.stats().hits == 2)
    device.let_go()
    for each in threads:
        each.result()
    assert device.moved_in == BLOCK
    assert core.stats().misses == 1


def test_what_arrives_is_evicted_only_when_it_has_come(open_core: OpenCore) -> None:
    core, device = open_core(2 * BLOCK, threaded=True)
    (memory,) = filled(core, 1)
    device.hold()
    core.prefetch(span(memory))
    evicting = Thread(lambda: core.evict(span(memory)))
    wait_until(lambda: core.stats().stall_seconds > 0)
    assert core.stats().evictions == 0
    device.let_go()
    evicting.result()
    assert device.on_card == core.stats().resident == 0
    assert core.stats().dropped == BLOCK


def test_a_thread_waits_for_the_room_that_another_holds(open_core: OpenCore) -> None:
    core, device = open_core(BLOCK, reads_over_link=False)
    first, second = filled(core, 2)
    core.take(span(first), 0, True)
    other = Thread(lambda: assert_holds(core, second, 2))
    wait_until(lambda: core.stats().stall_seconds > 0)
    assert device.on_card == BLOCK
    core.give(span(first), 0, True)
    other.result()
    assert device.peak_on_card == BLOCK


def test_two_threads_that_hold_and_want_more_do_not_wait_for_each_other(
    open_core: OpenCore,
) -> None:
    core, device = open_core(2 * BLOCK, host_addresses=False)
    memories = filled(core, 4)
    together = threading.Barrier(2)

    def work(holds: int, wants: int) -> None:
        core.take(span(memories[holds]), 0, True)
        together.wait(LONG)
        assert_holds(core, memories[wants], wants + 1)
        together.wait(LONG)
        core.give(span(memories[holds]), 0, True)

    threads = [Thread(lambda: work(0, 2)), Thread(lambda: work(1, 3))]
    for each in threads:
        each.result()
    assert core.stats().over_link == 2 * BLOCK
    assert core.stats().leased == 0
    assert device.peak_on_card == 2 * BLOCK


def test_an_allocation_that_waits_keeps_nobody_from_freeing(open_core: OpenCore) -> None:
    core, _ = open_core(2 * BLOCK, reads_over_link=False)
    (memory,) = filled(core, 1, 2 * BLOCK)
    kept = [core.empty(100, 0)]
    core.take(span(memory), 0, True)
    waiting = Thread(lambda: core.empty(9 * BLOCK // 8, 0))
    wait_until(lambda: core.stats().stall_seconds > 0)
    freeing = Thread(kept.clear)
    try:
        freeing.result(LONG / 6)
    finally:
        core.give(span(memory), 0, True)
        waiting.result()
        freeing.result()
    assert core.stats().leased == 0


def test_a_policy_object_and_other_threads_never_wait_for_each_other() -> None:
    # In a process of its own: threads that wait for the interpreter cannot be interrupted.
    code = """
        import threading
        from vramx import _core

        near, inside = threading.Event(), threading.Event()

        class Policy:
            def __init__(self):
                self.on_card = []
            def fetched(self, block):
                self.on_card.append(block)
            def leased(self, block):
                pass
            def evicted(self, block):
                self.on_card.remove(block)
            def victim(self, evictable):
                inside.set()
                near.wait()
                return next(filter(evictable, self.on_card), None)

        device = _core.SimulatedDevice(capacity=2**20, link_up=1e9, link_down=1e9, latency=0,
            lanes=2, granule=4096, host_memory=2**30, reads_over_link=True, host_addresses=True,
            check_drops=False)
        core = _core.Core(device=device, budget=2**16, block=2**16, policy=Policy(),
            threaded=False, host_limit=2**63)
        memories = core.reserve([2**16] * 2, _core.Purpose.WEIGHTS)
        ranges = [[(each.address, each.nbytes)] for each in memories]

        def other():
            inside.wait()
            near.set()
            LOOK

        looking = threading.Thread(target=other, daemon=True)
        looking.start()
        for each in ranges:
            core.take(each, 0, True)
            core.give(each, 0, True)
        looking.join()
    """
    looks = ("core.scratch_on_host", "core.owned(ranges[0])", "core.stats()")
    for look in looks:
        text = textwrap.dedent(code).replace("LOOK", look)
        subprocess.run([sys.executable, "-c", text], check=True, timeout=LONG)


@torch.library.custom_op("vramx_tests::gated_copy", mutates_args=())
def gated_copy(x: torch.Tensor) -> torch.Tensor:
    """Copies when it is let, in the middle of an operation."""
    GATE["inside"].set()
    assert GATE["go"].wait(LONG)
    return x.clone()


GATE = {"inside": threading.Event(), "go": threading.Event()}


def test_an_operation_keeps_what_it_uses_when_another_thread_s_lease_ends(
    open_session: OpenSession,
) -> None:
    for event in GATE.values():
        event.clear()
    with open_session(2 * BLOCK) as session:
        x = session.empty((16,)).fill_(7.0)
        ranges = session._ranges(x)
        session._core.take(ranges, 0, True)

        def work() -> torch.Tensor:
            with session.route():
                return gated_copy(x)

        other = Thread(work)
        assert GATE["inside"].wait(LONG)
        session._core.give(ranges, 0, True)
        with contextlib.suppress(vramx.InUseError):
            session.evict(x)
        GATE["go"].set()
        assert torch.equal(other.result(), torch.full((16,), 7.0))
        assert session.stats().leased == 0


# Any interleaving


@pytest.mark.parametrize("threaded", [False, True], ids=["no mover thread", "a mover thread"])
def test_no_byte_is_lost_whatever_threads_do_at_once(open_core: OpenCore, threaded: bool) -> None:
    core, device = open_core(6 * BLOCK, threaded=threaded, policy="adaptive", host_addresses=False)
    weights = filled(core, 6, BLOCK + 4096)
    groups = [core.define(span(each)) for each in weights]
    core.guess(groups)
    mine = threading.local()

    def work(seed: int) -> None:
        choose = random.Random(seed)
        mine.scratch = []
        for _ in range(150):
            place = choose.randrange(len(weights))
            ranges = span(weights[place])
            match choose.choice(("use", "use", "evict", "ahead", "budget", "make", "look", "free")):
                case "use":
                    core.acquire(groups[place], 0)
                    assert (np.asarray(weights[place]) == place + 1).all()
                    core.release(groups[place], 0)
                case "evict":
                    with contextlib.suppress(vramx.InUseError):
                        core.evict(ranges)
                case "ahead":
                    core.prefetch(ranges)
                case "budget":
                    with contextlib.suppress(vramx.OutOfMemoryError):
                        core.set_budget(choose.randrange(3, 7) * BLOCK)
                case "make":
                    memory = core.empty(choose.randrange(1, 3 * BLOCK), 0)
                    core.take(span(memory), 0, True)
                    np.asarray(memory)[:] = seed + 100
                    core.give(span(memory), 0, True)
                    mine.scratch.append(memory)
                case "look":
                    for memory in mine.scratch:
                        assert_holds(core, memory, seed + 100)
                case "free":
                    del mine.scratch[: choose.randrange(3)]
        mine.scratch.clear()

    threads = [Thread(lambda seed=seed: work(seed)) for seed in range(4)]
    for each in threads:
        each.result(4 * LONG)
    assert core.stats().leased == 0
    core.evict(span(*weights))
    core.trim()
    assert core.stats().resident == device.on_card == 0
    assert device.peak_on_card <= 6 * BLOCK
    assert device.moved_in == core.stats().moved_in + core.stats().over_link
    assert device.moved_out == core.stats().moved_out


# Interrupts


WAITS: dict[str, Callable[[_core.Core, list[_core.Memory], int], object]] = {
    "acquire": lambda core, _, group: core.acquire(group, 0),
    "take": lambda core, memories, _: core.take(span(*memories), 0, True),
    "pin": lambda core, memories, _: core.take(span(memories[1]), 0, False),
    "empty": lambda core, *_: core.empty(100, 0),
    "evict": lambda core, memories, _: core.evict(span(memories[0])),
    "advise": lambda core, memories, _: core.advise(
        span(memories[0]), _core.Advice.UNSET_READ_MOSTLY
    ),
    "set_budget": lambda core, *_: core.set_budget(2 * BLOCK),
    "close": lambda core, *_: core.close(),
}


@pytest.mark.parametrize("call", WAITS)
def test_an_interrupt_during_a_long_move_ends_the_wait_and_leaves_nothing_leased(
    open_core: OpenCore, call: str
) -> None:
    core, device = open_core(4 * BLOCK, threaded=True)
    memories = filled(core, 3)
    group = core.define(span(*memories))
    device.hold()
    core.prefetch(span(memories[0]))
    ended = threading.Event()

    def let_go_if_it_hangs() -> None:
        if not ended.wait(LONG / 3):
            device.let_go()

    with interrupt(when=lambda: core.stats().stall_seconds > 0, then=let_go_if_it_hangs):
        try:
            WAITS[call](core, memories, group)
        finally:
            ended.set()
    stats = core.stats()
    assert stats.leased == 0
    assert stats.budget == 4 * BLOCK
    assert device.on_card == 0
    device.let_go()
    for place, memory in enumerate(memories):
        assert_holds(core, memory, place + 1)
    core.acquire(group, 0)
    core.release(group, 0)
    assert core.set_budget(2 * BLOCK) == 4 * BLOCK
    core.evict(span(*memories))
    core.trim()
    assert core.stats().resident == device.on_card == 0


MOVES: dict[str, Callable[[vramx.Session, nn.Sequential, torch.Tensor], object]] = {
    "a pass": lambda _, model, x: model(x),
    "a pass of a part": lambda _, model, x: model[1](x),
    "a pin": lambda session, model, _: session.pin(model[0]).__enter__(),
    "a touch": lambda _, model, __: model[0].weight.sum(),
    "a prefetch": lambda session, model, _: session.prefetch(model),
    "an allocation": lambda session, *_: session.empty(4),
}


@pytest.mark.parametrize("move", MOVES)
def test_an_interrupt_that_arrives_as_a_move_ends_leaves_nothing_leased(
    open_session: OpenSession, linears: Linears, move: str
) -> None:
    model, x = linears(3), torch.randn(2, 128)
    expected = model(x)
    memory = "managed" if move == "a touch" else "mapped"
    with open_session(2 * BLOCK, policy="lru", memory=memory) as session, torch.no_grad():
        session.manage(model)
        core, device = session._core, session.device
        brought = core.stats().peak_resident
        device.hold()
        moving = lambda: core.stats().peak_resident > brought  # noqa: E731
        with interrupt(when=moving, then=device.let_go):
            MOVES[move](session, model, x)
        assert session.stats().leased == 0
        assert torch.equal(model(x), expected)
        session.evict(model)
        session._core.trim()
        assert session.device.on_card == 0
    assert torch.equal(model(x), expected)


class OpensAnother:
    """A core that is asked whose memory it is while another thread opens a session."""

    def __init__(self, core: _core.Core, open_another: Callable[[], Any]) -> None:
        self._core = core
        self._open_another = open_another

    def owned(self, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        Thread(self._open_another).result()
        return self._core.owned(ranges)


def test_a_session_opens_while_another_thread_asks_whose_memory_a_tensor_is(
    open_session: OpenSession, linears: Linears, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[vramx.Session] = []

    def open_another() -> None:
        opened.append(open_session())
        assert opened[-1]._torch  # which makes the part that is asked

    with open_session() as first:
        first.manage(linears(1))
        with monkeypatch.context() as patch:
            patch.setattr(first._torch, "core", OpensAnother(first._core, open_another))
            assert not in_a_session(torch.ones(2))
    for session in opened:
        session.close()
    assert opened


@pytest.mark.parametrize("first_out", [0, 1])
def test_scopes_left_in_any_order_leave_no_mark_in_torch(
    first_out: int, open_session: OpenSession
) -> None:
    before = is_in_torch_dispatch_mode()
    entered = [threading.Event(), threading.Event()]
    leaves = [threading.Event(), threading.Event()]

    def stay(number: int, session: vramx.Session) -> None:
        with session.route():
            entered[number].set()
            leaves[number].wait()

    threads = []
    for number in range(2):
        threads.append(threading.Thread(target=stay, args=(number, open_session())))
        threads[-1].start()
        entered[number].wait()
    assert is_in_torch_dispatch_mode()
    for number in (first_out, 1 - first_out):
        leaves[number].set()
        threads[number].join()
    assert is_in_torch_dispatch_mode() == before


def test_a_module_is_no_compiled_one_while_another_thread_imports_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo", ModuleType("torch._dynamo"))
    assert not is_leased_with_parts(nn.ReLU())
