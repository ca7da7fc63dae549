"""The budget watcher: the budget gives way to other programs, comes back, and never flaps.

Readings of the card are made up by the tests, and looks are taken by them: no test waits for time
to pass.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx
from child import run_child
from forkserver import run_forked
from loopback.control import Loopback
from vramx.cards.nvml import NvmlCard
from vramx.cards.watcher import BudgetRule, BudgetWatcher

pytest_plugins = ("loopback.fixture",)

BLOCK = 64 * 2**10
NEVER = 1e8  # seconds between looks: the test's own are the only ones
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]


class Card:
    """A card of 40 blocks that a session shares with others."""

    def __init__(self, session: vramx.Session | None = None, total: int = 40 * BLOCK) -> None:
        self.session = session
        self.total = total
        self.others = 0

    def free(self) -> int:
        assert self.session is not None
        return max(self.total - self.others - self.session.device.on_card, 0)


def watch(session: vramx.Session, **options: Any) -> tuple[BudgetWatcher, Card]:
    """A watcher that looks when the test says so, and the card it looks at."""
    card = Card(session)
    return session.watch_budget(
        card=card, **{"every": NEVER, "reserve": 10 * BLOCK, **options}
    ), card


class Kept:
    """A card whose driver keeps what unified memory had of it: nothing more becomes free."""

    def __init__(self, free: int) -> None:
        self._free = free

    def free(self) -> int:
        return self._free


def test_a_driver_that_keeps_memory_does_not_drive_the_budget_down(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    block = 2 * 2**20
    with contextlib.closing(
        vramx.oversubscribe(8 * block, backend="managed", block=block)
    ) as session:
        memory = session._core.reserve([block] * 8, vramx._core.Purpose.WEIGHTS)
        session._core.prefetch([(each.address, each.nbytes) for each in memory])
        while session.stats().moved_in < 8 * block:
            session._core.take([(memory[-1].address, block)], 0, False)
            session._core.give([(memory[-1].address, block)], 0, False)
        card = Kept(2 * block)
        with session.watch_budget(card=card, reserve=4 * block, least=block, every=NEVER) as each:
            budgets = []
            for _ in range(4):
                each.look()
                budgets.append(session.stats().budget)
    assert budgets == [6 * block] * 4


# The rule, without threads or sessions


@st.composite
def rules(draw: st.DrawFn) -> BudgetRule:
    block = draw(st.sampled_from([1, 10, 64]))
    least = draw(st.integers(block, 50 * block))
    most = draw(st.integers(least, 100 * block))
    return BudgetRule(reserve=draw(st.integers(0, 20 * block)), least=least, most=most, block=block)


def settle(rule: BudgetRule, budget: int, total: int, others: int, used: int) -> list[int]:
    """Budgets from look to look until one stays, of a session that uses as much as it may."""
    history = [budget]
    while len(history) < 2 or history[-1] != history[-2]:
        held = min(history[-1], used)
        history.append(rule.next_budget(max(total - others - held, 0), history[-1], held))
    return history


@given(rules(), st.data())
def test_the_budget_settles_at_the_first_look_and_takes_what_there_is(
    rule: BudgetRule, data: st.DataObject
) -> None:
    total = 150 * rule.block
    used = data.draw(st.integers(0, total), "used")
    budget = data.draw(st.integers(rule.least, rule.most), "budget")
    others = data.draw(st.integers(0, total - min(budget, used)), "others")
    history = settle(rule, budget, total, others, used)
    settled = history[-1]
    assert len(history) <= 3
    held = min(settled, used)
    assert total - others - held >= rule.reserve or settled == rule.least
    # What it leaves, beyond the reserve, is less than a block and what keeps it from flapping.
    could = total - others - rule.reserve - rule.block
    if settled < budget:
        assert settled >= min(could, rule.most)
    else:
        assert settled >= min(could - rule.hysteresis, rule.most)


@given(rules().filter(lambda rule: rule.reserve > 0), st.data())
def test_the_budget_settles_where_unified_memory_gave_way_unseen(
    rule: BudgetRule, data: st.DataObject
) -> None:
    """The driver moves pages away for other programs, so more may be held than there is."""
    total = 150 * rule.block
    budget = data.draw(st.integers(rule.least, rule.most), "budget")
    others = data.draw(st.integers(0, total), "others")
    *history, last = settle(rule, budget, total, others, total)
    assert total - others - last >= rule.reserve or last == rule.least
    assert all(b < a for a, b in zip(history[:-1], history[1:])) or len(history) <= 2


@given(rules(), st.data())
def test_the_budget_stays_within_its_bounds_and_grows_only_into_what_is_free(
    rule: BudgetRule, data: st.DataObject
) -> None:
    total = 150 * rule.block
    budget = data.draw(st.integers(rule.least, rule.most), "budget")
    for free in data.draw(st.lists(st.integers(0, total), max_size=20), "free"):
        held = data.draw(st.integers(0, budget), "held")
        after = rule.next_budget(free, budget, held)
        assert rule.least <= after <= rule.most
        assert after - budget <= max(free - rule.reserve, 0)
        if free < rule.reserve:
            assert after <= max(budget, rule.least)
            assert held - after >= min(rule.reserve - free, held - rule.least)
        if after not in (budget, rule.least, rule.most):
            assert after % rule.block == 0
        budget = after


@given(rules(), st.data())
def test_moves_under_way_do_not_make_it_flap(rule: BudgetRule, data: st.DataObject) -> None:
    """What is arriving counts as held before the card has it."""
    total = 150 * rule.block
    others = data.draw(st.integers(0, total), "others")
    budget = data.draw(st.integers(rule.least, rule.most), "budget")
    history = [budget]
    for _ in range(12):
        arriving = data.draw(st.integers(0, min(8 * rule.block, budget)), "arriving")
        free = max(total - others - (budget - arriving), 0)
        budget = rule.next_budget(free, budget, budget)
        history.append(budget)
    grown = [i for i, (a, b) in enumerate(zip(history, history[1:])) if b > a]
    assert len(grown) <= 1
    assert not any(history[i] < history[0] for i in range(grown[0] if grown else 0))


@given(rules(), st.lists(st.integers(0, 150 * 64), max_size=12))
def test_what_others_take_and_give_back_comes_back(rule: BudgetRule, others: list[int]) -> None:
    total = rule.most + rule.reserve + rule.hysteresis + 2 * rule.block
    budget = rule.most
    for taken in [*others, 0]:
        held = budget
        budget = rule.next_budget(max(total - taken - held, 0), budget, held)
    assert budget == rule.most


# With a session


def test_it_shrinks_when_others_need_memory_and_grows_back_when_they_end(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(20 * BLOCK) as session:
        model = session.manage(linears(20))
        model(torch.ones(1, 128))
        assert session.device.on_card == 20 * BLOCK
        watcher, card = watch(session)
        watcher.look()
        assert session.stats().budget == 20 * BLOCK
        card.others = 19 * BLOCK
        watcher.look()
        assert session.stats().budget == session.device.on_card == 11 * BLOCK
        assert card.free() == 10 * BLOCK
        watcher.look()
        assert session.stats().budget == 11 * BLOCK
        card.others = 0
        watcher.look()
        assert session.stats().budget == 20 * BLOCK
        assert watcher.refused is None


@given(
    pressure=st.lists(st.integers(0, 40), min_size=3, max_size=8),
    policy=st.sampled_from(["adaptive", "lru", "mru"]),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("one_thread")
def test_outputs_are_the_same_bits_while_the_budget_shrinks_and_grows(
    pressure: list[int], policy: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(128, 128, bias=False) for _ in range(12))).eval()
    x = torch.randn(2, 128)
    with torch.no_grad():
        expected = model(x)
        with vramx.simulate(capacity=64 * BLOCK, granule="4KiB"):
            session = vramx.oversubscribe(
                10 * BLOCK, backend="simulated", block=BLOCK, policy=policy
            )
        with session:
            session.manage(model)
            watcher, card = watch(session)
            taken = iter(pressure * 12)

            def look(*_: Any) -> None:
                card.others = next(taken) * BLOCK
                watcher.look()
                assert session.device.on_card <= session.stats().budget

            hooks = [layer.register_forward_hook(look) for layer in model]
            for _ in range(len(pressure)):
                assert torch.equal(model(x), expected)
            for hook in hooks:
                hook.remove()
            assert session.device.peak_on_card <= 10 * BLOCK
            assert watcher.refused is None or isinstance(watcher.refused, vramx.OutOfMemoryError)
        assert torch.equal(model(x), expected)


def test_what_is_pinned_is_not_taken_and_the_rest_is(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(10 * BLOCK) as session:
        model = session.manage(linears(10))
        model(torch.ones(1, 128))
        watcher, card = watch(session)
        card.others = 28 * BLOCK
        with session.pin(model[:4]):
            watcher.look()
            assert isinstance(watcher.refused, vramx.OutOfMemoryError)
            assert watcher.refused.leased == 4 * BLOCK
            assert session.stats().budget == session.device.on_card == 4 * BLOCK
            assert "refused" in session.report()
        watcher.look()
        assert watcher.refused is None
        assert session.stats().budget == 2 * BLOCK


def test_a_budget_that_cannot_be_set_is_told_once_and_tried_again(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(10 * BLOCK) as session:
        model = session.manage(linears(10))  # it stays, and there is something to move
        model(torch.ones(1, 128))
        watcher, card = watch(session)
        card.others = 28 * BLOCK
        session.device.fail(vramx._core.Operation.EVICT, 1)
        with pytest.warns(RuntimeWarning, match=r"cannot set the budget to 128\.00 KiB"):
            watcher.look()
        assert isinstance(watcher.refused, vramx.DeviceError)
        assert session.stats().budget == 10 * BLOCK
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.device.fail(vramx._core.Operation.EVICT, 1)
            watcher.look()
            watcher.look()
        assert session.stats().budget == 2 * BLOCK
        assert watcher.refused is None


def test_a_reading_that_fails_keeps_the_budget_is_told_once_and_is_tried_again(
    open_session: OpenSession,
) -> None:
    with open_session(10 * BLOCK) as session:
        watcher, card = watch(session)
        card.others = 100 * BLOCK
        right, card.free = card.free, lambda: 1 // 0  # type: ignore[method-assign]
        with pytest.warns(RuntimeWarning, match="cannot tell what is free.*goes on trying"):
            watcher.look()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            watcher.look()
        assert session.stats().budget == 10 * BLOCK
        card.free = right  # type: ignore[method-assign]
        watcher.look()
        assert session.stats().budget == BLOCK


def test_what_a_user_sets_is_kept_within_the_bounds(open_session: OpenSession) -> None:
    with open_session(10 * BLOCK) as session:
        watcher, card = watch(session, least=4 * BLOCK, most=12 * BLOCK)
        for given_, kept in [(7, 7), (20, 12), (2, 4)]:
            session.set_budget(given_ * BLOCK)
            card.others = (40 - 10 - 7) * BLOCK
            watcher.look()
            assert session.stats().budget == kept * BLOCK


# The thread


class Gate:
    """A reading that says when it was asked for."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)

    def free(self) -> int:
        self.asked.release()
        return 0

    def wait(self) -> None:
        assert self.asked.acquire(timeout=30)


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "vramx budget"]


