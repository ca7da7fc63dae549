"""How passes and host memory are measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Passes in which the adaptive policy plans: measured, but no part of medians and percentiles.
WARM_UP = 3


def times_by(now: Callable[[], float], run: Callable[[], T], passes: int) -> tuple[list[float], T]:
    """Time passes that follow each other and are done when they return, by a clock.

    Parameters
    ----------
    now : callable
        Tells the clock's seconds.
    run : callable
        Runs a pass.
    passes : int
        How often, one or more.

    Returns
    -------
    (list of float, object)
        The passes' seconds, and what the last one returned.
    """
    ends = [now()]
    for _ in range(passes):
        out = run()
        ends.append(now())
    return [end - start for start, end in zip(ends, ends[1:])], out


def passes_within(seconds: float, one: float, least: int = 10, most: int = 30) -> int:
    """Return how many passes of `one` second each to measure in about `seconds`."""
    return max(least, min(most, int(seconds / one) if one > 0 else most))


def host_bytes() -> int:
    """Return this process's resident host memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
