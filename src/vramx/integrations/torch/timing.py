"""What takes how long on a card, by its own events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


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


class PinnedCopies:
    """Copies between pinned host memory and the card, by which the link is measured.

    Parameters
    ----------
    nbytes : int
        Bytes of a copy, which are held in host memory and on the card.
    ordinal : int
        The card's CUDA number.
    """

    def __init__(self, nbytes: int = 2**30, ordinal: int = 0) -> None:
        self._ordinal = ordinal
        self._host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        self._card = torch.empty(nbytes, dtype=torch.uint8, device=f"cuda:{ordinal}")
        self.to_card()
        self.to_host()

    def to_card(self) -> float:
        """Copy to the card; return bytes a second."""
        return self._rate(self._card, self._host)

    def to_host(self) -> float:
        """Copy to the host; return bytes a second."""
        return self._rate(self._host, self._card)

    def _rate(self, to: torch.Tensor, source: torch.Tensor) -> float:
        with torch.cuda.device(self._ordinal):
            seconds = timed_on_card(lambda: to.copy_(source, non_blocking=True))
        return source.numel() / seconds
