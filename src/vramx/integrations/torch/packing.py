"""When managed weights get packed copies."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Protocol

from vramx.errors import InUseError
from vramx.hostram import host_ram
from vramx.integrations.torch.core import TorchCore
from vramx.units import format_size

#: What packed copies take of the bytes they stand for, and of the host's memory that is left free.
_PACKED_SHARE, _LEFT_FREE = 0.7, 0.05


class Weights(Protocol):
    """The weights of a module, as far as they are packed."""

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of which no packed copy was tried yet."""

    def pack(self) -> None:
        """Try these."""


class Packing:
    """Gives a session's weights packed copies, where the program wants them.

    Parameters
    ----------
    torch_core : TorchCore
        What the session's torch side stands on.
    compress : str
        ``"auto"``, ``"always"`` or ``"never"``.
    """

    def __init__(self, torch_core: TorchCore, compress: str) -> None:
        self._core = torch_core.core
        self._compress = compress if torch_core.packs else "never"
        self._told_of_ram = False

    def pack(self, modules: Sequence[Weights]) -> None:
        """Give the weights of modules packed copies, each once, where that is wanted now.

        What a lease or a pin holds is left for the next time.
        """
        if not self._is_wanted():
            return
        raw = sum(weights.unpacked_bytes for weights in modules)
        if raw == 0 or (self._compress == "auto" and not self._has_ram(raw)):
            return
        for weights in modules:
            with contextlib.suppress(InUseError):
                weights.pack()

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
                stacklevel=5,
            )
        return False
