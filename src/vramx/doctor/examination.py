"""All checks, one after another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vramx.doctor import hardware, hostmemory, software
from vramx.doctor.findings import Finding, Severity
from vramx.doctor.machine import Machine, UnknownFactError
from vramx.doctor.model import check_model
from vramx.doctor.this_machine import ThisMachine

Check = Callable[[Machine], Iterable[Finding]]


def _checks(ordinal: int, model: Path | None, sha256: str | None) -> Iterator[tuple[str, Check]]:
    yield "system", software.check_system
    yield "packages", software.check_packages
    yield "packing", software.check_packing
    yield "driver", software.check_driver
    yield "cards", software.check_cards
    yield "torch", software.check_torch
    yield "managed memory", functools.partial(hardware.check_access, ordinal=ordinal)
    yield "host memory", hostmemory.check_host_memory
    yield "pinned memory", hostmemory.check_pinning
    yield "link width", hardware.check_width
    yield "link", functools.partial(hardware.check_link, ordinal=ordinal)
    yield "processes", hardware.check_neighbours
    if model is not None:
        yield "model", functools.partial(check_model, path=model, sha256=sha256)


def _run(name: str, check: Check, machine: Machine) -> Iterator[Finding]:
    """Run a check; what it raises becomes a finding."""
    try:
        yield from check(machine)
    except UnknownFactError as reason:
        yield Finding(name, Severity.NOTE, f"not looked at: {reason}")
    except Exception as error:
        yield Finding(
            name,
            Severity.WARNING,
            f"the check failed: {type(error).__name__}: {error}",
            "What it looks at is not known to be right.",
            "If the rest is in order, report this with the text above.",
        )


def examine(
    model: str | Path | None = None,
    *,
    device: int = 0,
    sha256: str | None = None,
    machine: Machine | None = None,
) -> list[Finding]:
    """Look for what keeps vramx from working, or from working fast.

    It prints nothing and never raises for what it finds: a check that fails is a finding. It takes
    256 MiB on the card for a moment, to measure the link.

    Parameters
    ----------
    model : str or Path, optional
        A file or folder of weights to look at as well; see `vramx.checkpoints.read_model`.
    device : int
        The card's CUDA number.
    sha256 : str, optional
        The digest that the file should have, in hexadecimal.
    machine : Machine, optional
        Where facts come from; this machine unless given.

    Returns
    -------
    list of Finding
        In the order of the checks; `exit_code` sums them up.
    """
    looked_at = machine or ThisMachine()
    path = None if model is None else Path(model)
    return [
        finding
        for name, check in _checks(device, path, sha256)
        for finding in _run(name, check, looked_at)
    ]
