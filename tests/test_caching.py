"""What torch keeps in its cache inside a scope, and when it is asked back."""

from __future__ import annotations

import contextlib
import itertools
import sys
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
nn = torch.nn

import vramx  # noqa: E402
from vramx import _core  # noqa: E402
from vramx.integrations.torch import allocator, caching  # noqa: E402
from vramx.integrations.torch.internals import snapshots  # noqa: E402
from vramx.integrations.torch.passes import LONG  # noqa: E402

BLOCK = 64 * 2**10
STEPS = ("allocate", "free", "renew", "enter", "leave")

OpenSession = Callable[..., vramx.Session]


class FakePool:
    """A pool as torch has it, of which each allocation is a segment."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.id = (0, next(cuda.numbers))
        self.live: dict[int, bool] = {}  # by address: torch keeps what was freed
        cuda.pools[self.id] = self
        live, number = self.live, self.id
        weakref.finalize(self, lambda: cuda.dropped(number, live))


class FakeCuda:
    """As much of torch.cuda as routes need; it notes what would end the process."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.addresses = itertools.count(2**21, 2**21)
        self.pools: weakref.WeakValueDictionary[Any, FakePool] = weakref.WeakValueDictionary()
        self.routed: list[FakePool] = []
        self.capturing = False
        self.crashes: list[str] = []

    def dropped(self, number: tuple[int, int], live: dict[int, bool]) -> None:
        if any(live.values()):
            self.crashes.append(f"pool {number} was dropped with live tensors")
        if self.routed:
            self.crashes.append(f"pool {number} was dropped while one was routed to")

    @contextlib.contextmanager
    def use_mem_pool(self, pool: FakePool, device: int) -> Iterator[None]:  # noqa: ARG002
        self.routed.append(pool)
        yield
        self.routed.remove(pool)

    def memory_snapshot(self, number: tuple[int, int]) -> list[dict[str, Any]]:
        state = {True: "active_allocated", False: "inactive"}
        return [
            {"address": address, "blocks": [{"state": state[lives]}]}
            for address, lives in self.pools[number].live.items()
        ]

    def allocate(self) -> tuple[dict[int, bool], int]:
        address, live = next(self.addresses), self.routed[-1].live
        live[address] = True
        return live, address


class FakeCore:
    """What a route needs of a core."""

    def __init__(self) -> None:
        self.abandoned: list[int] = []

    def enter(self) -> None: ...

    def leave(self) -> None: ...

    def abandon(self, addresses: list[int]) -> None:
        self.abandoned += addresses


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Routes over pools that are not torch's."""
    return fake_cuda(monkeypatch)


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(allocator, "_allocator", lambda: SimpleNamespace(allocator=object))
    monkeypatch.setattr(torch.cuda, "MemPool", lambda _: FakePool(fake))
    monkeypatch.setattr(torch.cuda, "use_mem_pool", fake.use_mem_pool)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", fake.memory_snapshot)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: fake.capturing)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(allocator, "_idle_pools", [])
    return fake


