"""The part of a video that is asked for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

from vramx.errors import ConfigError

#: Seconds, or ``"HH:MM:SS.mmm"``.
Time = float | Fraction | str | None
#: A fraction as it is written, and ``[[HH:]MM:]SS[.mmm]``.
_RATIO = re.compile(r"\d+/0*[1-9]\d*")
_CLOCK = re.compile(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class Span:
    """From when to when, in seconds from where the file begins.

    Attributes
    ----------
    start : Fraction or None
        The first moment; None begins with the file.
    end : Fraction or None
        The moment after the last; None ends with the file.
    """

    start: Fraction | None = None
    end: Fraction | None = None

    def check_order(self) -> None:
        """Check that the end is after the start.

        Raises
        ------
        ConfigError
            If the end is not after the start.
        """
        if self.end is not None and self.end <= (self.start or 0):
            raise ConfigError(
                f"end {self.end_text} is not after start {self.start_text}: no frame is between"
            )

    @property
    def start_text(self) -> str:
        """The start in words."""
        return "of the file" if self.start is None else f"{float(self.start)} s"

    @property
    def end_text(self) -> str:
        """The end in words."""
        return "of the file" if self.end is None else f"{float(self.end)} s"

    def check(self, path: object, length: Fraction, frame: Fraction) -> None:
        """Check that a video is long enough.

        Parameters
        ----------
        path : Path
            What messages name.
        length, frame : Fraction
            How long the video and a frame of it last.

        Raises
        ------
        ConfigError
            If it does not.
        """
        if self.start is not None and self.start >= length:
            raise ConfigError(
                f"start {self.start_text} is not in {path}, which lasts {float(length):.3f} s"
            )
        if self.end is not None and self.end > length + frame:
            raise ConfigError(
                f"end {self.end_text} is not in {path}, which lasts {float(length):.3f} s"
            )


def as_seconds(given: Any, name: str) -> Fraction | None:
    """Return a time in seconds, exactly as it was written.

    Parameters
    ----------
    given : int, float, Fraction, str or None
        Seconds, also as ``"5/4"``, or ``"HH:MM:SS.mmm"``, whose hours and minutes may be left out.
    name : str
        What it is called in a message.

    Returns
    -------
    Fraction or None
        The time; None of None.

    Raises
    ------
    ConfigError
        If it is not a time.
    """
    if given is None or isinstance(given, Fraction):
        time = given
    elif _is_plain(given) or (isinstance(given, str) and _RATIO.fullmatch(given)):
        time = Fraction(str(given))
    else:
        parts = _CLOCK.fullmatch(given.strip()) if isinstance(given, str) else None
        if parts is None:
            raise ConfigError(
                f"{name} {given!r} is no time: give seconds from 0 up, or HH:MM:SS.mmm"
            )
        hours, minutes, seconds = parts.groups(default="0")
        time = 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    if time is not None and time < 0:
        raise ConfigError(f"{name} {given!r} is before the video begins: give 0 or more")
    return time


def _is_plain(given: Any) -> bool:
    """Return whether a time is a number from 0 up."""
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    return is_number and math.isfinite(given) and given >= 0
