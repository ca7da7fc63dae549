"""Which driver runs which CUDA, and which card runs which machine code."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

from vramx.errors import ConfigError

Version = tuple[int, ...]

#: The driver that each CUDA toolkit came with, Linux x86-64, first release of each ("NVIDIA CUDA
#: Toolkit Release Notes", table "CUDA Toolkit and Corresponding Driver Versions", 12.8.1 and 13.x).
TOOLKIT_DRIVERS: dict[Version, Version] = {
    (11, 8): (520, 61, 5),
    (12, 0): (525, 60, 13),
    (12, 1): (530, 30, 2),
    (12, 2): (535, 54, 3),
    (12, 3): (545, 23, 6),
    (12, 4): (550, 54, 14),
    (12, 5): (555, 42, 2),
    (12, 6): (560, 28, 3),
    (12, 8): (570, 26),
    (12, 9): (575, 51, 3),
    (13, 0): (580, 65, 6),
    (13, 1): (590, 44, 1),
    (13, 2): (595, 45, 4),
    (13, 3): (610, 43, 2),
}

#: The oldest driver that runs a major version's toolkits with minor version compatibility (same
#: document, table "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version
#: Compatibility").
FAMILY_DRIVERS: dict[int, Version] = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580,)}


class Compatibility(enum.IntEnum):
    """How a driver runs programs of a CUDA version, the best last."""

    UNKNOWN = 0
    TOO_OLD = 1
    MINOR = 2
    FULL = 3


def parse_version(text: str) -> Version:
    """Read a version.

    Parameters
    ----------
    text : str
        Such as ``"580.159.03"`` or ``"12.8"``; what follows the digits is left out.

    Returns
    -------
    tuple of int
        Its parts.

    Raises
    ------
    ConfigError
        If it does not begin with a number.
    """
    match = re.match(r"\d+(\.\d+)*", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a version such as 580.65.06")
    return tuple(int(part) for part in match[0].split("."))


def format_version(version: Version) -> str:
    """Write a version as NVIDIA does: ``580.65.06``."""
    return ".".join([str(version[0]), *(f"{part:02d}" for part in version[1:])])


def toolkit_driver(cuda: Version) -> Version | None:
    """Tell which driver a toolkit came with; None for toolkits that are not in the table.

    Of a toolkit between two in the table, it is the next newer one's: no more is asked for.
    """
    cuda = cuda[:2]
    known = [each for each in TOOLKIT_DRIVERS if each >= cuda and each[0] == cuda[0]]
    return TOOLKIT_DRIVERS[min(known)] if known else None


def compatibility(driver: Version, cuda: Version) -> Compatibility:
    """Judge a driver for a CUDA version.

    Parameters
    ----------
    driver : tuple of int
        The driver's version.
    cuda : tuple of int
        The toolkit's version.

    Returns
    -------
    Compatibility
        ``FULL`` from the toolkit's own driver on; ``MINOR`` from the family's first driver on,
        where PTX of that toolkit cannot be compiled and new features are absent; ``UNKNOWN`` for
        a major version that the tables do not have.
    """
    own = toolkit_driver(cuda)
    if own is not None and driver >= own:
        return Compatibility.FULL
    family = FAMILY_DRIVERS.get(cuda[0])
    if family is None:
        return Compatibility.UNKNOWN
    return Compatibility.MINOR if driver >= family else Compatibility.TOO_OLD


class Code(enum.IntEnum):
    """What a card finds of a program's kernels, the best last."""

    NONE = 0
    PTX = 1
    MACHINE = 2


def _architecture(name: str) -> tuple[str, tuple[int, int], str] | None:
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
    if match is None:
        return None
    return match[1], (int(match[2]), int(match[3])), match[4]


def code_for(capability: tuple[int, int], architectures: Iterable[str]) -> Code:
    """Tell whether a card can run kernels compiled for some architectures.

    Machine code runs on its own major version from its own minor version on; PTX is compiled for
    any newer card by the driver; code with the suffix ``a`` runs on exactly its own architecture,
    with ``f`` on its family ("CUDA C++ Programming Guide", chapters "Binary Compatibility" and
    "PTX Compatibility").

    Parameters
    ----------
    capability : (int, int)
        The card's compute capability.
    architectures : iterable of str
        As `torch.cuda.get_arch_list` names them.

    Returns
    -------
    Code
        The best there is.
    """
    best = Code.NONE
    for name in architectures:
        found = _architecture(name)
        if found is None:
            continue
        kind, of, suffix = found
        if suffix == "a":
            runs = capability == of
        elif suffix == "f" or kind == "sm":
            runs = capability[0] == of[0] and capability[1] >= of[1]
        else:
            runs = capability >= of
        if runs:
            best = max(best, Code.MACHINE if kind == "sm" else Code.PTX)
    return best
