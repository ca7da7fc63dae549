"""Packed copies through a session's core on mapped memory, over the stand-in driver."""

from __future__ import annotations

import numpy as np
import pytest

from loopback.control import Loopback
from vramx import _core

pytest_plugins = ("loopback.fixture",)

#: The card maps half of that.
BLOCK = 4 * 2**20
PASSES = 12

needs_kernels = pytest.mark.skipif(
    not _core.packing_kernels()[0], reason="this build has no kernels that pack"
)


def normal_weights(count: int) -> np.ndarray:
    """Draw bfloat16 weights as they are trained, as bytes."""
    words = np.random.default_rng(1).normal(0, 0.02, count).astype(np.float32).view(np.uint32)
    return (words >> 16).astype(np.uint16).view(np.uint8)


@needs_kernels
@pytest.mark.parametrize(
    ("uses", "blocks_each", "ratio"), [(34, 1, 1.4), (16, 2, 1.25), (19, 3, 2)]
)
def test_a_steady_pass_over_packed_weights_maps_nothing(
    loopback: Loopback, uses: int, blocks_each: int, ratio: float
) -> None:
    size = blocks_each * BLOCK
    device = _core.open_mapped(driver=loopback.path, ordinal=0, unit=BLOCK)
    # Slower than the processor that unpacks in the card's place.
    device.set_rates(_core.Purpose.WEIGHTS, up=1e7, down=1e7)
    core = _core.Core(
        device=device,
        budget=2 * uses * size,
        block=BLOCK,
        policy="adaptive",
        threaded=True,
        host_limit=2**64 - 1,
    )
    # The last one ends in the midst of a block.
    sizes = [size] * (uses - 1) + [size - BLOCK // 2]
    raw = normal_weights(sum(sizes) // 2)
    memories = core.reserve(sizes, _core.Purpose.WEIGHTS)
    core.store([(m.address, raw.ctypes.data + i * size, m.nbytes) for i, m in enumerate(memories)])
    core.pack([(m.address, m.nbytes, "bf16", "") for m in memories])
    groups = [core.define([(m.address, m.nbytes)]) for m in memories]

    def run_pass() -> int:
        before = loopback.calls("cuMemMap") + loopback.calls("cuMemUnmap")
        for group, memory in zip(groups, memories):
            assert core.acquire(group, 0)
            loopback.touch(memory.address, memory.nbytes)
            core.release(group, 0)
        return loopback.calls("cuMemMap") + loopback.calls("cuMemUnmap") - before

    run_pass()
    core.set_budget(int(uses * blocks_each / ratio) * BLOCK)
    mapped = [run_pass() for _ in range(PASSES)]
    plan = core.plan()
    assert plan is not None
    assert plan.unpacked > 0
    assert mapped[-4:] == [0] * 4, mapped
    back = np.empty_like(raw)
    core.load([(m.address, back.ctypes.data + i * size, m.nbytes) for i, m in enumerate(memories)])
    assert np.array_equal(back, raw)
    core.close()
