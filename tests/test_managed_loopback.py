"""Managed memory end to end over the stand-in driver: bytes kept, budget held, traffic exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import vramx
from loopback.control import Loopback
from vramx import _core

pytest_plugins = ("loopback.fixture",)

BLOCK = 2 * 2**20
UNLIMITED = 2**64 - 1


def core(
    driver: Loopback, budget: int, *, policy: str = "lru", adaptive: bool = False
) -> _core.Core:
    """A core whose budget is a number of blocks."""
    return _core.Core(
        device=_core.ManagedDevice(driver=driver.path, ordinal=0),
        budget=budget * BLOCK,
        block=BLOCK,
        policy=policy,
        adaptive=adaptive,
        threaded=True,
        host_limit=UNLIMITED,
    )


@dataclass
class Weight:
    """One weight of a model, a group of its own."""

    memory: _core.Memory
    group: int
    bytes: np.ndarray

    @property
    def range(self) -> tuple[int, int]:
        return self.memory.address, self.memory.nbytes


def weights(one: _core.Core, count: int, size: int = BLOCK) -> list[Weight]:
    """Weights of random bytes, in the order of their use."""
    random = np.random.default_rng(0)
    made = []
    for memory in one.reserve([size] * count, _core.Use.WEIGHTS):
        content = random.integers(0, 256, size, dtype=np.uint8)
        one.store([(memory.address, content.ctypes.data, size)])
        made.append(Weight(memory, one.define([(memory.address, size)]), content))
    return made


def run(one: _core.Core, driver: Loopback, model: list[Weight]) -> None:
    """One pass: each weight is used by the card and found right."""
    for weight in model:
        one.acquire(weight.group, 0)
        driver.touch(*weight.range)
        assert np.array_equal(np.asarray(weight.memory), weight.bytes)
        one.release(weight.group, 0)


def test_lru_on_a_cycle_brings_every_byte_once_a_pass_and_writes_none_back(
    loopback: Loopback,
) -> None:
    one = core(loopback, 4)
    model = weights(one, 10)
    for passes in range(1, 5):
        run(one, loopback, model)
        assert loopback.counts.to_card == passes * 10 * BLOCK
        assert one.stats().moved_in == loopback.counts.to_card
    assert loopback.counts.to_host == 0
    assert loopback.counts.faulted == 0
    assert loopback.counts.peak_on_card == 4 * BLOCK
    assert one.stats().peak_resident == 4 * BLOCK
    assert one.stats().dropped == one.stats().evictions * BLOCK == 36 * BLOCK


@pytest.mark.parametrize("policy", ["mru", "clairvoyant"])
def test_on_a_cycle_mru_and_clairvoyant_bring_the_least_there_can_be(
    loopback: Loopback, policy: str
) -> None:
    count, budget = 10, 4
    one = core(loopback, budget, policy=policy)
    model = weights(one, count)
    for _ in range(count):
        run(one, loopback, model)
    before = loopback.counts.to_card
    # The best there can be hits budget - 1 of every count - 1 uses.
    for _ in range(count - 1):
        run(one, loopback, model)
    assert loopback.counts.to_card - before == count * (count - budget) * BLOCK
    assert loopback.counts.to_host == 0
    assert loopback.counts.peak_on_card <= budget * BLOCK


@pytest.mark.parametrize("policy", _core.policy_names())
def test_bringing_ahead_keeps_the_budget_and_the_bytes(loopback: Loopback, policy: str) -> None:
    one = core(loopback, 6, policy=policy, adaptive=True)
    model = weights(one, 16)
    one.guess([weight.group for weight in model])
    for _ in range(5):
        run(one, loopback, model)
    assert loopback.counts.peak_on_card <= 6 * BLOCK
    assert loopback.counts.to_host == 0
    assert loopback.counts.faulted == 0


def test_a_model_that_fits_is_brought_once(loopback: Loopback) -> None:
    one = core(loopback, 12, adaptive=True)
    model = weights(one, 10)
    for _ in range(5):
        run(one, loopback, model)
    assert loopback.counts.to_card == 10 * BLOCK
    assert one.stats().evictions == 0


def test_small_weights_share_blocks(loopback: Loopback) -> None:
    one = core(loopback, 2)
    model = weights(one, 40, BLOCK // 8)
    for _ in range(3):
        run(one, loopback, model)
    assert loopback.counts.managed == 5 * BLOCK
    assert loopback.counts.to_card == 3 * 5 * BLOCK
    assert loopback.counts.peak_on_card <= 2 * BLOCK


def test_a_weight_larger_than_the_budget_is_read_over_the_link(loopback: Loopback) -> None:
    one = core(loopback, 2)
    model = weights(one, 2, 5 * BLOCK)
    for _ in range(3):
        run(one, loopback, model)
    assert loopback.counts.peak_on_card <= 2 * BLOCK
    assert loopback.counts.over_link > 0
    assert loopback.counts.faulted == 0
    assert one.stats().over_link == loopback.counts.over_link


def test_written_weights_survive_eviction(loopback: Loopback) -> None:
    one = core(loopback, 2)
    model = weights(one, 5)
    for value in (1, 2, 3):
        for weight in model:
            one.acquire(weight.group, 0)
            loopback.touch(*weight.range, write=True)
            np.asarray(weight.memory)[:] = weight.bytes[:] = value
            one.written([weight.range])
            one.release(weight.group, 0)
        run(one, loopback, model)
    one.evict([weight.range for weight in model])
    for weight in model:
        copy = np.zeros_like(weight.bytes)
        one.load([(weight.memory.address, copy.ctypes.data, copy.nbytes)])
        assert np.array_equal(copy, weight.bytes)
    assert loopback.counts.on_card == 0
    assert loopback.counts.peak_on_card <= 2 * BLOCK


def test_scratch_survives_eviction(loopback: Loopback) -> None:
    one = core(loopback, 4)
    held = [one.empty(BLOCK, 0) for _ in range(10)]
    for number, memory in enumerate(held):
        ranges = [(memory.address, memory.nbytes)]
        one.take(ranges, 0, True)
        loopback.touch(*ranges[0], write=True)
        np.asarray(memory)[:] = number
        one.give(ranges, 0, True)
    assert loopback.counts.to_host > 0
    one.evict([(memory.address, memory.nbytes) for memory in held])
    assert loopback.counts.on_card == 0
    for number, memory in enumerate(held):
        assert (np.asarray(memory) == number).all()
    assert loopback.counts.peak_on_card <= 4 * BLOCK
    assert loopback.counts.faulted == 0


def test_a_smaller_budget_is_kept_at_once(loopback: Loopback) -> None:
    one = core(loopback, 8)
    model = weights(one, 8)
    run(one, loopback, model)
    assert loopback.counts.on_card == 8 * BLOCK
    assert one.set_budget(3 * BLOCK) == 8 * BLOCK
    assert loopback.counts.on_card == 3 * BLOCK
    run(one, loopback, model)


def test_advice_holds(loopback: Loopback) -> None:
    one = core(loopback, 4)
    model = weights(one, 4)
    one.advise([model[0].range], _core.Advice.PREFERRED_HOST)
    for _ in range(3):
        run(one, loopback, model)
    assert not one.on_card([model[0].range])
    assert loopback.counts.over_link == 3 * BLOCK
    assert loopback.counts.faulted == 0
    one.advise([model[0].range], _core.Advice.UNSET_PREFERRED)
    run(one, loopback, model)
    assert one.on_card([weight.range for weight in model])


@pytest.mark.parametrize("entry", ["cuMemAdvise", "cuMemPrefetchAsync"])
def test_a_pass_with_a_failed_move_is_told_and_the_next_pass_works(
    loopback: Loopback, entry: str
) -> None:
    one = core(loopback, 4)
    model = weights(one, 10)
    run(one, loopback, model)
    for nth in range(1, 12):
        loopback.fail(entry, nth=nth)
        with pytest.raises(vramx.DeviceError, match=entry):
            for _ in range(5):
                run(one, loopback, model)
        run(one, loopback, model)
        assert loopback.counts.on_card == one.stats().resident
    assert loopback.counts.peak_on_card <= 4 * BLOCK


def test_the_end_gives_everything_back(loopback: Loopback) -> None:
    before = _core.managed_bytes()
    one = core(loopback, 4, adaptive=True)
    model = weights(one, 10)
    scratch = one.empty(3 * BLOCK, 0)
    run(one, loopback, model)
    one.close()
    one.close()
    with pytest.raises(vramx.SessionClosedError):
        one.acquire(model[0].group, 0)
    for weight in model:
        assert np.array_equal(np.asarray(weight.memory), weight.bytes)
    del one, model, weight, scratch
    assert loopback.holds == {}
    assert _core.managed_bytes() == before
