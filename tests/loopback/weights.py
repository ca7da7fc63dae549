"""Weights of random bytes, in a core on the loopback driver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramx import _core


@dataclass
class Weight:
    """One weight of a model, a group of its own, and the bytes it was given."""

    memory: _core.Memory
    group: int
    bytes: np.ndarray

    @property
    def range(self) -> tuple[int, int]:
        return self.memory.address, self.memory.nbytes


def filled(core: _core.Core, memories: list[_core.Memory]) -> list[Weight]:
    """Make weights of memories, in the order of their use."""
    random = np.random.default_rng(0)
    made = []
    for memory in memories:
        content = random.integers(0, 256, memory.nbytes, dtype=np.uint8)
        core.store([(memory.address, content.ctypes.data, content.nbytes)])
        made.append(Weight(memory, core.define([(memory.address, memory.nbytes)]), content))
    return made
