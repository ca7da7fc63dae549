"""The limits that every benchmark prints its times over, and figures of many times."""

from __future__ import annotations

from dataclasses import dataclass

from vramx import _core
from vramx.forecast.passes import IN_FLIGHT

#: The block of residency unless told.
BLOCK = 32 * 2**20


@dataclass(frozen=True)
class Limits:
    """Seconds that a pass takes at best.

    Attributes
    ----------
    fluid : float
        Nothing that moves uncompressed bytes is faster.
    plan : float
        What an interleaved plan reaches with `IN_FLIGHT` blocks in flight.
    packed : float
        What such a plan reaches with packed copies of the weights; `plan` where there are none.
    lru : float
        What LRU reaches on a cycle.
    """

    fluid: float
    plan: float
    packed: float
    lru: float


def limits(
    weights: int,
    budget: int,
    link: float,
    compute: float,
    block: int = BLOCK,
    *,
    packed: int = 0,
    unpack: float = 0.0,
) -> Limits:
    """Compute the limits of a pass that uses all weights once.

    Parameters
    ----------
    weights, budget : int
        Bytes that a pass uses, and those that may be on the card.
    link : float
        The link's bytes a second.
    compute : float
        Seconds of a pass with everything resident.
    block : int
        Bytes of a block.
    packed : int
        Bytes of the weights packed; 0 where they are not.
    unpack : float
        Raw bytes a second that the card unpacks.

    Returns
    -------
    Limits
        The limits.
    """
    native = _core.PassLimits(
        used=weights,
        budget=budget,
        link=link,
        compute=compute,
        in_flight=IN_FLIGHT * block,
        packed=packed,
        unpack=unpack,
    )
    return Limits(
        fluid=native.fluid(), plan=native.plan(), packed=native.with_packed(), lru=native.lru()
    )


def budget_of(weights: int, ratio: float, block: int = BLOCK) -> int:
    """Return the budget for a ratio of weights to budget, in whole blocks where it has any.

    Parameters
    ----------
    weights : int
        Bytes.
    ratio : float
        Weights over budget.
    block : int
        Bytes of a block.

    Returns
    -------
    int
        Bytes.
    """
    budget = int(weights / ratio)
    return budget if budget < block or ratio == 1 else budget // block * block


def nearest_rank(values: list[float], share: float) -> float:
    """Return a percentile by nearest rank: the worst where there are few values."""
    rank = -int(-share * len(values) // 1)
    return sorted(values)[max(rank, 1) - 1]
