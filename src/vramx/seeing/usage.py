"""What each managed module was used for, how often its memory moved, why, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vramx import _core
from vramx.seeing.stats import Stats

#: Start address and bytes.
Range = tuple[int, int]


@dataclass(frozen=True)
class ModuleStats:
    """Counts of one leased module since it was managed.

    How often something happened is counted in blocks, the unit of residency. A block that several
    modules share counts for each of them; its bytes count for each by the part that is the module's
    own.

    Attributes
    ----------
    name : str
        The managed module's name and, after a dot, the qualified name inside it.
    nbytes, blocks : int
        Its own bytes, and the blocks that they lie in.
    resident, kept : int
        Of its own bytes, those on the card now, and those that the plan in force always keeps.
    packed_on_host, packed_on_card : int
        Bytes of its packed copy, as in `Stats`.
    uses : int
        Times that it was leased, by itself or in a fused unit.
    hits, misses : int
        Blocks that a lease found on the card or in flight, and blocks that it had to fetch.
    fetched : dict of str to int
        How often blocks were fetched, by cause: ``"use"`` (a use missed them), ``"order"`` (ahead,
        as what was used before suggests), ``"plan"`` (ahead, as the plan says), ``"prefetch"`` (the
        program asked).
    evicted : dict of str to int
        How often blocks were evicted, by cause: to make room for a ``"use"``, for what is fetched
        ``"ahead"`` or for a ``"prefetch"``; because of the ``"plan"``; because the program called
        ``"evict"``, loaded the module or gave it up; because it shrank the ``"budget"``; or because
        it changed how the ``"host"`` copy is kept.
    moved_in, crossed_in, moved_out, dropped, discarded, over_link : int
        Bytes, as in `Stats`.
    stall_seconds : float
        Time that its calls waited for moves, as in `Stats`.
    """

    name: str
    nbytes: int = 0
    blocks: int = 0
    resident: int = 0
    kept: int = 0
    packed_on_host: int = 0
    packed_on_card: int = 0
    uses: int = 0
    hits: int = 0
    misses: int = 0
    fetched: dict[str, int] = field(default_factory=dict)
    evicted: dict[str, int] = field(default_factory=dict)
    moved_in: int = 0
    crossed_in: int = 0
    moved_out: int = 0
    dropped: int = 0
    discarded: int = 0
    over_link: int = 0
    stall_seconds: float = 0.0

    def __add__(self, other: ModuleStats) -> ModuleStats:
        """Add another's counts; the name stays."""

        def added(name: str) -> Any:
            mine, others = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                return {key: mine.get(key, 0) + others.get(key, 0) for key in {**mine, **others}}
            return mine + others

        counts = (each.name for each in fields(self) if each.name != "name")
        return ModuleStats(self.name, **{name: added(name) for name in counts})


_BYTES = ("moved_in", "crossed_in", "moved_out", "dropped", "discarded", "over_link")


def added(before: ModuleStats | None, after: ModuleStats) -> ModuleStats:
    """Add counts of one module from before and after something, with its later size."""
    if before is None:
        return after
    return replace(before + after, nbytes=after.nbytes, blocks=after.blocks)


def module_stats(name: str, ranges: Sequence[Range], usage: _core.GroupUsage) -> ModuleStats:
    """Put together the counts of a module.

    Parameters
    ----------
    name : str
        How it is called.
    ranges : sequence of (int, int)
        Address and bytes of its own memory.
    usage : _core.GroupUsage
        What was counted of the blocks that hold it.

    Returns
    -------
    ModuleStats
        Its counts.
    """
    total = ModuleStats(name, uses=usage.uses, stall_seconds=usage.stall_seconds)
    for block in usage.blocks:
        end = block.address + block.nbytes
        own = sum(
            max(0, min(end, start + size) - max(block.address, start)) for start, size in ranges
        )
        counts = block.counts
        packed = block.packed * own // block.nbytes
        total += ModuleStats(
            name,
            nbytes=own,
            blocks=1,
            resident=own if block.on_card else 0,
            kept=own if block.kept else 0,
            packed_on_host=packed,
            packed_on_card=packed if block.packed_on_card else 0,
            hits=counts.hits,
            misses=counts.misses,
            fetched=counts.fetched,
            evicted=counts.evicted,
            **{each: getattr(counts, each) * own // block.nbytes for each in _BYTES},
        )
    return total


def the_rest(modules: Sequence[ModuleStats], stats: Stats, ungrouped: _core.Counts) -> ModuleStats:
    """Count what no module accounts for: activations, and what lies between tensors.

    Parameters
    ----------
    modules : sequence of ModuleStats
        The modules.
    stats : Stats
        The session's counts.
    ungrouped : _core.Counts
        Counts of memory that no module ever was in.

    Returns
    -------
    ModuleStats
        The session's bytes and stalls less those of the modules, and the times that memory of
        other kinds moved.
    """
    rest = {
        name: max(0, getattr(stats, name) - sum(getattr(each, name) for each in modules))
        for name in (*_BYTES, "stall_seconds")
    }
    if rest["stall_seconds"] < 1e-9:  # what adding up rounds away
        rest["stall_seconds"] = 0.0
    return ModuleStats(
        "(activations and other)",
        hits=ungrouped.hits,
        misses=ungrouped.misses,
        fetched=ungrouped.fetched,
        evicted=ungrouped.evicted,
        **rest,
    )
