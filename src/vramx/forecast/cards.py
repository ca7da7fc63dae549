"""Cards that can be planned for without having them, by the ways in which people write names."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from vramx.cards.pcie import link_rate
from vramx.doctor.machine import Machine, UnknownFactError
from vramx.doctor.this_machine import ThisMachine
from vramx.errors import ConfigError, NoDeviceError
from vramx.forecast.table import CARDS, PlannedCard
from vramx.units import Size, parse_rate, parse_size

#: Words of names that tell no card from another.
_NOISE = {"nvidia", "geforce", "tesla", "gpu", "graphics", "card", "generation", "edition"}
_NOISE |= {"blackwell", "workstation", "desktop", "hbm2", "hbm2e", "hbm3", "hbm3e", "the"}
_SAME = {"mobile": "laptop", "notebook": "laptop", "sxm2": "sxm", "sxm4": "sxm", "sxm5": "sxm"}
#: What may be left out of a name, and how the same chip is packed.
_SERIES = frozenset({"rtx", "gtx", "gt"})
_PACKINGS = frozenset({"sxm", "pcie"})
_SIZE = re.compile(r"(?<![a-z0-9])(\d+)\s*g(?:i?b)?(?![a-z0-9])")
_ENDS = r"(\d)(ti|super|ada|laptop|mobile|notebook|d)"


def _words(name: str) -> tuple[frozenset[str], frozenset[int]]:
    """Take a name apart: its words, and the sizes in GB among them."""
    text = re.sub(r"[^a-z0-9]+", " ", name.lower().replace("max-q", "maxq"))
    sizes = frozenset(int(size) for size in _SIZE.findall(text))
    text = re.sub(r"(rtx|gtx|gt|quadro|geforce|nvidia|pro)(?=a?\d)", r"\1 ", _SIZE.sub(" ", text))
    text = re.sub(r"(ti)(super|laptop)", r"\1 \2", re.sub(_ENDS + r"(?![a-z]*\d)", r"\1 \2", text))
    text = re.sub(r"(super)(laptop)", r"\1 \2", text)
    words = (_SAME.get(word, word) for word in text.split())
    return frozenset(word for word in words if word not in _NOISE), sizes


def _plain(name: str) -> str:
    """Write a name without brand, case and spaces."""
    return re.sub("nvidia|geforce|tesla|[^a-z0-9]", "", name.lower())


def _same_card(name: str, memory: int) -> PlannedCard | None:
    """Find the row of a card that a driver names; None if there is none of that chip."""
    asked = _words(name)[0]
    rows = [c for c in CARDS.values() if _words(c.name)[0] - _PACKINGS == asked - _PACKINGS]

    def differs(card: PlannedCard) -> tuple[int, bool]:
        packed_alike = ("pcie" in _words(card.name)[0]) == ("pcie" in asked)
        return round(abs(card.memory - memory) / 2**31), not packed_alike

    return min(rows, key=differs, default=None)


def _fits(asked: frozenset[str], row: frozenset[str]) -> bool:
    """Tell whether all words that are asked for are a card's; a packing only where that matters."""
    return asked <= row | _SERIES | (frozenset() if row & _PACKINGS else _PACKINGS)


def find_card(name: str) -> PlannedCard:
    """Look a card up by its name.

    Parameters
    ----------
    name : str
        Such as ``"RTX 3060"``, ``"NVIDIA GeForce RTX 3060 12GB"``, ``"4060ti 16g"`` or
        ``"A100-80G"``: case, brand, series and spaces do not matter.

    Returns
    -------
    PlannedCard
        The card.

    Raises
    ------
    ConfigError
        If it is not in `CARDS`, or more than one is meant; the message has the names.
    """
    named = {_plain(each): card for each, card in CARDS.items()}
    if _plain(name) in named:
        return named[_plain(name)]
    words, sizes = _words(name)
    fitting = [
        card
        for card in CARDS.values()
        if words
        and _fits(words, _words(card.name)[0])
        and all(size << 30 == card.memory for size in sizes)
    ]
    exact = [card for card in fitting if _words(card.name)[0] - _SERIES <= words]
    meant = exact or fitting
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ConfigError(
            f"card {name!r} may be {', '.join(card.name for card in meant)}: say which"
        )
    close = difflib.get_close_matches(_plain(name), named, n=4, cutoff=0.5)
    names = ", ".join(named[each].name for each in close or named)
    raise ConfigError(
        f"card {name!r} is not known; {'the nearest are' if close else 'known are'} {names}; or "
        "'auto' for this machine's; or give its memory and link"
    )


def described_card(card: PlannedCard | None, memory: Size | None, link: Size | None) -> PlannedCard:
    """Describe a card by its memory and link.

    Parameters
    ----------
    card : PlannedCard, optional
        What all else is taken from. Unless given, how fast it computes is that of the slowest in
        `CARDS` with as much memory.
    memory : int, float or str, optional
        Bytes on the card, such as ``"8GiB"``.
    link : int, float or str, optional
        Bytes a second that a copy to it reaches, such as ``"12GB/s"``.

    Returns
    -------
    PlannedCard
        The card.

    Raises
    ------
    ConfigError
        If one of them is no size or rate, or is needed and left out.
    """
    nbytes = None if memory is None else parse_size(memory, "memory")
    rate = None if link is None else parse_rate(link, "link")
    if card is None:
        if nbytes is None or rate is None:
            raise ConfigError(
                "a card that is not named is described by its memory and link: give both, such as "
                "8GiB and 12GB/s"
            )
        slowest = min(CARDS.values(), key=lambda each: (each.memory < nbytes, each.single))
        card = replace(
            slowest, name="described", source=f"as given; it computes as {slowest.name} does"
        )
    if nbytes is not None:
        card = replace(card, memory=nbytes)
    return card if rate is None else replace(card, link=rate, link_source="as given")


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