def stop(session: vramx.Session, watcher: BudgetWatcher) -> None:  # noqa: ARG001
    watcher.stop()
    watcher.stop()


def leave(session: vramx.Session, watcher: BudgetWatcher) -> None:  # noqa: ARG001
    with watcher as same:
        assert same is watcher


def close(session: vramx.Session, watcher: BudgetWatcher) -> None:  # noqa: ARG001
    session.close()


@pytest.mark.parametrize("end", [stop, leave, close])
def test_it_watches_by_itself_until_it_is_stopped_or_the_session_ends(
    open_session: OpenSession, end: Callable[[vramx.Session, BudgetWatcher], None]
) -> None:
    session = open_session(10 * BLOCK)
    gate = Gate()
    watcher = session.watch_budget(card=gate, every=1e-6)
    assert watcher.watching
    assert "budget watched: 64.00 KiB to 640.00 KiB, 512.00 MiB kept free" in session.report()
    gate.wait()
    gate.wait()  # the first look is over
    assert session.stats().budget == BLOCK
    with pytest.raises(vramx.ConfigError, match=r"watched already; stop\(\)"):
        session.watch_budget(card=gate)
    end(session, watcher)
    assert not watcher.watching
    assert not threads()
    assert "watched" not in session.report()


def test_the_next_watcher_begins_where_the_last_one_ended(open_session: OpenSession) -> None:
    with open_session(10 * BLOCK) as session:
        with watch(session)[0] as first:
            session.set_budget(5 * BLOCK)
        assert not first.watching
        second, card = watch(session, most=20 * BLOCK)
        assert session.stats().budget == 5 * BLOCK
        card.others = (30 - 13) * BLOCK
        second.look()
        assert session.stats().budget == 5 * BLOCK  # eight blocks of room do not count yet
        card.others -= BLOCK
        second.look()
        assert session.stats().budget == 14 * BLOCK


