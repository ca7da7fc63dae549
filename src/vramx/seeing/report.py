"""The report's table of modules."""

from __future__ import annotations

from collections.abc import Sequence

from vramx.seeing.usage import ModuleStats
from vramx.units import format_seconds, format_size

#: The most modules that a report names.
MOST_ROWS = 20

_HEADER = ("module", "bytes", "uses", "stalls", "in", "out", "fetched", "evicted")


def _by_cause(counts: dict[str, int]) -> str:
    causes = [f"{name} {count}" for name, count in counts.items() if count]
    return f"{sum(counts.values())}: {', '.join(causes)}" if causes else "0"


def _came(module: ModuleStats) -> str:
    raw = format_size(module.moved_in)
    if module.crossed_in == module.moved_in:
        return raw
    return f"{format_size(module.crossed_in)} for {raw}"


def _cells(module: ModuleStats) -> tuple[str, ...]:
    return (
        module.name,
        format_size(module.nbytes),
        str(module.uses),
        format_seconds(module.stall_seconds),
        _came(module),
        format_size(module.moved_out),
        _by_cause(module.fetched),
        _by_cause(module.evicted),
    )


def _cost(module: ModuleStats) -> tuple[float, int, int]:
    return module.stall_seconds, module.moved_in + module.moved_out, module.uses


def _is_used(module: ModuleStats) -> bool:
    return any(_cost(module)) or any(module.fetched.values()) or any(module.evicted.values())


def module_table(modules: Sequence[ModuleStats], rest: ModuleStats) -> str:
    """Write the counts of modules for people: the longest waits first, then the most bytes moved.

    Parameters
    ----------
    modules : sequence of ModuleStats
        The modules.
    rest : ModuleStats
        What is not theirs; left out where nothing was counted.

    Returns
    -------
    str
        One line a module, `MOST_ROWS` at most, the others summed up in one.
    """
    by_cost = sorted(modules, key=_cost, reverse=True)
    rows = [_HEADER, *(_cells(each) for each in by_cost[:MOST_ROWS])]
    others = by_cost[MOST_ROWS:]
    if others:
        total = sum(others, ModuleStats(f"and {len(others)} more"))
        rows.append(_cells(total))
    if _is_used(rest):
        rows.append(_cells(rest))
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADER))]
    last_number = _HEADER.index("out")
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < place <= last_number else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )
