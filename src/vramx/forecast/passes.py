"""The forecast itself: from the steps of a pass to what it takes on a card."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vramx import _core
from vramx.cards.pcie import PARTS, moving_rates
from vramx.errors import ConfigError
from vramx.forecast.table import PlannedCard
from vramx.units import Size, format_size, parse_size
from vramx.uses import ModuleUse

#: Blocks that an even plan has in flight (T_plan's S).
IN_FLIGHT = 4
#: A pass this close to the fastest is as good.
_AS_GOOD = 1.01
#: Blocks that packing makes no smaller than this part stay raw.
_WORTH_PACKING = 0.95
#: Memory in which blocks may be packed.
_UNPACKING = ("mapped", "simulated")
#: The part of peak rates that large matrix products reach: 0.72 to 0.77 measured on an H200.
EFFICIENCY = 0.7

PRECISIONS = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Precision:
    """A model's size with its numbers in another precision.

    Attributes
    ----------
    name : str
        ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``.
    nbytes : int
        Bytes of all weights.
    fits : bool
        Whether that fits the budget, activations included.
    """

    name: str
    nbytes: int
    fits: bool


@dataclass(frozen=True)
class PackedPass:
    """A pass that keeps and streams packed copies of weights where that is faster.

    Attributes
    ----------
    seconds : float
        The pass, as planned.
    moved : int
        Bytes that cross the link in it.
    raw : int
        Bytes of the weights that those stand for.
    unpacked : int
        Bytes of the weights that the card unpacks in it.
    t_packed : float
        What an even plan of even work reaches: the longer one of the work with what is unpacked
        beside it, and of the link's time for packed bytes that the card has no room for.
    """

    seconds: float
    moved: int
    raw: int
    unpacked: int
    t_packed: float


@dataclass(frozen=True)
class Forecast:
    """How passes of a model would go on a card; bytes and seconds.

    Attributes
    ----------
    card, card_source : str
        The card, and where its figures are from.
    link : float
        Bytes a second to the card.
    link_source : str
        Whether that was measured or estimated.
    backend : str
        Where weights are kept.
    moving_rate : float
        Bytes a second that its moves to the card reach.
    budget : int
        The most bytes on the card at once.
    weights, modules, largest : int
        Bytes of the weights, in how many modules, and those of the largest.
    activations : int or None
        The most bytes of activations at once, taken off the budget; None if not known, as of a
        file.
    fits : bool
        Whether all of it fits the budget, so that nothing moves.
    over_link : tuple of str
        Modules too large for the budget, which are read over the link.
    peak : int
        The most bytes on the card at once.
    moved : int
        Bytes brought to the card in each pass.
    seconds : float
        A pass, as planned.
    bound : float
        What no way of moving uncompressed bytes can beat for this work in this order: more than
        `t_fluid` where a part of the pass works long with few bytes.
    resident : float
        A pass with everything on the card, were there room (C).
    resident_source : str
        Whether that was measured or estimated, and how.
    t_fluid, t_plan, t_lru : float
        What nothing that moves uncompressed bytes can beat, what an even plan reaches, and what
        least-recently-used eviction takes.
    packed : PackedPass or None
        A pass with packed copies of the weights; None where that is no faster.
    best_budget : int
        The least budget on this card that gives its best pass.
    best_seconds : float
        That pass.
    precisions : tuple of Precision
        The model's size by precision.
    """

    card: str
    card_source: str
    link: float
    link_source: str
    backend: str
    moving_rate: float
    budget: int
    weights: int
    modules: int
    largest: int
    activations: int | None
    fits: bool
    over_link: tuple[str, ...]
    peak: int
    moved: int
    seconds: float
    bound: float
    resident: float
    resident_source: str
    t_fluid: float
    t_plan: float
    t_lru: float
    packed: PackedPass | None
    best_budget: int
    best_seconds: float
    precisions: tuple[Precision, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def text(self) -> str:
        """Write it for people."""
        fits = "fits: nothing moves" if self.fits else "does not fit: weights stream"
        activations = (
            "not counted: a file does not tell them"
            if self.activations is None
            else f"{format_size(self.activations)} at most"
        )
        slower = self.seconds / self.resident
        lines = [
            f"card         {self.card} ({self.card_source})",
            f"link         {self.link / 1e9:.1f} GB/s ({self.link_source}), of which "
            f"{self.backend} memory reaches {self.moving_rate / 1e9:.1f}",
            f"weights      {format_size(self.weights)} in {self.modules} modules, the largest "
            f"{format_size(self.largest)}",
            f"activations  {activations}",
            f"budget       {format_size(self.budget)}: {fits}",
            f"peak         {format_size(self.peak)} on the card",
            f"moved        {format_size(self.moved)} a pass",
            f"pass         {self.seconds * 1e3:.1f} ms, {slower:.2f} x all resident",
            f"all resident {self.resident * 1e3:.1f} ms ({self.resident_source})",
            f"limits       {self.bound * 1e3:.1f} ms at best, {self.t_plan * 1e3:.1f} ms by an "
            f"even plan of even work, {self.t_lru * 1e3:.1f} ms by LRU",
            *self._packed_lines(),
            f"best budget  {format_size(self.best_budget)}: {self.best_seconds * 1e3:.1f} ms",
        ]
        lines += [
            f"as {each.name:<9} {format_size(each.nbytes)}{', fits' if each.fits else ''}"
            for each in self.precisions
        ]
        if self.over_link:
            lines.append(
                f"read over the link, being larger than the budget: {', '.join(self.over_link)}"
            )
        return "\n".join(lines)

    def _packed_lines(self) -> list[str]:
        if self.packed is None:
            return []
        return [
            f"packed       {self.packed.seconds * 1e3:.1f} ms a pass, "
            f"{format_size(self.packed.moved)} over the link for {format_size(self.packed.raw)}, "
            f"{format_size(self.packed.unpacked)} unpacked; {self.packed.t_packed * 1e3:.1f} ms by "
            "an even plan of even work"
        ]


class _Pass:
    """A pass laid out in blocks, as a session would pack it."""

    def __init__(self, uses: Sequence[ModuleUse], seconds: Sequence[float], block: int) -> None:
        places: dict[str, range] = {}
        packed: defaultdict[int, float] = defaultdict(float)  # bytes by block
        total = 0
        for use in uses:
            if use.name in places or use.nbytes == 0:
                continue
            start, end = total, total + use.nbytes
            places[use.name] = range(start // block, (end - 1) // block + 1)
            share = 1.0 if use.packed is None else use.packed / use.nbytes
            for place in places[use.name]:
                inside = min(end, (place + 1) * block) - max(start, place * block)
                packed[place] += share * inside
            total = end
        self.weights = total
        sizes = [min(block, total - start) for start in range(0, total, block)]
        self.blocks = [
            (size, round(packed[place]) if packed[place] <= _WORTH_PACKING * size else 0)
            for place, size in enumerate(sizes)
        ]
        self.packed = sum(packed or size for size, packed in self.blocks)
        self.uses = [(list(places.get(use.name, ())), t) for use, t in zip(uses, seconds)]

    def forecast(self, budget: int, link: float, unpack: float = 0.0) -> _core.Prediction:
        """Plan for a budget; with packed copies, where the card unpacks so many bytes a second."""
        return _core.plan_pass(self.blocks, self._steps(budget), budget, link, link, unpack)

    def bound(self, budget: int, link: float) -> float:
        """Tell the least seconds within a budget, of what moves uncompressed bytes."""
        return _core.least_seconds(self.blocks, self._steps(budget), budget, link, 0.0)

    def _steps(self, budget: int) -> list[tuple[list[int], float]]:
        """Lay out the uses; one that exceeds the budget passes in pieces, as over the link."""
        steps: list[tuple[list[int], float]] = []
        for blocks, seconds in self.uses:
            if sum(self.blocks[place][0] for place in blocks) <= budget:
                steps.append((blocks, seconds))
            else:
                steps += [([place], seconds / len(blocks)) for place in blocks]
        return steps


def forecast(
    uses: Sequence[ModuleUse],
    *,
    card: PlannedCard,
    budget: Size | None,
    compute: float | None,
    activations: int | None,
    reserve: Size,
    block: Size,
    backend: str,
    estimate: str,
) -> Forecast:
    """Forecast passes that use modules in this order; `vramx.forecast.for_file` explains the rest.

    `activations` are the most bytes of them at once, where that is known; `estimate` says how the
    operations were counted.
    """
    if backend not in PARTS:
        raise ConfigError(f"unknown backend {backend!r}; give one of {', '.join(PARTS)}")
    rate, _ = moving_rates(backend, card.link)
    block = parse_size(block, "block")
    room = card.memory - parse_size(reserve, "reserve")
    room -= room % block
    budget = room if budget is None else parse_size(budget, "budget")
    if budget > card.memory:
        raise ConfigError(
            f"a budget of {format_size(budget)} is more than the {format_size(card.memory)} of "
            f"{card.name}"
        )
    for_weights = budget - (activations or 0)
    if for_weights < block:
        raise ConfigError(
            f"a budget of {format_size(budget)} leaves less than one block of "
            f"{format_size(block)} beside {format_size(activations or 0)} of activations; raise it "
            "or take a smaller block"
        )
    if compute is not None and not 0 < compute < math.inf:
        raise ConfigError(f"a pass that computes for {compute!r} seconds is none; give a time")
    seconds, source = _times(uses, card, compute, estimate)
    one = _Pass(uses, seconds, block)
    distinct = {use.name: use for use in uses}
    planned = one.forecast(for_weights, rate)
    limits = _core.PassLimits(
        used=one.weights,
        budget=for_weights,
        link=card.link,
        compute=sum(seconds),
        in_flight=IN_FLIGHT * block,
        packed=one.packed,
        unpack=card.unpack,
    )
    unpack = card.unpack if backend in _UNPACKING else 0.0
    packed = one.forecast(for_weights, rate, unpack)
    best, best_seconds = _best(one, rate, max(room - (activations or 0), block), block)
    other = one.weights - sum(use.element_bytes for use in distinct.values())
    elements = sum(use.elements for use in distinct.values())
    sizes = {name: other + elements * size for name, size in PRECISIONS.items()}
    return Forecast(
        card=card.name,
        card_source=card.source,
        link=card.link,
        link_source=card.link_source,
        backend=backend,
        moving_rate=rate,
        budget=budget,
        weights=one.weights,
        modules=len(distinct),
        largest=max(use.nbytes for use in uses),
        activations=activations,
        fits=one.weights <= for_weights,
        over_link=tuple(each.name for each in distinct.values() if each.nbytes > for_weights),
        peak=min(one.weights, for_weights) + (activations or 0),
        moved=planned.moved_in,
        seconds=planned.seconds,
        bound=one.bound(for_weights, card.link),
        resident=sum(seconds),
        resident_source=source,
        t_fluid=limits.fluid(),
        t_plan=limits.plan(),
        t_lru=limits.lru(),
        packed=_packed_pass(packed, limits) if packed.unpacked > 0 else None,
        best_budget=best + (activations or 0),
        best_seconds=best_seconds,
        precisions=tuple(
            Precision(name, size, size <= for_weights) for name, size in sizes.items()
        ),
    )


def _packed_pass(planned: _core.Prediction, limits: _core.PassLimits) -> PackedPass:
    return PackedPass(
        seconds=planned.seconds,
        moved=planned.moved_in,
        raw=planned.raw_in,
        unpacked=planned.unpacked,
        t_packed=limits.with_packed(),
    )


def _seconds_of(use: ModuleUse, card: PlannedCard) -> float:
    """Estimate the time of a use with its weights on the card."""
    rate = EFFICIENCY * (card.half if use.half else card.single)
    return max(use.operations / rate, use.nbytes / card.bandwidth)


def _times(
    uses: Sequence[ModuleUse], card: PlannedCard, compute: float | None, estimate: str
) -> tuple[list[float], str]:
    """Tell the seconds of each use, and where they are from."""
    known = min(card.bandwidth, card.half, card.single) > 0
    if not known and compute is None:
        raise ConfigError(
            f"how fast {card.name} computes is not known; give the measured time of a pass with "
            "everything resident (compute), or name a card that is known"
        )
    # Without rates a measured time is spread by bytes.
    shares = [_seconds_of(use, card) if known else float(use.nbytes) for use in uses]
    if compute is None:
        return shares, f"estimated: {estimate}, {EFFICIENCY:.0%} of the card's peak rates"
    total = sum(shares) or 1.0
    return [compute * share / total for share in shares], "measured, as given"


def _best(one: _Pass, link: float, room: int, block: int) -> tuple[int, float]:
    """Find the least budget, in blocks, with which a pass is as good as with all there is room."""
    most = min(room, len(one.blocks) * block) // block
    fastest = one.forecast(max(most, 1) * block, link).seconds
    low, high = 1, max(most, 1)
    while low < high:
        middle = (low + high) // 2
        if one.forecast(middle * block, link).seconds <= fastest * _AS_GOOD:
            high = middle
        else:
            low = middle + 1
    return low * block, one.forecast(low * block, link).seconds
