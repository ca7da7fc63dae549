"""When a session's weights get packed copies."""

from __future__ import annotations

import warnings

from vramx import _core
from vramx.hostram import host_ram
from vramx.units import format_size

#: What packed copies take of the bytes they stand for, and of the host's memory that is left free.
_PACKED_SHARE, _LEFT_FREE = 0.7, 0.05


class Packing:
    """Decides whether weights get packed copies, as a session was opened.

    Parameters
    ----------
    core : _core.Core
        The session's core.
    compress : str
        As of `vramx.oversubscribe`.
    """

    def __init__(self, core: _core.Core, compress: str) -> None:
        self._core = core
        self._compress = compress
        self._told_of_ram = False

    def is_wanted(self) -> bool:
        """Tell whether they get them now; warn once where the host has no room for them."""
        if self._compress != "auto":
            return self._compress == "always"
        stats = self._core.stats()
        return stats.managed > stats.budget and self._has_ram(stats.managed)

    def _has_ram(self, raw: int) -> bool:
        """Tell whether packed copies leave the host some memory."""
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
