"""Packed copies through a session's core on mapped memory, over the stand-in driver."""

from __future__ import annotations

import numpy as np
import pytest

from loopback.control import Loopback
from vramx import _core

pytest_plugins = ("loopback.fixture",)

#: What the card maps at least.
GRANULE = 2 * 2**20
PASSES = 10

needs_kernels = pytest.mark.skipif(
    not _core.packing_kernels()[0], reason="this build has no kernels that pack"
)


def normal_weights(count: int) -> np.ndarray:
    """Draw bfloat16 weights as they are trained, as bytes, other ones in each block."""
    words = np.random.default_rng(1).normal(0, 0.02, 300_007).astype(np.float32).view(np.uint32)
    return np.resize((words >> 16).astype(np.uint16), count).view(np.uint8)


class Cycle:
    """Uses of packed weights, one after another; the last ends in the midst of a block."""

    def __init__(self, loopback: Loopback, uses: int, blocks_each: int, block: int) -> None:
        self.loopback = loopback
        self.block = block
        size = blocks_each * block
        self.device = _core.open_mapped(driver=loopback.path, ordinal=0, unit=block)
        # Slower than the processor that unpacks in the card's place.
        self.device.set_rates(_core.Purpose.WEIGHTS, up=1e7, down=1e7)
        self.core = _core.Core(
            device=self.device,
            budget=2 * uses * size,
            block=block,
            policy="adaptive",
            threaded=True,
            host_limit=2**64 - 1,
        )
        sizes = [size] * (uses - 1) + [size - block // 2]
        self.raw = normal_weights(sum(sizes) // 2)
        self.memories = self.core.reserve(sizes, _core.Purpose.WEIGHTS)
        self.core.store(self._copies(self.raw))
        self.core.pack([(m.address, m.nbytes, "bf16", "") for m in self.memories])
        self.groups = [self.core.define([(m.address, m.nbytes)]) for m in self.memories]

    def _copies(self, array: np.ndarray) -> list[tuple[int, int, int]]:
        at = array.ctypes.data
        return [
            (m.address, at + m.address - self.memories[0].address, m.nbytes) for m in self.memories
        ]

    def run_pass(self) -> int:
        """Use all; return how often something was mapped or unmapped."""
        mapped = self.loopback.calls("cuMemMap") + self.loopback.calls("cuMemUnmap")
        for group, memory in zip(self.groups, self.memories):
            assert self.core.acquire(group, 0)
            self.loopback.touch(memory.address, memory.nbytes)
            self.core.release(group, 0)
            assert self.device.card_bytes <= self.core.stats().budget
        return self.loopback.calls("cuMemMap") + self.loopback.calls("cuMemUnmap") - mapped

    def close(self) -> None:
        """Close the core; what it holds has the bits that it was given."""
        back = np.empty_like(self.raw)
        self.core.load(self._copies(back))
        assert np.array_equal(back, self.raw)
        self.core.close()


@needs_kernels
@pytest.mark.parametrize(
    ("uses", "blocks_each", "ratio", "granules"),
    [(46, 1, 1.4, 2), (20, 2, 1.25, 2), (15, 3, 1.5, 4)],
)
def test_a_steady_pass_over_packed_weights_maps_nothing(
    loopback: Loopback, uses: int, blocks_each: int, ratio: float, granules: int
) -> None:
    cycle = Cycle(loopback, uses, blocks_each, granules * GRANULE)
    cycle.run_pass()
    cycle.core.set_budget(int(uses * blocks_each / ratio) * cycle.block)
    mapped = [cycle.run_pass() for _ in range(PASSES)]
    plan = cycle.core.plan()
    assert plan is not None
    assert plan.unpacked > 0
    assert mapped[-4:] == [0] * 4, mapped
    cycle.close()


@needs_kernels
def test_a_budget_without_room_for_packed_bytes_to_arrive_in_is_held(loopback: Loopback) -> None:
    cycle = Cycle(loopback, 12, 1, 2 * GRANULE)
    for blocks in (6, 24, 5, 22, 4):
        cycle.core.set_budget(blocks * cycle.block)
        for _ in range(4):
            cycle.run_pass()
    cycle.close()
