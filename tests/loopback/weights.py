"""Weights of random bytes, in a core on the loopback driver."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loopback.control import Loopback
from vramx import _core

PAGE = 2 * 2**20


@dataclass
class Weight:
    """One weight of a model, a group of its own, and the bytes it was given."""

    core: _core.Core
    driver: Loopback
    memory: _core.Memory
    group: int
    bytes: np.ndarray

    @property
    def range(self) -> tuple[int, int]:
        return self.memory.address, self.memory.nbytes

    def _pieces(self) -> Iterator[tuple[int, slice]]:
        """Tell where the program and the card find its bytes now, and which those are."""
        start, size = self.range
        for at in range(0, size, PAGE):
            address = start + at
            host = self.core.host_address(address)
            found = host if host and not self.driver.maps(address) else address
            yield found, slice(at, min(at + PAGE, size))

    def touch(self, *, write: bool = False) -> None:
        """Let a kernel use it."""
        for address, part in self._pieces():
            self.driver.touch(address, part.stop - part.start, write=write)

    def read(self) -> bytes:
        """Return its bytes."""
        return b"".join(ctypes.string_at(at, part.stop - part.start) for at, part in self._pieces())

    def fill(self, value: int) -> None:
        """Write to all of it."""
        self.bytes[:] = value
        for address, part in self._pieces():
            ctypes.memset(address, value, part.stop - part.start)

    @property
    def right(self) -> bool:
        """Whether it has the bytes it was given."""
        return self.read() == self.bytes.tobytes()


def filled(core: _core.Core, driver: Loopback, memories: list[_core.Memory]) -> list[Weight]:
    """Make weights of memories, in the order of their use."""
    random = np.random.default_rng(0)
    made = []
    for memory in memories:
        content = random.integers(0, 256, memory.nbytes, dtype=np.uint8)
        core.store([(memory.address, content.ctypes.data, content.nbytes)])
        group = core.define([(memory.address, memory.nbytes)])
        made.append(Weight(core, driver, memory, group, content))
    return made
