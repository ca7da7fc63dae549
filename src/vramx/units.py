"""Sizes and rates as people write them."""

from __future__ import annotations

import math
import re

from vramx.errors import ConfigError

#: Bytes as a number, or as text: ``"8GiB"``, ``"750MB"``, ``"1.5 GiB"``, ``"4096"``.
Size = int | float | str

#: The largest size that is taken, in bytes.
LARGEST = 2**63 - 1

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[a-z]*)\s*", re.IGNORECASE)
_EXAMPLES = 'bytes as a number above zero, or text such as "8GiB" or "750MB"'


def shown(value: object) -> str:
    """Write what was given as a message can hold it: Python writes no numbers of any length."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"of {value.bit_length()} bits"
    return repr(value)


def as_count(value: object, name: str) -> int:
    """Check how many there are to be of something.

    Parameters
    ----------
    value : object
        What was given.
    name : str
        What it is called in a message.

    Returns
    -------
    int
        The same.

    Raises
    ------
    ConfigError
        If it is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} {value!r} is not a whole number of at least 1")
    return value


def parse_size(value: Size, name: str) -> int:
    """Turn a size into bytes.

    Parameters
    ----------
    value : int, float or str
        Bytes, or text with a unit: B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (1024).
    name : str
        What the size is for, for the message.

    Returns
    -------
    int
        Bytes, at least one.

    Raises
    ------
    ConfigError
        If it is not a size above zero.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        unit = match["unit"].lower() if match else None
        if match is None or unit not in _UNITS:
            raise ConfigError(f"{name} {value!r} is not a size: give {_EXAMPLES}")
        number = float(match["number"]) * _UNITS[unit]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = min(value, math.inf)
    else:
        raise ConfigError(f"{name} {value!r} is not a size: give {_EXAMPLES}")
    if not 1 <= number <= LARGEST:
        raise ConfigError(
            f"{name} {shown(value)} is not a size above zero and up to 8 EiB: give {_EXAMPLES}"
        )
    return round(number)


def parse_rate(value: Size, name: str) -> float:
    """Turn a rate into bytes a second.

    Parameters
    ----------
    value : int, float or str
        Bytes a second, or text such as ``"25GB/s"``.
    name : str
        What the rate is for, for the message.

    Returns
    -------
    float
        Bytes a second.

    Raises
    ------
    ConfigError
        If it is not a rate above zero.
    """
    if isinstance(value, str):
        size, slash, second = value.partition("/")
        if slash and second.strip() != "s":
            raise ConfigError(f'{name} {value!r} is not a rate: give text such as "25GB/s"')
        return float(parse_size(size, name))
    return float(parse_size(value, name))


def format_size(size: float) -> str:
    """Write bytes for people: ``"6.00 GiB"``.

    Parameters
    ----------
    size : float
        Bytes.

    Returns
    -------
    str
        The size in the largest binary unit that leaves at least one.
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _UNITS[unit.lower()]:
            return f"{size / _UNITS[unit.lower()]:.2f} {unit}"
    return f"{size:.0f} B"


def format_seconds(seconds: float) -> str:
    """Write a time for people: ``"1.25 s"``, ``"12.50 ms"``.

    Parameters
    ----------
    seconds : float
        Seconds.

    Returns
    -------
    str
        The time in seconds, or in the largest smaller unit that leaves at least one.
    """
    for unit, length in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= length:
            return f"{seconds / length:.2f} {unit}"
    return f"{seconds * 1e6:.2f} µs" if seconds else "0 s"
