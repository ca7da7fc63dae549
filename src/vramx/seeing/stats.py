"""What a session has done, in bytes, blocks and seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from vramx.units import format_size

_COUNTS = ("hits", "misses", "evictions", "failed_moves", "passes", "unleased_accesses")


@dataclass(frozen=True)
class Stats:
    """Counts of a session since it was opened.

    Attributes
    ----------
    budget, managed, resident, leased : int
        Bytes: allowed on the card, managed, on the card now, held there by running modules and
        pins. Packed copies on the card and the memory that packed bytes arrive in are on it too.
    peak_resident : int
        The most bytes on the card at once, including those in flight. Never above the budget.
    packed_on_host, packed_on_card : int
        Bytes of packed copies of weights in host memory now, and of those that are on the card too,
        which are part of `resident`.
    moved_in, moved_out : int
        Bytes fetched to the card, and written back from it.
    crossed_in : int
        Bytes that the link carried for `moved_in`: fewer where packed copies crossed it, or were on
        the card.
    dropped, discarded : int
        Bytes evicted without a copy: with a valid host copy, or needed by nobody.
    over_link : int
        Bytes used in place in host memory because they did not fit the card.
    hits, misses : int
        Blocks a lease found on the card or in flight, and blocks it had to fetch.
    evictions, failed_moves : int
        Blocks that were evicted, and moves that failed and left everything where it was.
    stall_seconds : float
        Time that work waited for moves: on the simulated device the virtual seconds that its
        streams waited; else the seconds that threads waited for moves to be issued.
    passes : int
        Finished calls of managed modules, the roots only.
    unleased_accesses : int
        Uses of managed memory outside any lease, each at the cost of a fault. Counted on the
        simulated device, and by checking mode; on a real card the hardware handles them unseen.
        Mapped weights are used in place instead, on the simulated device too.
    """

    budget: int = 0
    managed: int = 0
    resident: int = 0
    leased: int = 0
    peak_resident: int = 0
    packed_on_host: int = 0
    packed_on_card: int = 0
    moved_in: int = 0
    crossed_in: int = 0
    moved_out: int = 0
    dropped: int = 0
    discarded: int = 0
    over_link: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    failed_moves: int = 0
    stall_seconds: float = 0.0
    passes: int = 0
    unleased_accesses: int = 0

    def table(self) -> str:
        """Write the counts for people.

        Returns
        -------
        str
            One line a count.
        """
        lines = []
        counts = asdict(self)
        width = max(map(len, counts)) + 1
        for name, value in counts.items():
            if name == "stall_seconds":
                written = f"{value:.3f}"
            else:
                written = str(value) if name in _COUNTS else format_size(value)
            lines.append(f"  {name:<{width}}{written}")
        return "\n".join(lines)
