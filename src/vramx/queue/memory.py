"""What memory of the card a job uses, and what it leaves there."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from vramx.errors import OutOfMemoryError
from vramx.session import Session


def _cuda() -> Any:
    """Return ``torch.cuda`` if the program has taken CUDA memory by torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


class Peak:
    """The most bytes that a job has on the card.

    Parameters
    ----------
    ordinal : int
        The card's CUDA number.
    alone : bool
        Whether no other job of this process runs, so that torch's allocator counts for this one.

    Attributes
    ----------
    sessions : list of Session
        Those that the job opened.
    """

    def __init__(self, ordinal: int, alone: bool) -> None:
        self.sessions: list[Session] = []
        self._ordinal = ordinal
        self._before = 0
        if alone and (cuda := _cuda()) is not None:
            self._before = cuda.memory_allocated(ordinal)
            cuda.reset_peak_memory_stats(ordinal)

    def measured(self) -> int:
        """Return the peak, in bytes.

        Returns
        -------
        int
            What the job's sessions held at most, or torch's allocator beyond what it had before,
            whichever is more: it may count a session's activations too. Of a job that was not
            alone it means nothing.
        """
        by_sessions = sum(each.stats().peak_resident for each in self.sessions)
        cuda = _cuda()
        by_torch = 0 if cuda is None else cuda.max_memory_allocated(self._ordinal) - self._before
        return max(by_sessions, by_torch)


def give_back_cached() -> None:
    """Give back to the card what torch's allocator caches, for other processes."""
    if (cuda := _cuda()) is not None:
        cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the card's memory ran out."""
    torch = sys.modules.get("torch")
    kinds = (OutOfMemoryError,) if torch is None else (OutOfMemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds)


def let_go(error: BaseException) -> None:
    """Clear the variables of the calls that an error passed through: they hold tensors.

    Parameters
    ----------
    error : BaseException
        The error; those that it came from are cleared too.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            left += [each.__cause__, each.__context__]
