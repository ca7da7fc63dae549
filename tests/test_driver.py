"""What vramx says of a driver that is absent, too old, or fails, and that it goes on afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vramx
from loopback.control import OUT_OF_MEMORY, Loopback
from vramx import _core

pytest_plugins = ("loopback.fixture",)

GRANULE = 2 * 2**20
UNLIMITED = 2**64 - 1


def card(driver: Loopback, ordinal: int = 0) -> _core.Device:
    return _core.open_managed(driver=driver.path, ordinal=ordinal)


def core(device: _core.Device, host_limit: int = UNLIMITED) -> _core.Core:
    return _core.Core(
        device=device,
        budget=4 * GRANULE,
        block=GRANULE,
        policy="lru",
        threaded=True,
        host_limit=host_limit,
    )


@pytest.fixture
def managed_limit() -> Iterator[int]:
    """Four granules may be managed, in all."""
    before = _core.set_managed_limit(4 * GRANULE)
    yield 4 * GRANULE
    assert _core.set_managed_limit(before) == 4 * GRANULE


def test_a_card_is_told_as_the_driver_tells_it(loopback: Loopback) -> None:
    loopback.set_cards(2)
    device = card(loopback, 1)
    assert (device.name, device.kind, device.ordinal) == ("Loopback card 1", "managed", 1)
    assert device.capacity == 8 * 2**30
    assert device.granule == GRANULE
    assert device.reads_over_link
    assert device.slow_moves
    assert device.free_bytes == device.capacity


def test_no_driver(tmp_path: Path) -> None:
    path = str(tmp_path / "libcuda.so.1")
    with pytest.raises(vramx.NoDeviceError, match=r"no NVIDIA driver.*simulated") as raised:
        _core.open_managed(driver=path, ordinal=0)
    assert path in str(raised.value)


def test_a_driver_that_is_too_old_says_both_versions(loopback: Loopback) -> None:
    loopback.set_version(11080)
    with pytest.raises(vramx.NoDeviceError, match=r"11\.8.*12\.0"):
        card(loopback)
    loopback.set_version(12000)
    assert card(loopback).kind == "managed"


def test_a_driver_that_lacks_an_entry_point_says_which(old_loopback: Loopback) -> None:
    with pytest.raises(vramx.NoDeviceError, match="lacks cuMemPrefetchAsync"):
        card(old_loopback)


def test_no_concurrent_managed_access(loopback: Loopback) -> None:
    loopback.set_concurrent_access(0)
    with pytest.raises(vramx.NoDeviceError, match="Loopback card 0 has no concurrent managed"):
        card(loopback)
    assert loopback.holds == {}


@pytest.mark.parametrize("ordinal", [-1, 1, 7])
def test_an_absent_card_says_which_there_are(loopback: Loopback, ordinal: int) -> None:
    with pytest.raises(vramx.NoDeviceError, match=rf"no CUDA device {ordinal}: .* lists 1"):
        card(loopback, ordinal)


def test_a_driver_without_cards(loopback: Loopback) -> None:
    loopback.set_cards(0)
    with pytest.raises(vramx.NoDeviceError, match=r"cuInit.*CUDA_ERROR_NO_DEVICE"):
        card(loopback)


@pytest.mark.parametrize(
    "entry",
    ["cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDevicePrimaryCtxRetain", "cuStreamCreate"],
)
def test_a_card_that_fails_to_open_can_be_opened_again(loopback: Loopback, entry: str) -> None:
    card(loopback)
    loopback.fail(entry)
    with pytest.raises(vramx.DeviceError, match="CUDA_ERROR_UNKNOWN"):
        card(loopback)
    assert loopback.holds == {}
    assert card(loopback).kind == "managed"


def test_a_result_that_the_driver_does_not_name_is_an_error_too(loopback: Loopback) -> None:
    device = card(loopback)
    loopback.fail("cuMemGetInfo_v2", 998)
    with pytest.raises(vramx.DeviceError, match="cuMemGetInfo"):
        assert device.free_bytes
    assert device.free_bytes == device.capacity


def test_the_limit_on_managed_memory_is_told_and_takes_nothing(
    loopback: Loopback, managed_limit: int
) -> None:
    one = core(card(loopback))
    held = one.reserve([3 * GRANULE], _core.Purpose.WEIGHTS)
    with pytest.raises(vramx.OutOfMemoryError, match="VRAMX_MANAGED_LIMIT") as raised:
        one.reserve([2 * GRANULE], _core.Purpose.WEIGHTS)
    assert (raised.value.asked, raised.value.budget) == (2 * GRANULE, managed_limit)
    assert raised.value.resident == 3 * GRANULE
    assert _core.managed_bytes() == loopback.counts.managed == 3 * GRANULE
    del held
    assert _core.managed_bytes() == 0
    assert one.reserve([managed_limit], _core.Purpose.WEIGHTS)[0].nbytes == managed_limit


def test_the_host_limit_is_told_and_takes_nothing(loopback: Loopback) -> None:
    one = core(card(loopback), host_limit=4 * GRANULE)
    with pytest.raises(vramx.OutOfMemoryError, match="host_limit"):
        one.reserve([5 * GRANULE], _core.Purpose.WEIGHTS)
    assert loopback.counts.managed == 0
    assert len(one.reserve([4 * GRANULE], _core.Purpose.WEIGHTS)) == 1


@pytest.mark.parametrize(
    ("entry", "use"),
    [
        ("cuMemAllocManaged", _core.Purpose.WEIGHTS),
        ("cuMemAllocManaged", _core.Purpose.SCRATCH),
        ("cuMemAdvise", _core.Purpose.WEIGHTS),
        ("cuMemAdvise", _core.Purpose.SCRATCH),
    ],
)
def test_a_failed_allocation_is_told_and_the_next_one_works(
    loopback: Loopback, entry: str, use: _core.Purpose
) -> None:
    one = core(card(loopback))
    loopback.fail(entry)
    with pytest.raises(vramx.DeviceError, match=f"{entry} failed: CUDA_ERROR_UNKNOWN"):
        one.reserve([GRANULE], use)
    assert loopback.counts.managed == 0
    loopback.fail(entry, OUT_OF_MEMORY)
    with pytest.raises(vramx.OutOfMemoryError, match=entry):
        one.reserve([GRANULE], use)
    assert loopback.counts.managed == 0
    assert len(one.reserve([GRANULE], use)) == 1


@pytest.mark.parametrize("entry", ["cuMemAdvise", "cuMemPrefetchAsync", "cuEventRecord"])
def test_a_failed_bring_is_told_and_the_next_one_works(loopback: Loopback, entry: str) -> None:
    one = core(card(loopback))
    (weight,) = one.reserve([2 * GRANULE], _core.Purpose.WEIGHTS)
    group = one.define([(weight.address, weight.nbytes)])
    loopback.fail(entry)
    with pytest.raises(vramx.DeviceError, match=f"{entry} failed"):
        one.acquire(group, 0)
    assert one.stats().leased == 0
    assert loopback.counts.on_card == one.stats().resident
    one.acquire(group, 0)
    assert loopback.counts.on_card == 2 * GRANULE
    one.release(group, 0)


@pytest.mark.parametrize("entry", ["cuMemAdvise", "cuMemPrefetchAsync", "cuEventRecord"])
def test_a_failed_eviction_is_told_and_the_next_one_works(loopback: Loopback, entry: str) -> None:
    one = core(card(loopback))
    (weight,) = one.reserve([2 * GRANULE], _core.Purpose.WEIGHTS)
    ranges = [(weight.address, weight.nbytes)]
    one.take(ranges, 0, True)
    one.written(ranges)
    one.give(ranges, 0, True)
    # Before the eviction's own event come those of both blocks' last uses, left until now.
    loopback.fail(entry, nth=3 if entry == "cuEventRecord" else 1)
    with pytest.raises(vramx.DeviceError, match=f"{entry} failed"):
        one.evict(ranges)
    assert loopback.counts.on_card == one.stats().resident == 2 * GRANULE
    one.evict(ranges)
    assert loopback.counts.on_card == one.stats().resident == 0


def test_a_driver_whose_words_are_out_of_memory_is_out_of_memory(loopback: Loopback) -> None:
    one = core(card(loopback))
    (weight,) = one.reserve([GRANULE], _core.Purpose.WEIGHTS)
    group = one.define([(weight.address, weight.nbytes)])
    loopback.fail("cuMemPrefetchAsync", OUT_OF_MEMORY)
    with pytest.raises(vramx.OutOfMemoryError, match="cuMemPrefetchAsync"):
        one.acquire(group, 0)
    one.acquire(group, 0)
    one.release(group, 0)


def test_memory_may_outlive_its_core_and_device(loopback: Loopback) -> None:
    one = core(card(loopback))
    held = [*one.reserve([GRANULE], _core.Purpose.WEIGHTS), one.empty(GRANULE, 0)]
    one.close()
    del one
    assert loopback.counts.managed > 0
    del held
    assert loopback.holds == {}


def test_an_entry_point_that_is_not_there_aborts_with_its_name(loopback: Loopback) -> None:
    code = f"import ctypes; ctypes.CDLL({loopback.path!r}).cuMemcpyAsync()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode < 0
    assert "does not implement cuMemcpyAsync" in done.stderr
