"""Memory that is refused on mapped memory: by the system for host copies, by the card for blocks.

What is refused is told by name with its figures, nothing is lost or kept, and the session goes on.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import vramx
from loopback.control import NOT_PERMITTED, NOT_SUPPORTED, OUT_OF_MEMORY, Loopback
from loopback.weights import Weight, filled
from vramx import _core

pytest_plugins = ("loopback.fixture",)

BLOCK = 2 * 2**20


@pytest.fixture
def driver(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """A driver that sessions open; copies may name pageable memory, as with the real one."""
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    loopback.set_copies_pageable(1)
    return loopback


@contextlib.contextmanager
def session_of(blocks: int, **options: Any) -> Iterator[vramx.Session]:
    with contextlib.closing(
        vramx.oversubscribe(blocks * BLOCK, backend="mapped", block=BLOCK, **options)
    ) as session:
        yield session


def weights(session: vramx.Session, driver: Loopback, count: int, blocks: int = 1) -> list[Weight]:
    """Weights of a range each."""
    core = session._core
    ranges = [core.reserve([blocks * BLOCK], _core.Purpose.WEIGHTS) for _ in range(count)]
    return filled(core, driver, [memory for (memory,) in ranges])


def run(session: vramx.Session, driver: Loopback, model: list[Weight]) -> None:
    """One pass: each weight is used by the card and has the bytes it was given."""
    for weight in model:
        session._core.acquire(weight.group, 0)
        try:
            weight.touch()
            assert weight.right
        finally:
            session._core.release(weight.group, 0)
    assert driver.counts.faulted == 0


# Host memory


@pytest.mark.parametrize("from_start", [True, False], ids=["from the start", "in mid-run"])
def test_bytes_are_the_same_on_pageable_memory_and_one_warning_tells(
    driver: Loopback, from_start: bool
) -> None:
    with pytest.warns(RuntimeWarning) as told, session_of(4) as session:
        pinned = [] if from_start else weights(session, driver, 3)
        run(session, driver, pinned)
        driver.set_pinnable(0)
        model = pinned + weights(session, driver, 7)
        scratch = session._core.empty(BLOCK, 0)
        for _ in range(3):
            run(session, driver, model)
        for value, weight in enumerate(model):
            session._core.acquire(weight.group, 0)
            weight.fill(value)
            session._core.written([weight.range])
            session._core.release(weight.group, 0)
        run(session, driver, model)
        run(session, driver, model)
        counts = driver.counts
        assert counts.pageable > 0
        assert counts.to_host >= (len(model) - 4) * BLOCK
        assert counts.peak_on_card <= 4 * BLOCK
        assert "could not be pinned" in session.report()
        pageable = session.device.pageable_bytes
        assert pageable >= 7 * BLOCK
    (warning,) = told
    text = str(warning.message)
    assert vramx.units.format_size(pageable) in text
    assert "10 GB/s" in text
    assert "on_unpinned" in text
    del model, pinned, scratch, weight


def test_nothing_is_told_where_all_is_pinned(driver: Loopback) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with session_of(4) as session:
            model = weights(session, driver, 2)
            run(session, driver, model)
            assert "pinned" not in session.report()
            del model


def test_managing_tells_at_once_and_not_again(driver: Loopback) -> None:
    driver.set_pinnable(0)
    with session_of(4) as session:
        held = []

        def manage(module: Any, name: str | None) -> None:  # noqa: ARG001
            held.extend(weights(session, driver, 1))

        session._torch_bridge = SimpleNamespace(  # type: ignore[assignment]
            manage=manage, follow=lambda: None, close=held.clear
        )
        with pytest.warns(RuntimeWarning, match=r"2\.00 MiB .*pageable") as told:
            session.manage(None)
            session.manage(None)
        assert len(told) == 1
        assert told[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.close()


@pytest.mark.parametrize("backend", ["managed", "mapped"])
@pytest.mark.parametrize("refused", [True, False])
def test_a_report_tells_where_moves_got_no_context_of_their_own(
    driver: Loopback, backend: str, refused: bool
) -> None:
    if refused:
        driver.fail("cuCtxCreate_v2", OUT_OF_MEMORY)
    with contextlib.closing(
        vramx.oversubscribe(2 * BLOCK, backend=backend, block=BLOCK)
    ) as session:
        scratch = [session._core.empty(BLOCK, 0) for _ in range(3)]  # more than fits: one leaves
        assert driver.counts.to_host > 0
        told = "gave no CUDA context" in session.report()
        assert told is refused
        assert ("CUDA_ERROR_OUT_OF_MEMORY" in session.report()) is refused
        del scratch


@pytest.mark.parametrize("result", [OUT_OF_MEMORY, NOT_PERMITTED, NOT_SUPPORTED])
def test_told_to_fail_it_fails_by_name_and_the_session_goes_on(
    driver: Loopback, result: int
) -> None:
    with session_of(4, on_unpinned="error") as session:
        model = weights(session, driver, 6)
        run(session, driver, model)
        holds, managed = driver.holds, session.stats().managed
        driver.fail("cuMemHostRegister_v2", result)
        with pytest.raises(vramx.OutOfMemoryError, match="refused to pin") as raised:
            weights(session, driver, 1, blocks=4)
        assert raised.value.asked == 4 * BLOCK
        assert 'on_unpinned="warn"' in str(raised.value)
        del raised
        assert driver.holds == holds
        assert session.stats().managed == managed
        run(session, driver, model)
        model += weights(session, driver, 1, blocks=4)
        run(session, driver, model)
        assert driver.counts.pageable == 0
    del model


def test_what_is_pageable_and_larger_than_the_budget_is_refused_and_the_rest_runs(
    driver: Loopback,
) -> None:
    with pytest.warns(RuntimeWarning, match="pageable"), session_of(4) as session:
        over_link, fits = weights(session, driver, 1, blocks=6), weights(session, driver, 3)
        driver.set_pinnable(0)
        large = weights(session, driver, 1, blocks=6)
        for _ in range(2):
            run(session, driver, over_link)
            with pytest.raises(vramx.OutOfMemoryError, match="refused to pin it"):
                run(session, driver, large)
            assert session.stats().leased == 0
            run(session, driver, fits)
        for advice in (_core.Advice.PREFERRED_HOST, _core.Advice.ACCESSED_BY):
            with pytest.raises(vramx.ConfigError, match="over the link"):
                session._core.advise([large[0].range], advice)
            session._core.advise([fits[0].range], advice)
        session._core.advise([fits[0].range], _core.Advice.UNSET_PREFERRED)
        assert session.stats().failed_moves == 0
        session.set_budget(8 * BLOCK)
        run(session, driver, large + fits + over_link)
    del large, fits, over_link


def test_a_wrong_choice_is_named() -> None:
    with pytest.raises(vramx.ConfigError, match="on_unpinned 'perhaps'"):
        vramx.oversubscribe(1, backend="simulated", on_unpinned="perhaps")


# The card's memory


def test_a_budget_that_the_card_cannot_give_is_refused_at_opening(driver: Loopback) -> None:
    with session_of(10) as other:
        model = weights(other, driver, 10)
        run(other, driver, model)
        driver.set_capacity(16 * BLOCK)
        holds = driver.holds
        with pytest.raises(vramx.OutOfMemoryError, match=r"12\.00 MiB are free") as raised:
            vramx.oversubscribe(7 * BLOCK, backend="mapped", block=BLOCK)
        assert raised.value.asked == 7 * BLOCK
        del raised
        assert driver.holds == holds
        assert vramx.current_session() is other
        with session_of(6) as session:
            own = weights(session, driver, 9)
            run(session, driver, own)
            run(other, driver, model)
        del own, model


def test_a_budget_grows_to_what_the_card_gives_and_always_shrinks(driver: Loopback) -> None:
    with session_of(6) as session:
        model = weights(session, driver, 12)
        run(session, driver, model)
        driver.set_capacity(8 * BLOCK)
        with pytest.raises(vramx.OutOfMemoryError, match=r"4\.00 MiB are free") as raised:
            session.set_budget(9 * BLOCK)
        assert (raised.value.asked, raised.value.resident) == (9 * BLOCK, 6 * BLOCK)
        assert session.stats().budget == 6 * BLOCK
        assert session.set_budget(8 * BLOCK) == 6 * BLOCK
        run(session, driver, model)
        driver.set_capacity(3 * BLOCK)  # another program's is counted as taken already
        assert session.set_budget(4 * BLOCK) == 8 * BLOCK
        assert driver.counts.card_memory == 4 * BLOCK
        run(session, driver, model)
        del model, raised


@pytest.mark.parametrize("adaptive", ["adaptive", "lru"])
def test_a_card_that_gives_no_more_in_mid_run_is_told_and_a_smaller_budget_goes_on(
    driver: Loopback, adaptive: str
) -> None:
    with session_of(8, policy=adaptive) as session:
        model = weights(session, driver, 12)
        for weight in model[:3]:
            run(session, driver, [weight])
        held = driver.counts.card_memory
        driver.set_capacity(held + BLOCK)
        with pytest.raises(vramx.OutOfMemoryError, match=r"the card refused 2\.00 MiB") as raised:
            for _ in range(3):
                run(session, driver, model)
        assert raised.value.asked == BLOCK
        assert raised.value.resident == driver.counts.card_memory <= held + BLOCK
        del raised
        assert session.stats().leased == 0
        session.set_budget(driver.counts.card_memory)
        for _ in range(3):
            run(session, driver, model)
        assert driver.counts.card_memory <= held + BLOCK
    del model, weight


def test_each_block_that_the_card_refuses_in_a_pass_is_told_and_nothing_leaks(
    driver: Loopback,
) -> None:
    with session_of(6) as session:
        model = weights(session, driver, 10)
        refused = 0
        for nth in range(1, 8):
            session.set_budget(BLOCK)
            session.set_budget(6 * BLOCK)
            driver.fail("cuMemCreate", OUT_OF_MEMORY, nth)
            try:
                run(session, driver, model)
            except vramx.OutOfMemoryError:
                refused += 1
            driver.fail("cuMemCreate", OUT_OF_MEMORY, 0)
            run(session, driver, model)
            # The mover may still be bringing ahead: an eviction waits for that.
            session._core.evict([weight.range for weight in model])
            assert driver.counts.on_card == session.stats().resident == 0
        assert refused > 0
        assert driver.counts.peak_on_card <= 6 * BLOCK
    del model
