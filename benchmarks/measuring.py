"""How passes, the link and host memory are measured, on a card and on the simulated one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

#: Passes in which the adaptive policy plans: measured, but no part of medians and percentiles.
WARM_UP = 3


def times_on_card(run: Callable[[], T], passes: int) -> tuple[list[float], T]:
    """Time passes that follow each other without a pause, by the card's events.

    Parameters
    ----------
    run : callable
        Runs a pass.
    passes : int
        How often, one or more.

    Returns
    -------
    (list of float, object)
        The passes' seconds, and what the last one returned.
    """
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(passes + 1)]
    ends[0].record()
    for end in ends[1:]:
        out = run()
        end.record()
    ends[-1].synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in zip(ends, ends[1:])], out


def timed_on_card(run: Callable[[], Any]) -> float:
    """Time one pass that begins when the card has nothing else to do, in seconds."""
    torch.cuda.synchronize()
    (seconds,), _ = times_on_card(run, 1)
    return seconds


def times_simulated(card: Any, run: Callable[[], T], passes: int) -> tuple[list[float], T]:
    """Do as `times_on_card` by the clock of a simulated card."""
    ends = [float(card.now)]
    for _ in range(passes):
        out = run()
        ends.append(float(card.now))
    return [end - start for start, end in zip(ends, ends[1:])], out


def passes_within(seconds: float, one: float, least: int = 10, most: int = 30) -> int:
    """Return how many passes of `one` second each to measure in about `seconds`."""
    return max(least, min(most, int(seconds / one) if one > 0 else most))


class PinnedCopy:
    """A pinned copy to the card, by which the link is measured between passes."""

    def __init__(self) -> None:
        self._host = torch.empty(2**30, dtype=torch.uint8).pin_memory()
        self._card = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        self.rate()

    def rate(self) -> float:
        """Return the link's bytes a second now."""
        copy = timed_on_card(lambda: self._card.copy_(self._host, non_blocking=True))
        return self._host.numel() / copy


def host_bytes() -> int:
    """Return this process's resident host memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
