"""When a session's weights get packed copies."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Protocol

from vramx import _core
from vramx.errors import InUseError, OutOfMemoryError
from vramx.hostram import host_ram
from vramx.units import format_size

#: What packed copies take of the bytes they stand for, and of the host's memory that is left free.
_PACKED_SHARE, _LEFT_FREE = 0.7, 0.05


class Weights(Protocol):
    """The weights of a module or a model, as far as they are packed."""

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of which no packed copy was tried yet."""

    def pack(self) -> None:
        """Try these, by `Packing.make`."""


class Packing:
    """Gives weights packed copies, as a session was opened.

    Parameters
    ----------
    core : _core.Core
        The session's core.
    compress : str
        As of `vramx.oversubscribe`; ``"never"`` where the card makes none.
    """

    def __init__(self, core: _core.Core, compress: str) -> None:
        self._core = core
        self._compress = compress
        self._told_of_ram = False
        self._told_unpacked = False

    def pack(self, among: Sequence[Weights]) -> None:
        """Give weights packed copies, each once, where that is wanted now.

        What a lease or a pin holds is left for the next time.
        """
        if not self._is_wanted():
            return
        raw = sum(weights.unpacked_bytes for weights in among)
        if raw == 0 or (self._compress == "auto" and not self._has_ram(raw)):
            return
        for weights in among:
            with contextlib.suppress(InUseError):
                weights.pack()

    def make(self, weights: Sequence[tuple[int, int, str, str]]) -> bool:
        """Make packed copies of weights; warn once where memory for them runs out.

        Parameters
        ----------
        weights : sequence of (int, int, str, str)
            Addresses, bytes, types and names.

        Returns
        -------
        bool
            Whether it was done, as far as memory allows. Else the card has no room for that now.

        Raises
        ------
        InUseError
            If a lease or a pin holds some of them.
        """
        try:
            return self._core.pack(weights)
        except OutOfMemoryError as error:
            if not self._told_unpacked:
                self._told_unpacked = True
                warnings.warn(
                    f"{error}. They are used raw. Free host memory before they are managed, or "
                    'manage less; compress="never" says that it is meant so',
                    RuntimeWarning,
                    stacklevel=7,
                )
            return True

    def _is_wanted(self) -> bool:
        if self._compress != "auto":
            return self._compress == "always"
        stats = self._core.stats()
        return stats.managed > stats.budget

    def _has_ram(self, raw: int) -> bool:
        """Tell whether packed copies leave the host some memory; warn once where they do not."""
        ram = host_ram()
        needed = int(_PACKED_SHARE * raw)
        if ram is None or ram.usable - needed >= _LEFT_FREE * ram.total:
            return True
        if not self._told_of_ram:
            self._told_of_ram = True
            warnings.warn(
                f"weights get no packed copies, which would take about {format_size(needed)} of "
                f"host memory: {format_size(ram.usable)} are available, and a twentieth of "
                f'{format_size(ram.total)} is left free. Free some; or compress="always" packs '
                'all the same, and compress="never" says that it is meant so',
                RuntimeWarning,
                stacklevel=6,
            )
        return False
