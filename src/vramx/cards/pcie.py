"""What a PCI Express link carries."""

from __future__ import annotations

#: Bytes a second and lane after line coding, by generation (PCI Express Base Specification: 2.5, 5,
#: 8, 16 and 32 GT/s with 8b/10b, then 128b/130b; 64 GT/s with flits of 242 in 256 bytes).
LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}

#: The part of it that a pinned copy of many MiB reaches: 55.5 of 63.0 GB/s, measured on an H200.
REACHED = 0.88

#: The parts of a pinned copy's rate that moves to the card and back reach, by backend: unified
#: memory is prefetched over two streams at 51 and written back at 24 of 55.5 GB/s (on an H200).
PARTS = {"managed": (0.92, 0.43), "mapped": (1.0, 1.0), "simulated": (1.0, 1.0)}


def link_rate(generation: int, lanes: int) -> float:
    """Estimate the rate of a pinned copy.

    Parameters
    ----------
    generation : int
        Of PCI Express; one newer than the table counts as its newest.
    lanes : int
        The link's width.

    Returns
    -------
    float
        Bytes a second, one direction.
    """
    return REACHED * LANE[min(max(generation, 1), max(LANE))] * lanes


def moving_rates(backend: str, pinned: float) -> tuple[float, float]:
    """Estimate the rates of a backend's moves.

    Parameters
    ----------
    backend : str
        ``"managed"``, ``"mapped"`` or ``"simulated"``.
    pinned : float
        The rate of a pinned copy, bytes a second.

    Returns
    -------
    tuple of float
        Bytes a second to the card, and back.
    """
    to_card, to_host = PARTS[backend]
    return to_card * pinned, to_host * pinned
