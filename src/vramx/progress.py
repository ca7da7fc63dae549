"""How far work is: what callbacks get, and a bar that shows it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Attributes
    ----------
    what : str
        What is worked on, such as a file's name.
    done : int
        How much is done; never less than before.
    total : int or None
        How much there is; None where that is not known. At the end it equals `done`.
    unit : str
        What is counted: ``"frame"``, ``"picture"`` or ``"px"``.
    seconds_left : float or None
        How long it will take at the rate so far; None where that is not known.
    way : str
        How the work is done, in words; may be empty.
    """

    what: str
    done: int
    total: int | None
    unit: str
    seconds_left: float | None = None
    way: str = ""


#: Is told of progress, on the thread that made it. What it raises ends the work.
OnProgress = Callable[[Progress], object]


class Meter:
    """Counts what is done, and reports it.

    Parameters
    ----------
    told : callable or None
        Called with each `Progress`.
    what, unit : str
        As of `Progress`.
    total : int, optional
        How much there is, as far as is known.
    done : int
        How much was done before.
    """

    def __init__(
        self, told: OnProgress | None, what: str, unit: str, total: int | None, done: int = 0
    ) -> None:
        self._told = told
        self._what, self._unit = what, unit
        self._total = total
        self._done = self._begin = done
        self._begun = time.monotonic()
        self._is_all_told = False
        self.way = ""
        self._tell()

    def add(self, count: int) -> None:
        """Count what is done more."""
        self.reach(self._done + count)

    def reach(self, done: int, total: int | None = None) -> None:
        """Report how much is done, unless more was reported before, and the total if given."""
        self._total = self._total if total is None else total
        if done > self._done:
            self._done = done
            self._tell()

    def finish(self) -> None:
        """Report that this is all, unless that was reported."""
        self._total = self._done
        if not self._is_all_told:
            self._tell()

    def _tell(self) -> None:
        self._is_all_told = self._done == self._total
        if self._told is None:
            return
        total, left = self._total, None
        if total is not None and total < self._done:
            total = None  # there is more than was said
        if total is not None and self._done > self._begin:
            seconds = time.monotonic() - self._begun
            left = seconds * (total - self._done) / (self._done - self._begin)
        self._told(Progress(self._what, self._done, total, self._unit, left, self.way))


@contextlib.contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Show bars on standard error; needs tqdm.

    Yields
    ------
    callable
        What to give as ``on_progress``. It shows one bar after another.

    Examples
    --------
    >>> with vramx.progress_bar() as bar:
    ...     sr.enlarge_video("small.mp4", "large.mp4", on_progress=bar)
    """
    bar: Any = None
    shown: str | None = None

    def show(progress: Progress) -> None:
        from tqdm import tqdm

        nonlocal bar, shown
        if bar is None or shown != progress.what:
            if bar is not None:
                bar.close()
            large = {"unit_scale": True} if progress.unit == "px" else {}
            bar = tqdm(initial=progress.done, unit=progress.unit, desc=progress.what, **large)
            shown = progress.what
        bar.total = progress.total
        if progress.way:
            bar.set_postfix_str(progress.way, refresh=False)
        bar.update(progress.done - bar.n)
        if progress.done == progress.total:
            bar.refresh()

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
