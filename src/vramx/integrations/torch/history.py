"""What was counted of modules that are managed no more."""

from __future__ import annotations

from vramx import _core
from vramx.seeing.usage import ModuleStats, added, module_stats


class History:
    """The counts of a session's modules of old, by name.

    Parameters
    ----------
    core : _core.Core
        The session's core.

    Attributes
    ----------
    gone : list of (str, int)
        Names and groups of leased modules that the program has let go of, until `bury`.
    """

    def __init__(self, core: _core.Core) -> None:
        self._core = core
        self._rows: dict[str, ModuleStats] = {}
        self.gone: list[tuple[str, int]] = []

    def remember(self, usage: list[ModuleStats]) -> None:
        """Keep the counts of modules that are managed no more."""
        for each in usage:
            self._rows[each.name] = added(self._rows.get(each.name), each)

    def bury(self) -> None:
        """Let go of what the core knows of modules that are gone, but for their counts."""
        while self.gone:
            name, group = self.gone.pop()
            self.remember([module_stats(name, [], self._core.usage(group))])
            self._core.undefine(group)

    def usage(self) -> list[ModuleStats]:
        """List the counts, a row for each name."""
        return [*self._rows.values()]
