"""Figures of cards, from NVIDIA's documents."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from vramx.cards.pcie import link_rate

#: The part of the memory's rate at which weights come out of unpacking: 1,640 of 4,800 GB/s of
#: bf16, measured on an H200.
UNPACKED = 0.34


@dataclass(frozen=True)
class PlannedCard:
    """A card to plan for.

    Attributes
    ----------
    name : str
        NVIDIA's name without the brand: ``"RTX 3060"``.
    memory : int
        Bytes on the card.
    link : float
        Bytes a second that a pinned copy reaches.
    bandwidth : float
        Bytes a second of the card's own memory; 0 where it is not known.
    half, single : float
        Peak dense operations a second: 16 bit on tensor cores with 32-bit accumulation, where there
        are such, and 32 bit; 0 where they are not known.
    source : str
        The document of these figures.
    link_source : str
        Where the link's rate is from.
    """

    name: str
    memory: int
    link: float
    bandwidth: float
    half: float
    single: float
    source: str
    link_source: str = ""

    @property
    def unpack(self) -> float:
        """Bytes a second of weights that it unpacks; 0 where its memory's rate is not known."""
        return UNPACKED * self.bandwidth


def _card(row: dict[str, str]) -> PlannedCard:
    generation, lanes = int(row["generation"]), int(row["lanes"])
    return PlannedCard(
        name=row["name"],
        memory=int(row["GiB"]) * 2**30,
        link=link_rate(generation, lanes),
        bandwidth=float(row["GB/s"]) * 1e9,
        half=float(row["half"]) * 1e12,
        single=float(row["single"]) * 1e12,
        source=row["source"],
        link_source=f"estimated from PCI Express {generation} x{lanes}",
    )


def _read() -> dict[str, PlannedCard]:
    path = Path(__file__).with_name("cards.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {card.name: card for card in map(_card, csv.DictReader(file))}


#: Of a card sold with several sizes of memory, the name says which, except the most common.
#: Operations are in 10^12 a second, and the link is a generation of PCI Express and its lanes.
CARDS = _read()
