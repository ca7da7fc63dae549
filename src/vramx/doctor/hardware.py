"""Checks of the card: what its memory can do, the link, and who else uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vramx.cards.pcie import link_rate
from vramx.doctor.findings import Finding, Severity
from vramx.doctor.machine import Card, Machine
from vramx.errors import NoDeviceError
from vramx.units import format_size

#: A link below this part of what its generation and width give is worth a warning.
_SLOW = 0.7


def check_access(machine: Machine, ordinal: int) -> Iterator[Finding]:
    """Open the card for both backends."""
    no_managed = _refusal(machine.open_managed, ordinal)
    no_mapped = _refusal(machine.open_mapped, ordinal)
    if no_managed is None:
        yield Finding(
            "managed memory", Severity.OK, f"card {ordinal} has concurrent managed access"
        )
    elif no_mapped is None:
        yield Finding(
            "managed memory",
            Severity.NOTE,
            no_managed,
            "Managed modules may exceed the card; activations and session.empty() stay on it, "
            "within the budget, and vramx.install() cannot be had.",
            "Nothing: sessions take mapped memory by themselves. Linux on the machine itself has "
            "concurrent managed access from Pascal on.",
        )
    else:
        yield Finding(
            "managed memory",
            Severity.UNUSABLE,
            f"no usable GPU: {no_managed}",
            "There is no card that vramx can hold memory on.",
            'Try the simulated card (vramx.simulate(), backend="simulated") until there is one.',
        )
        return
    if no_mapped is not None:
        yield Finding(
            "mapped memory",
            Severity.NOTE,
            no_mapped,
            'backend="mapped" is faster on this card, but cannot be had.',
            'Use backend="managed", the default.',
        )
        return
    yield Finding("mapped memory", Severity.OK, f'card {ordinal} can do backend="mapped"')


def _refusal(open_card: Callable[[int], None], ordinal: int) -> str | None:
    """Tell why a card cannot be opened; None where it can."""
    try:
        open_card(ordinal)
    except NoDeviceError as error:
        return str(error)
    return None


def check_link(machine: Machine, ordinal: int) -> Iterator[Finding]:
    """Measure the link and compare it with what generation and width give."""
    rates = machine.link(ordinal)
    said = (
        f"pinned copies run at {rates.to_card / 1e9:.1f} GB/s to the card and "
        f"{rates.to_host / 1e9:.1f} GB/s back"
    )
    card = next((each for each in machine.cards() if each.uuid == rates.uuid), None)
    expected = link_rate(card.generation, card.most_lanes) if card and card.most_lanes else 0.0
    if min(rates.to_card, rates.to_host) >= _SLOW * expected:
        yield Finding("link", Severity.OK, said)
    else:
        yield Finding(
            "link",
            Severity.WARNING,
            f"{said}; this card's gives {expected / 1e9:.1f} GB/s",
            "What does not fit the budget crosses this link in every pass.",
            "See whether the card sits in its widest slot, on the CPU's own lanes, and whether "
            "others copy at the same time.",
        )


def check_width(machine: Machine) -> Iterator[Finding]:
    """Compare each card's link width with what it could be."""
    for card in machine.cards():
        if 0 < card.lanes < card.most_lanes:
            yield Finding(
                "link",
                Severity.WARNING,
                f"{card.name} uses {card.lanes} of {card.most_lanes} lanes of PCI Express",
                "The link is as much slower as it is narrower.",
                "Move the card to a slot with all lanes, or seat it anew.",
            )


def check_neighbours(machine: Machine) -> Iterator[Finding]:
    """Look at what other processes hold on the cards."""
    for card in machine.cards():
        yield _memory(machine, card)
    if machine.serves_processes():
        yield Finding(
            "processes",
            Severity.NOTE,
            "NVIDIA's multi-process service (MPS) runs",
            "Its clients share one context: a fault in one ends them all, and its limits on memory "
            "count managed memory too.",
            "If sessions fail to open, stop it: echo quit | nvidia-cuda-mps-control.",
        )


def _memory(machine: Machine, card: Card) -> Finding:
    memory = machine.card_memory(card.uuid)
    held = sum(memory.others.values())
    said = f"{card.name}: {format_size(memory.free)} of {format_size(memory.total)} free"
    if held:
        said += f", {format_size(held)} held by processes {', '.join(map(str, memory.others))}"
    if memory.free >= memory.total / 2:
        return Finding("card memory", Severity.OK, said)
    return Finding(
        "card memory",
        Severity.WARNING,
        said,
        "A budget of None takes what is free; and managed memory beyond that pushes others' out.",
        "End those processes, or give a budget below what is free.",
    )
