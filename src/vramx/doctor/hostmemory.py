"""Checks of host memory, where everything that is not on the card lives."""

from __future__ import annotations

from collections.abc import Iterator

from vramx.doctor.findings import Finding, Severity
from vramx.doctor.machine import Machine, UnknownFactError
from vramx.units import format_size

#: Host bytes a byte of managed weights: measured on managed memory, torch and CUDA included.
HOST_A_BYTE = 1.14


def check_host_memory(machine: Machine) -> Iterator[Finding]:
    """Compare the host's memory with the largest card's."""
    memory = machine.host_memory()
    said = f"{format_size(memory.available)} of {format_size(memory.total)} of RAM available"
    if memory.group_limit is not None:
        said += f", {format_size(memory.group_limit)} allowed by the control group"
    try:
        card = max((each.total for each in machine.cards()), default=0)
    except UnknownFactError:
        card = 0
    if memory.usable >= card:
        yield Finding("host memory", Severity.OK, said)
    else:
        yield Finding(
            "host memory",
            Severity.WARNING,
            f"{said}; the card has {format_size(card)}",
            "All managed bytes must fit in host memory: with less of it than the card has, nothing "
            "can be managed that does not fit the card anyway.",
            "Free or add RAM, or raise the container's memory limit.",
        )


def check_pinning(machine: Machine) -> Iterator[Finding]:
    """Look at the limit on locked memory."""
    limit = machine.host_memory().lock_limit
    if limit is None:
        yield Finding("pinned memory", Severity.OK, "no limit on locked memory")
        return
    yield Finding(
        "pinned memory",
        Severity.NOTE,
        f"ulimit -l allows {format_size(limit)} of locked memory",
        'NVIDIA\'s driver pins memory by itself, which backend="mapped" relies on, and the limit '
        "does not hold it back as a rule; some containers and sandboxes do.",
        "If pinning fails, start with ulimit -l unlimited (docker run --ulimit memlock=-1).",
    )