def free(allocation: tuple[dict[int, bool], int]) -> None:
    live, address = allocation
    live[address] = False


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.sampled_from(["allocate", "free", "renew", "enter", "leave"]), max_size=60)
)
def test_pools_are_let_go_of_only_when_unused_and_then_all(steps: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        cuda, core = fake_cuda(monkeypatch), FakeCore()
        live: list[tuple[dict[int, bool], int]] = []
        scopes: list[contextlib.ExitStack] = []
        for step in steps:
            if step == "enter":
                scopes.append(contextlib.ExitStack())
                scopes[-1].enter_context(allocator.route(core, 0))
            elif step == "leave" and scopes:
                scopes.pop().close()
            elif step == "allocate" and scopes:
                live.append(cuda.allocate())
            elif step == "free" and live:
                free(live.pop(0))
            elif step == "renew":
                allocator.renew_pool(core)
            assert len(cuda.routed) == (1 if scopes else 0)
            assert not {address for _, address in live} & {*core.abandoned}
            assert not {each for pool in cuda.routed for each in pool.live} & {*core.abandoned}
        while scopes:
            scopes.pop().close()
        for each in live:
            free(each)
        live.clear()
        with allocator.route(core, 0):
            pass
        assert cuda.crashes == []
        assert [*cuda.pools] == []


def test_a_route_goes_on_with_an_empty_pool(cuda: FakeCuda) -> None:
    core = FakeCore()
    with allocator.route(core, 0):
        number = cuda.routed[0].id
        first = cuda.allocate()
        kept = cuda.allocate()
        free(first)
        allocator.renew_pool(core)
        assert core.abandoned == [first[1]]  # the pool cannot go, but nobody uses that again
        second = cuda.allocate()
        assert second[0] is not kept[0]
        free(kept)
        assert number in cuda.pools
        allocator.renew_pool(core)
        assert number not in cuda.pools
        free(second)
    assert cuda.crashes == []


def test_a_route_keeps_its_pool_where_another_would_help_nobody(cuda: FakeCuda) -> None:
    core, other = FakeCore(), FakeCore()
    allocator.renew_pool(core)  # in no scope
    live = []
    with allocator.route(core, 0):
        own = cuda.routed[0]
        allocator.renew_pool(other)
        assert cuda.routed == [own]
        cuda.capturing = True
        allocator.renew_pool(core)
        assert cuda.routed == [own]
        cuda.capturing = False
        del own
        for _ in range(3 * allocator.MOST_IDLE):  # each has something that lives
            live.append(cuda.allocate())
            allocator.renew_pool(core)
        assert len(cuda.pools) == allocator.MOST_IDLE + 1
        assert len(live) > allocator.MOST_IDLE
    with allocator.route(core, 0):  # what lives in another's is no matter
        number = cuda.routed[0].id
        allocator.renew_pool(core)
        assert cuda.routed[0].id != number
    for each in live:
        free(each)
    assert cuda.crashes == []


def test_beside_another_thread_s_route_no_pool_is_changed(cuda: FakeCuda) -> None:
    core = FakeCore()
    with allocator.route(core, 0):
        own = cuda.routed[0]
        other = object()
        allocator._active.append(other)
        try:
            allocator.renew_pool(core)
        finally:
            allocator._active.remove(other)
        assert cuda.routed == [own]
        del own
    assert cuda.crashes == []


@pytest.mark.parametrize("loses", [0, 1, 2])
def test_a_snapshot_leaves_the_pool_s_number_as_it_was(
    monkeypatch: pytest.MonkeyPatch, loses: int
) -> None:
    import ctypes

    number = (int("1000"), int("2000"))

    def snapshot(asked: tuple[int, int]) -> list[dict[str, Any]]:
        for part in asked:
            for _ in range(loses):
                ctypes.pythonapi.Py_DecRef(ctypes.py_object(part))
        return []

    monkeypatch.setattr(torch.cuda, "memory_snapshot", snapshot)
    pool = SimpleNamespace(id=number)
    before = [sys.getrefcount(part) for part in number]
    for _ in range(100):
        assert snapshots.pool_snapshot(pool) == []
    assert [sys.getrefcount(part) for part in number] == before


class Renewals:
    """Counts how often pools are asked to be renewed, in place of doing it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cores: list[_core.Core] = []
        monkeypatch.setattr(caching, "renew_pool", self.cores.append)
        self.cached = 2**40  # by torch's account, of which the session's is a part
        monkeypatch.setattr(caching, "cached_bytes", lambda _: self.cached)

    def __len__(self) -> int:
        return len(self.cores)


@pytest.fixture
def renewals(monkeypatch: pytest.MonkeyPatch) -> Renewals:
    """What a session asks back, noted only."""
    return Renewals(monkeypatch)


def linear() -> nn.Linear:
    return nn.Linear(128, 128, bias=False)  # a block


def test_a_long_turn_asks_for_what_torch_keeps(
    open_session: OpenSession, renewals: Renewals
) -> None:
    x = torch.randn(2, 128)
    with torch.no_grad(), open_session(16 * BLOCK) as session:
        first = session.manage(nn.Sequential(*(linear() for _ in range(10))))
        second = session.manage(nn.Sequential(*(linear() for _ in range(10))))
        kept = session.empty((2 * BLOCK // 4,))

        def asked(model: nn.Module, passes: int) -> list[int]:
            """Run passes; return by pass how often it was asked for."""
            counts = [len(renewals)]
            for _ in range(passes):
                model(x)
                counts.append(len(renewals))
            return [after - before for before, after in itertools.pairwise(counts)]

        for _ in range(3):  # by turns of one pass
            assert asked(first, 1) == asked(second, 1) == [0]
        assert asked(first, LONG - 1) == [0] * (LONG - 1)
        assert asked(second, 1) == [0]
        assert asked(first, LONG + 2) == [0] * (LONG - 1) + [1, 0, 0]
        assert asked(second, 1) == [0]
        assert asked(first, 2) == [1, 0]  # at once: its last turn was long
        assert asked(second[3], 1) == [0]
        assert asked(first, LONG) == [0] * (LONG - 1) + [1]  # its last turn was short
        renewals.cached = 2 * BLOCK - 1
        assert asked(second, LONG) == [0] * LONG  # what torch keeps is not worth it
        assert asked(first, 1) == [0]
        renewals.cached = 2 * BLOCK
        assert asked(second, 1) == [1]
        del kept
        assert asked(first, LONG) == [0] * LONG  # nor is what is held


def test_where_all_fits_nothing_is_asked_for(open_session: OpenSession, renewals: Renewals) -> None:
    x = torch.randn(2, 128)
    with torch.no_grad(), open_session(32 * BLOCK) as session:
        first, second = session.manage(linear()), session.manage(linear())
        kept = session.empty((12 * BLOCK // 4,))
        for _ in range(2 * LONG):
            first(x)
        second(x)
        assert len(renewals) == 0
        assert session.stats().managed <= session.stats().budget
        del kept


def part_by_part(session: vramx.Session, renewals: Renewals) -> Callable[[], int]:
    """Manage parts; return what runs one more and tells how often it was asked for by then."""
    x = torch.randn(2, 128)
    parts = iter(session.manage(nn.Sequential(*(linear() for _ in range(20)))))

    def asked() -> int:
        next(parts)(x)
        return len(renewals)

    return asked


def test_what_leaves_too_little_room_is_asked_for(
    open_session: OpenSession, renewals: Renewals
) -> None:
    with torch.no_grad(), open_session(16 * BLOCK) as session:
        asked = part_by_part(session, renewals)
        assert asked() == 0
        kept = [session.empty((11 * BLOCK // 4,))]
        assert asked() == 0
        kept.append(session.empty((BLOCK // 4,)))  # three fourths of the budget in all
        assert [asked(), asked()] == [1, 1]
        kept.append(session.empty((BLOCK // 4,)))
        assert asked() == 1
        kept.append(session.empty((BLOCK // 4,)))  # an eighth more
        assert [asked(), asked()] == [2, 2]
        del kept[1:]
        assert asked() == 2
        session.set_budget(8 * BLOCK)
        assert asked() == 3
        session.set_budget(15 * BLOCK)
        assert asked() == 3


def test_what_is_in_use_or_kept_by_choice_is_not_asked_for(
    open_session: OpenSession, renewals: Renewals
) -> None:
    with torch.no_grad(), open_session(16 * BLOCK) as session:
        asked = part_by_part(session, renewals)
        assert asked() == 0
        with session.keep_cache():
            kept = [session.empty((12 * BLOCK // 4,))]
            assert asked() == 0
            with session.keep_cache():
                kept.append(session.empty((2 * BLOCK // 4,)))
            assert asked() == 0
        kept.append(session.empty((2 * BLOCK // 4,)))
        assert asked() == 1
        renewals.cached = 2 * BLOCK - 1  # all else is in use, and would stay where it is
        kept.append(session.empty((2 * BLOCK // 4,)))
        assert asked() == 1
        renewals.cached = 2 * BLOCK
        kept.append(session.empty((2 * BLOCK // 4,)))
        assert asked() == 2
        assert len(kept) == 5
