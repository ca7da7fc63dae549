"""How fast the driver alone brings managed memory to the card, which its work on pages limits."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from collections.abc import Iterator

import torch

#: Of managed memory.
_BYTES = 2**30
_LANES = 2
#: Blocks that are on the card at a time, as few as a streamed pass has.
_KEPT = 4
_SAMPLES = 3
_ATTACH_GLOBAL = 1
_SET_READ_MOSTLY, _UNSET_READ_MOSTLY, _SET_PREFERRED_LOCATION = 1, 2, 3
_HOST = -1


class DriverRate:
    """Brings managed memory as vramx does, without a session: no policy, no plan, no mover.

    Blocks are duplicated on the card by two streams in turn and dropped again. The first time is
    not measured, since the driver maps host pages then. The memory is held until the process ends.

    Parameters
    ----------
    block : int
        Bytes of a request.

    Attributes
    ----------
    samples : list of float
        Bytes a second, as `around` measured them.
    """

    def __init__(self, block: int) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._card = torch.cuda.current_device()
        self._lanes = [torch.cuda.Stream() for _ in range(_LANES)]
        self._block = block
        start = ctypes.c_uint64()
        size = ctypes.c_size_t(_BYTES)
        self._call("cuMemAllocManaged", ctypes.byref(start), size, _ATTACH_GLOBAL)
        self._start = start.value
        self._advise(0, _BYTES, _SET_PREFERRED_LOCATION, _HOST)
        ctypes.memset(self._start, 1, _BYTES)
        self.samples: list[float] = []
        self.rate()

    def rate(self) -> float:
        """Bring all once; return bytes a second."""
        began = time.perf_counter()
        for place in range(_BYTES // self._block):
            lane = self._lanes[place % _LANES]
            lane.synchronize()
            if place >= _KEPT:
                self._advise_block(place - _KEPT, _UNSET_READ_MOSTLY)
            self._advise_block(place, _SET_READ_MOSTLY)
            self._call(
                "cuMemPrefetchAsync",
                ctypes.c_uint64(self._start + place * self._block),
                ctypes.c_size_t(self._block),
                self._card,
                ctypes.c_void_p(lane.cuda_stream),
            )
        for lane in self._lanes:
            lane.synchronize()
        seconds = time.perf_counter() - began
        self._advise(0, _BYTES, _UNSET_READ_MOSTLY, self._card)
        return _BYTES / seconds

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Measure before and after a scope."""
        self.samples = [self.rate() for _ in range(_SAMPLES)]
        yield
        self.samples += [self.rate() for _ in range(_SAMPLES)]

    def median(self) -> float:
        """Return the median of what `around` measured."""
        return statistics.median(self.samples)

    def _advise_block(self, place: int, advice: int) -> None:
        self._advise(place * self._block, self._block, advice, self._card)

    def _advise(self, at: int, nbytes: int, advice: int, where: int) -> None:
        start = ctypes.c_uint64(self._start + at)
        self._call("cuMemAdvise", start, ctypes.c_size_t(nbytes), advice, where)

    def _call(self, name: str, *arguments: object) -> None:
        result = self._driver[name](*arguments)
        if result != 0:
            raise RuntimeError(f"{name} failed: error {result}")
