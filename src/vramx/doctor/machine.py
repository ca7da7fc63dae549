"""The facts that the doctor asks a machine for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vramx.cards.nvml import CardMemory
from vramx.hostram import HostRam


class UnknownFactError(Exception):
    """A machine cannot tell a fact; the message says why."""


@dataclass(frozen=True)
class Card:
    """A card as NVML describes it.

    Attributes
    ----------
    ordinal : int
        NVML's number.
    name, uuid : str
        What it is called.
    total : int
        Memory in bytes.
    capability : (int, int)
        Compute capability.
    generation, lanes, most_lanes : int
        Of PCI Express: the best generation that card and slot share, the link's present width and
        the widest that both allow; 0 where NVML cannot tell.
    """

    ordinal: int
    name: str
    uuid: str
    total: int
    capability: tuple[int, int]
    generation: int = 0
    lanes: int = 0
    most_lanes: int = 0


@dataclass(frozen=True)
class Torch:
    """The installed torch.

    Attributes
    ----------
    version : str
        Its version.
    cuda : str or None
        The CUDA version it is built for, None for a build without.
    architectures : tuple of str
        What its kernels are compiled for: ``"sm_90"`` is machine code, ``"compute_90"`` PTX.
    available : bool
        Whether it finds a card.
    unexpected : tuple of str
        What of its internals is not as vramx expects, and what that costs.
    """

    version: str
    cuda: str | None
    architectures: tuple[str, ...]
    available: bool
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostMemory(HostRam):
    """Host memory in bytes.

    Attributes
    ----------
    lock_limit : int or None
        What ``ulimit -l`` allows to lock.
    """

    lock_limit: int | None = None


@dataclass(frozen=True)
class LinkRates:
    """Measured rates of pinned copies, in bytes a second, and the card's UUID."""

    to_card: float
    to_host: float
    uuid: str = ""


class Machine(Protocol):
    """Where facts come from: this machine, or one that a test makes up.

    Each method may raise `UnknownFactError`, which makes a note of the check, or anything else,
    which makes it a warning.
    """

    def system(self) -> str:
        """Tell the operating system's name and release."""

    def python(self) -> str:
        """Tell the interpreter's version."""

    def requirements(self) -> tuple[str, list[str]]:
        """Tell the Python versions and packages, as requirements, that vramx declares."""

    def installed(self, package: str) -> str | None:
        """Tell a package's version; None where it is not installed."""

    def packing_kernels(self) -> tuple[bool, str]:
        """Tell whether vramx is built with kernels that pack weights, and by what, or why not."""

    def driver(self) -> str | None:
        """Tell the driver's version; None where there is no driver."""

    def cards(self) -> list[Card]:
        """List the cards."""

    def torch(self) -> Torch | None:
        """Describe torch; None where it is not installed."""

    def open_managed(self, ordinal: int) -> None:
        """Open a card for managed memory; raises `NoDeviceError`, which says why it cannot."""

    def open_mapped(self, ordinal: int) -> None:
        """Open a card for mapped memory; raises `NoDeviceError`, which says why it cannot."""

    def host_memory(self) -> HostMemory:
        """Describe the host's memory."""

    def link(self, ordinal: int) -> LinkRates:
        """Measure the link."""

    def card_memory(self, uuid: str) -> CardMemory:
        """Tell a card's memory and who holds it."""

    def serves_processes(self) -> bool:
        """Tell whether NVIDIA's multi-process service (MPS) runs."""
