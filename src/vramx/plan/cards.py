"""Cards that can be planned for without having them, from NVIDIA's documents."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from vramx.doctor.machine import Machine, UnknownFactError
from vramx.doctor.this_machine import ThisMachine
from vramx.errors import ConfigError, NoDeviceError
from vramx.pcie import link_rate

_TURING = "NVIDIA Turing GPU Architecture, whitepaper, appendix A to C"
_T4 = "NVIDIA T4 Tensor Core GPU, datasheet"
_AMPERE = "NVIDIA Ampere GA102 GPU Architecture, whitepaper, and GeForce specifications"
_A100 = "NVIDIA A100 Tensor Core GPU, datasheet"
_ADA = "NVIDIA Ada GPU Architecture, whitepaper, and GeForce specifications"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture, whitepaper, and GeForce specifications"
_H100 = "NVIDIA H100 Tensor Core GPU, datasheet"
_H200 = "NVIDIA H200 Tensor Core GPU, datasheet"
_DATASHEET = "NVIDIA's datasheet of this card"


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
        Peak dense operations a second: 16 bit on tensor cores with 32-bit accumulation, and 32 bit;
        0 where they are not known.
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


def _card(
    name: str,
    gib: int,
    generation: int,
    lanes: int,
    bandwidth: float,
    half: float,
    single: float,
    source: str,
) -> PlannedCard:
    """Make a row of the table: GB/s of memory, and 10^12 operations a second."""
    return PlannedCard(
        name=name,
        memory=gib * 2**30,
        link=link_rate(generation, lanes),
        bandwidth=bandwidth * 1e9,
        half=half * 1e12,
        single=single * 1e12,
        source=source,
        link_source=f"estimated from PCI Express {generation} x{lanes}",
    )


#: Of a card sold with several sizes of memory, the name says which.
CARDS = {
    card.name: card
    for card in (
        _card("RTX 2070", 8, 3, 16, 448, 29.9, 7.5, _TURING),
        _card("RTX 2080", 8, 3, 16, 448, 40.3, 10.1, _TURING),
        _card("RTX 2080 Ti", 11, 3, 16, 616, 53.8, 13.4, _TURING),
        _card("T4", 16, 3, 16, 300, 65, 8.1, _T4),
        _card("RTX 3060", 12, 4, 16, 360, 25.5, 12.7, _AMPERE),
        _card("RTX 3060 Ti", 8, 4, 16, 448, 32.4, 16.2, _AMPERE),
        _card("RTX 3070", 8, 4, 16, 448, 40.6, 20.3, _AMPERE),
        _card("RTX 3080", 10, 4, 16, 760, 59.5, 29.8, _AMPERE),
        _card("RTX 3090", 24, 4, 16, 936, 71, 35.6, _AMPERE),
        _card("RTX A6000", 48, 4, 16, 768, 154.8, 38.7, _AMPERE),
        _card("A10", 24, 4, 16, 600, 125, 31.2, _DATASHEET),
        _card("A100 40GB", 40, 4, 16, 1555, 312, 19.5, _A100),
        _card("A100 80GB", 80, 4, 16, 1935, 312, 19.5, _A100),
        _card("RTX 4060", 8, 4, 8, 272, 30.2, 15.1, _ADA),
        _card("RTX 4060 Ti 8GB", 8, 4, 8, 288, 44.1, 22.1, _ADA),
        _card("RTX 4060 Ti 16GB", 16, 4, 8, 288, 44.1, 22.1, _ADA),
        _card("RTX 4070", 12, 4, 16, 504, 58.3, 29.1, _ADA),
        _card("RTX 4070 Ti", 12, 4, 16, 504, 80.2, 40.1, _ADA),
        _card("RTX 4080", 16, 4, 16, 717, 97.5, 48.7, _ADA),
        _card("RTX 4090", 24, 4, 16, 1008, 165.2, 82.6, _ADA),
        _card("L4", 24, 4, 16, 300, 121, 30.3, _DATASHEET),
        _card("L40S", 48, 4, 16, 864, 362, 91.6, _DATASHEET),
        _card("RTX 5060", 8, 5, 8, 448, 38.4, 19.2, _BLACKWELL),
        _card("RTX 5060 Ti 8GB", 8, 5, 8, 448, 47.4, 23.7, _BLACKWELL),
        _card("RTX 5060 Ti 16GB", 16, 5, 8, 448, 47.4, 23.7, _BLACKWELL),
        _card("RTX 5070", 12, 5, 16, 672, 61.7, 30.9, _BLACKWELL),
        _card("RTX 5070 Ti", 16, 5, 16, 896, 87.9, 43.9, _BLACKWELL),
        _card("RTX 5080", 16, 5, 16, 960, 112.6, 56.3, _BLACKWELL),
        _card("RTX 5090", 32, 5, 16, 1792, 209.5, 104.8, _BLACKWELL),
        _card("H100 PCIe", 80, 5, 16, 2000, 756, 51, _H100),
        _card("H100 SXM", 80, 5, 16, 3350, 989, 67, _H100),
        _card("H200", 141, 5, 16, 4800, 989, 67, _H200),
    )
}


#: Words of a card's name that say whose it is, or how the same chip is packed.
_BRANDS = {"nvidia", "geforce", "quadro", "tesla"}
_PACKINGS = {"sxm", "sxm4", "sxm5", "pcie", "hbm2e", "hbm3", "hbm3e"}


def _words(name: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", name.lower()) if word not in _BRANDS]


def _plain(name: str) -> str:
    """Write a name without brand, case and spaces."""
    return re.sub("nvidia|geforce|quadro|tesla|[^a-z0-9]", "", name.lower())


def _chip(name: str) -> str:
    """Write a name without its size of memory and packing as well."""
    kept = (w for w in _words(name) if w not in _PACKINGS and not re.fullmatch(r"\d+gb", w))
    return "".join(kept)


def _same_card(name: str, memory: int) -> PlannedCard | None:
    """Find the row of a card that a driver names; None if there is none of that chip."""
    rows = [card for card in CARDS.values() if _chip(card.name) == _chip(name)]

    def differs(card: PlannedCard) -> tuple[int, bool]:
        packed_alike = ("pcie" in _words(card.name)) == ("pcie" in _words(name))
        return round(abs(card.memory - memory) / 2**32), not packed_alike

    return min(rows, key=differs, default=None)


def find_card(name: str) -> PlannedCard:
    """Look a card up by its name.

    Parameters
    ----------
    name : str
        Such as ``"RTX 3060"`` or ``"NVIDIA GeForce RTX 3060"``.

    Returns
    -------
    PlannedCard
        The card.

    Raises
    ------
    ConfigError
        If it is not in `CARDS`; the message has the nearest names.
    """
    plain = {_plain(each): card for each, card in CARDS.items()}
    asked = _plain(name)
    if asked in plain:
        return plain[asked]
    begun = [each for each in plain if asked and each.startswith(asked)]
    close = begun or difflib.get_close_matches(asked, plain, n=4, cutoff=0.5)
    names = ", ".join(plain[each].name for each in close or plain)
    raise ConfigError(
        f"card {name!r} is not known; {'the nearest are' if close else 'known are'} {names}; or "
        "'auto' for this machine's"
    )


def this_card(machine: Machine | None = None, ordinal: int = 0) -> PlannedCard:
    """Describe this machine's card.

    Parameters
    ----------
    machine : Machine, optional
        Where facts come from; this machine unless given.
    ordinal : int
        The card's number.

    Returns
    -------
    PlannedCard
        Its own memory; its measured link where torch can measure it; rates from `CARDS` where they
        have it, else none.

    Raises
    ------
    NoDeviceError
        If there is no such card.
    """
    machine = machine or ThisMachine()
    try:
        cards = machine.cards()
    except UnknownFactError as error:
        cards, reason = [], str(error)
    else:
        reason = f"the driver finds {len(cards)} cards"
    if not 0 <= ordinal < len(cards):
        raise NoDeviceError(
            f"there is no card {ordinal} to plan for ({reason}); name one, such as 'RTX 3060'"
        )
    card = cards[ordinal]
    rates = _same_card(card.name, card.total)
    found = PlannedCard(
        name=card.name,
        memory=card.total,
        link=link_rate(card.generation, card.most_lanes or 16),
        bandwidth=0,
        half=0,
        single=0,
        source="this machine",
        link_source=f"estimated from PCI Express {card.generation} x{card.most_lanes or 16}",
    )
    if rates is not None:
        found = replace(
            found,
            bandwidth=rates.bandwidth,
            half=rates.half,
            single=rates.single,
            source=f"this machine; rates: {rates.source}",
        )
    try:
        measured = machine.link(ordinal)
    except UnknownFactError:
        return found
    return replace(found, link=measured.to_card, link_source="measured")