def test_a_session_that_cannot_close_is_still_watched(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(4 * BLOCK) as session:
        model = session.manage(linears(1))
        watcher, _ = watch(session)

        def closes(*_: Any) -> None:
            with pytest.raises(vramx.InUseError):
                session.close()

        model[0].register_forward_hook(closes)
        model(torch.ones(1, 128))
        assert watcher.watching


def test_an_interpreter_ends_while_it_watches() -> None:
    out = run_child("""
        import atexit, threading, vramx
        asked = threading.Event()

        class Card:
            def free(self):
                asked.set()
                return 0

        vramx.simulate(capacity="8MiB")
        session = vramx.oversubscribe("1MiB", backend="simulated", block="64KiB")
        # Called after what was registered later, the watcher's own end.
        names = lambda: [each.name for each in threading.enumerate()]
        atexit.register(lambda: print("vramx budget" in names()))
        session.watch_budget(card=Card(), every=1e-5)
        assert asked.wait(30)
    """)
    assert out == "False\n"


def test_a_forked_child_has_no_watcher_and_ends() -> None:
    out = run_forked("""
        import os, signal, threading, vramx
        asked = threading.Event()

        class Card:
            def free(self):
                asked.set()
                return 0

        vramx.simulate(capacity="8MiB")
        with vramx.oversubscribe("1MiB", backend="simulated", block="64KiB") as session:
            with session.watch_budget(card=Card(), every=1e-5) as watcher:
                assert asked.wait(30)
                # The watcher's thread may be anywhere when others fork, holding its lock too.
                with watcher._over._cond:
                    if (pid := os.fork()) == 0:
                        signal.alarm(20)  # what hangs is brought down
                        watcher.stop()
                        print(watcher.watching, flush=True)
                        os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
                print(watcher.watching)
    """)
    assert out == "False\nTrue\n"


# Arguments and NVML


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reserve": "lots"}, "reserve 'lots'"),
        ({"least": -1}, "least -1"),
        ({"least": BLOCK - 1}, "from one block"),
        ({"least": 3 * BLOCK, "most": 2 * BLOCK}, "least is not above most"),
        ({"most": "1TiB"}, r"card's 64\.00 MiB"),
        ({"every": 0}, "every 0"),
        ({"every": "1s"}, "every '1s'"),
        ({"every": float("nan")}, "every nan"),
        ({"card": object()}, r"method free\(\)"),
        ({"card": None}, r"NVML does not know simulated card.*give card"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_watched(
    open_session: OpenSession, options: dict[str, Any], says: str
) -> None:
    with open_session(10 * BLOCK) as session:
        with pytest.raises(vramx.ConfigError, match=says):
            session.watch_budget(**{"card": Card(session), **options})
        assert not threads()


def test_a_closed_session_cannot_be_watched(open_session: OpenSession) -> None:
    session = open_session(10 * BLOCK)
    session.close()
    with pytest.raises(vramx.SessionClosedError):
        session.watch_budget(card=Card(session))


@pytest.mark.filterwarnings("ignore:vramx manages nothing")
def test_a_session_without_a_card_checks_the_arguments_and_watches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    with vramx.oversubscribe(on_missing="cpu") as session:
        with session.watch_budget(least="1GiB") as watcher:
            assert not watcher.watching
        with pytest.raises(vramx.ConfigError):
            session.watch_budget(least="2GiB", most="1GiB")
        assert not threads()


class Nvml:
    """As much of pynvml as is used, of one card; it can be told to fail."""

    class NVMLError(Exception):
        pass

    def __init__(self, uuid: str, readings: Iterable[int | str]) -> None:
        self.uuid = uuid
        self.readings = iter(readings)
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert self.open == 1
        if uuid != self.uuid:
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        assert self.open == 1
        assert handle == "handle"
        reading = next(self.readings)
        if isinstance(reading, str):
            raise self.NVMLError(reading)
        return SimpleNamespace(free=reading)


def test_nvml_is_opened_once_and_anew_after_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml("GPU-1", [5, 6, "GPU is lost", 7])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    card = NvmlCard("GPU-1")
    assert card.free() == 6
    with pytest.raises(Nvml.NVMLError, match="lost"):
        card.free()
    assert nvml.open == 0
    assert card.free() == 7
    assert nvml.open == 1


def test_a_card_that_nvml_does_not_know_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml("GPU-1", [])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with pytest.raises(vramx.NoDeviceError, match=r"GPU-2 \(Not Found\)"):
        NvmlCard("GPU-2")
    assert nvml.open == 0


def test_a_missing_nvml_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(vramx.ConfigError, match="pip install nvidia-ml-py"):
        NvmlCard("GPU-1")


@pytest.mark.parametrize("backend", ["managed", "mapped"])
def test_a_card_is_watched_by_its_uuid(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    block = 2 * 2**20
    with contextlib.closing(
        vramx.oversubscribe(16 * block, backend=backend, block=block)
    ) as session:
        free = 2**29 + 4 * block
        monkeypatch.setitem(sys.modules, "pynvml", Nvml(session.device.uuid, [free, free, 0]))
        watcher = session.watch_budget(every=NEVER)
        watcher.look()
        assert session.stats().budget == 16 * block
        watcher.look()
        assert session.stats().budget == block
    del session, watcher
