"""The plan in force: what it keeps, and the time and bytes that it predicts."""

from __future__ import annotations

from dataclasses import dataclass

from vramx import _core
from vramx.seeing.notebooks import preformatted
from vramx.units import format_seconds, format_size


@dataclass(frozen=True)
class Plan:
    """What is kept on the card and what is streamed, from recorded passes.

    Attributes
    ----------
    passes_recorded : int
        Passes that plans were made from since the session was opened.
    uses : int
        Leases in a pass.
    used : int
        Bytes that a pass uses, each block counted once.
    budget : int
        Bytes that the plan divides: the session's budget less what the program allocates.
    kept : int
        Bytes in blocks that are always kept; the rest of `used` is evicted and fetched again.
    kept_packed, packed_copies : int
        Bytes in blocks whose packed copies are always kept on the card, from which they are
        unpacked for each use, and bytes of those copies.
    ahead : int
        Bytes left free for what is fetched ahead.
    compute_seconds : float
        Work in a pass, as recorded.
    seconds : float
        What a pass takes, as predicted from the recorded work and the link's rate.
    moved_in, moved_out : int
        Bytes that a pass moves over the link to the card, and back, as predicted.
    raw_in : int
        Bytes of weights that `moved_in` stands for: more, where packed copies cross the link.
    unpacked : int
        Bytes of weights that the card unpacks in a pass, as predicted.
    bound_seconds : float
        What no way of moving the blocks can beat for this work in this order: without packed copies
        ``max(compute_seconds, (used - budget) / link)`` at least, and more where a part of the pass
        takes long but uses few bytes.
    """

    passes_recorded: int
    uses: int
    used: int
    budget: int
    kept: int
    kept_packed: int
    packed_copies: int
    ahead: int
    compute_seconds: float
    seconds: float
    moved_in: int
    raw_in: int
    unpacked: int
    moved_out: int
    bound_seconds: float

    def lines(self) -> list[str]:
        """Describe the plan for people, in a few lines."""
        packed = for_raw = unpacks = ""
        if self.kept_packed:
            packed = (
                f"keeps {format_size(self.kept_packed)} packed in "
                f"{format_size(self.packed_copies)}, "
            )
        if self.raw_in > self.moved_in:
            for_raw = f" for {format_size(self.raw_in)}"
        if self.unpacked:
            unpacks = f", unpacks {format_size(self.unpacked)}"
        streamed = self.used - self.kept - self.kept_packed
        return [
            f"plan from {self.passes_recorded} recorded passes of {self.uses} uses and "
            f"{format_size(self.used)}",
            f"  keeps {format_size(self.kept)}, {packed}streams {format_size(streamed)}, "
            f"leaves {format_size(self.ahead)} free to fetch ahead",
            f"  predicts {format_seconds(self.seconds)} a pass, {format_size(self.moved_in)} in"
            f"{for_raw} and {format_size(self.moved_out)} out{unpacks}; the bound is "
            f"{format_seconds(self.bound_seconds)}",
        ]

    def _repr_html_(self) -> str:
        return preformatted("\n".join(self.lines()))


def plan_of(native: _core.PlanUsage) -> Plan:
    """Turn a native plan into a `Plan`."""
    return Plan(
        passes_recorded=native.passes,
        uses=native.uses,
        used=native.used,
        budget=native.budget,
        kept=native.kept,
        kept_packed=native.kept_packed,
        packed_copies=native.packed_copies,
        ahead=native.ahead,
        compute_seconds=native.compute_seconds,
        seconds=native.seconds,
        moved_in=native.moved_in,
        raw_in=native.raw_in,
        unpacked=native.unpacked,
        moved_out=native.moved_out,
        bound_seconds=native.bound_seconds,
    )
