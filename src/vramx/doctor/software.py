"""Checks of what is installed: system, Python, packages, driver, torch."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vramx.doctor.findings import Finding, Severity
from vramx.doctor.machine import Card, Machine, UnknownFactError
from vramx.doctor.versions import (
    Code,
    Compatibility,
    code_for,
    compatibility,
    format_version,
    parse_version,
    toolkit_driver,
)

_DRIVERS = "https://www.nvidia.com/drivers"


def check_system(machine: Machine) -> Iterator[Finding]:
    """Look at the operating system."""
    system = machine.system()
    if not system.startswith("Linux"):
        yield Finding(
            "system",
            Severity.ERROR,
            system,
            "vramx is built for Linux.",
            "Run it on Linux, or under WSL.",
        )
    elif "microsoft" in system.lower():
        yield Finding(
            "system",
            Severity.NOTE,
            f"{system}: WSL",
            "Cards have no concurrent managed access here: managed modules may exceed the card, "
            "activations may not. Less host memory can be pinned than there is.",
            "Linux on the machine itself has neither limit.",
        )
    else:
        yield Finding("system", Severity.OK, system)


def check_packages(machine: Machine) -> Iterator[Finding]:
    """Compare Python and packages with the versions that vramx declares."""
    python, lines = machine.requirements()
    version = machine.python()
    if SpecifierSet(python).contains(version, prereleases=True):
        yield Finding("python", Severity.OK, f"Python {version}")
    else:
        yield Finding(
            "python",
            Severity.ERROR,
            f"Python {version}; vramx needs {python}",
            "Other versions are not tested and may lack what vramx uses.",
            f"Use a Python {python}.",
        )
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        optional = marker is not None and not marker.evaluate({"extra": ""})
        if optional and not (marker and marker.evaluate({"extra": "torch"})):
            continue
        present = machine.installed(requirement.name)
        if present is None and optional:
            continue  # check_torch says it
        if present is not None and requirement.specifier.contains(present, prereleases=True):
            yield Finding("packages", Severity.OK, f"{requirement.name} {present}")
            continue
        yield Finding(
            "packages",
            Severity.ERROR,
            f"{requirement.name} is {present or 'not installed'}; vramx needs "
            f"{requirement.specifier or 'it'}",
            "Parts of vramx fail where they use it.",
            f"pip install '{requirement.name}{requirement.specifier}'",
        )


def check_packing(machine: Machine) -> Iterator[Finding]:
    """Look whether this build can pack weights."""
    present, origin = machine.packing_kernels()
    if present:
        yield Finding("packing", Severity.OK, f"kernels that pack weights: {origin}")
        return
    yield Finding(
        "packing",
        Severity.WARNING,
        f"no kernels that pack weights: vramx was {origin}",
        "Weights cross the link and rest on the card unpacked.",
        "Build vramx anew where its build requirement nvidia-cuda-nvrtc-cu12 can be installed: "
        "Linux on x86_64 or aarch64.",
    )


def check_driver(machine: Machine) -> Iterator[Finding]:
    """Compare the driver with the CUDA version that torch is built for."""
    driver = machine.driver()
    if driver is None:
        yield Finding(
            "driver",
            Severity.ERROR,
            "no NVIDIA driver",
            "Without it no program can use a card.",
            f"Install it ({_DRIVERS}); in a container start it with --gpus all.",
        )
        return
    torch = machine.torch()
    if torch is None or torch.cuda is None:
        yield Finding("driver", Severity.OK, f"driver {driver}")
        return
    judged = compatibility(parse_version(driver), parse_version(torch.cuda))
    own = toolkit_driver(parse_version(torch.cuda))
    said = f"driver {driver}, torch {torch.version} for CUDA {torch.cuda}"
    newer = format_version(own) if own else "the newest"
    if judged is Compatibility.FULL:
        yield Finding("driver", Severity.OK, said)
    elif judged is Compatibility.MINOR:
        yield Finding(
            "driver",
            Severity.NOTE,
            f"{said}, which came with driver {newer}",
            "It runs by minor version compatibility: compiled kernels work, but the driver cannot "
            "compile PTX of that CUDA, and features newer than the driver are absent.",
            f"If kernels fail to load, install driver {newer} or newer ({_DRIVERS}).",
        )
    elif judged is Compatibility.TOO_OLD:
        yield Finding(
            "driver",
            Severity.ERROR,
            f"{said}, which needs a newer driver",
            "CUDA refuses to start.",
            f"Install driver {newer} or newer ({_DRIVERS}), or a torch for an older CUDA.",
        )
    else:
        yield Finding(
            "driver",
            Severity.NOTE,
            f"{said}, a CUDA that this version of vramx does not know",
            "Whether the driver is new enough cannot be told.",
        )


def check_torch(machine: Machine) -> Iterator[Finding]:
    """Look at torch: whether it is there, finds the cards and has kernels for them."""
    torch = machine.torch()
    if torch is None:
        yield Finding(
            "torch",
            Severity.NOTE,
            "torch is not installed",
            "session.manage() and torch's allocations need it.",
            "pip install 'vramx[torch]'",
        )
        return
    for part in torch.unexpected:
        yield Finding(
            "torch",
            Severity.WARNING,
            f"torch {torch.version}: {part}",
            "vramx was not tried with this release of torch.",
            "Use one of those that the README names, or a newer vramx.",
        )
    from vramx.integrations.torchvision import mismatch

    torchvision = machine.installed("torchvision")
    if torchvision is not None and (said := mismatch(torch.version, torchvision)) is not None:
        wrong, _, advice = said.partition(": ")
        yield Finding(
            "torch",
            Severity.WARNING,
            wrong,
            "What imports it fails, as spandrel does, which reads checkpoints of upscalers.",
            advice,
        )
    driver = machine.driver()
    if driver is None:
        yield Finding("torch", Severity.NOTE, f"torch {torch.version}; there is no card for it")
        return
    if torch.cuda is None:
        yield Finding(
            "torch",
            Severity.ERROR,
            f"torch {torch.version} is built without CUDA",
            "It computes on the CPU only and gives vramx nothing to serve.",
            "Install a CUDA build: https://pytorch.org/get-started/locally",
        )
        return
    if not torch.available:
        yield Finding(
            "torch",
            Severity.ERROR,
            f"torch {torch.version} for CUDA {torch.cuda} finds no card",
            "Its CUDA part does not start, or CUDA_VISIBLE_DEVICES hides the cards.",
            "See what torch.cuda.init() says.",
        )
        return
    for card in machine.cards():
        yield _kernels(card, torch.architectures, torch.cuda, driver)


def _kernels(card: Card, architectures: tuple[str, ...], cuda: str, driver: str) -> Finding:
    """Judge torch's kernels for a card."""
    code = code_for(card.capability, architectures)
    said = f"{card.name}, compute capability {card.capability[0]}.{card.capability[1]}"
    has = f"torch has {' '.join(architectures) or 'no kernels'}"
    if code is Code.MACHINE:
        return Finding("torch", Severity.OK, f"{said}: torch has kernels for it")
    jit = compatibility(parse_version(driver), parse_version(cuda)) is not Compatibility.MINOR
    if code is Code.PTX and jit:
        return Finding(
            "torch",
            Severity.NOTE,
            f"{said}; {has}",
            "The driver compiles kernels for it at their first use, which takes minutes once.",
            "A torch that names the card's architecture starts at once.",
        )
    return Finding(
        "torch",
        Severity.ERROR,
        f"{said}; {has}",
        "No kernel can be loaded: torch fails with 'no kernel image is available'."
        if code is Code.NONE
        else "There is only PTX for it, and this driver is older than the CUDA that made it.",
        "Install a torch that names the card's architecture"
        + ("." if code is Code.NONE else ", or a newer driver."),
    )


def check_cards(machine: Machine) -> Iterator[Finding]:
    """List the cards."""
    if machine.driver() is None:
        raise UnknownFactError("there is no driver to ask for cards")
    cards = machine.cards()
    for card in cards:
        yield Finding("cards", Severity.OK, f"{card.ordinal}: {card.name}, {card.total >> 20} MiB")
    if not cards:
        yield Finding(
            "cards",
            Severity.ERROR,
            "the driver finds no card",
            "vramx needs one.",
            "See nvidia-smi and the kernel's log (dmesg | grep -i nvrm).",
        )
