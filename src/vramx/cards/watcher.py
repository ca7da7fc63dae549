"""A budget that shrinks for other programs on the card, and grows back when they end."""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from vramx import _core
from vramx.errors import ConfigError, OutOfMemoryError, SessionClosedError
from vramx.units import Size, format_size, parse_size

#: What may be on its way to the card at one time, in blocks: held by its budget, and not by NVML.
_BLOCKS_ON_THEIR_WAY = 8


class FreeMemory(Protocol):
    """Says how much of the card's memory is free."""

    def free(self) -> int:
        """Return bytes that no process holds now."""


@dataclass(frozen=True)
class BudgetRule:
    """Computes a budget from what is free on the card.

    What the session holds counts as used on the card, so it could hold that and what is free beyond
    the reserve. This figure depends on the other programs alone: with a budget made from it, the
    next look finds the same figure, even if blocks have moved meanwhile.

    Attributes
    ----------
    reserve : int
        Bytes of the card to leave free.
    least, most : int
        The bounds of the budget, in bytes.
    block : int
        Bytes of a block; budgets made here are whole blocks, except `least` and `most`.
    """

    reserve: int
    least: int
    most: int
    block: int

    @property
    def hysteresis(self) -> int:
        """Bytes of room beyond the budget up to which it does not grow."""
        return max(_BLOCKS_ON_THEIR_WAY * self.block, self.reserve // 8)

    def next_budget(self, free: int, budget: int, held: int) -> int:
        """Decide.

        Parameters
        ----------
        free : int
            Bytes of the card that no process holds.
        budget : int
            The present budget in bytes.
        held : int
            Bytes of the card that the session holds, at most the budget.

        Returns
        -------
        int
            The new budget; the present one if nothing is to change.
        """
        room = held + free - self.reserve
        room -= room % self.block
        if free < self.reserve or room > budget + self.hysteresis:
            budget = room
        return min(max(budget, self.least), self.most)


def checked_rule(
    *,
    reserve: Size,
    least: Size | None,
    most: Size | None,
    block: int,
    budget: int,
    capacity: int,
) -> BudgetRule:
    """Make a rule from a user's arguments.

    Parameters
    ----------
    reserve, least, most : int, float or str
        As `Session.watch_budget`.
    block, budget, capacity : int
        The session's block and present budget, and the card's memory, in bytes.

    Returns
    -------
    BudgetRule
        The rule.

    Raises
    ------
    ConfigError
        If a size is not one, or block, least, most and capacity are not in ascending order.
    """
    rule = BudgetRule(
        reserve=parse_size(reserve, "reserve") if reserve != 0 else 0,
        least=block if least is None else parse_size(least, "least"),
        most=budget if most is None else parse_size(most, "most"),
        block=block,
    )
    if not block <= rule.least <= rule.most <= capacity:
        raise ConfigError(
            f"a watched budget stays between least, {format_size(rule.least)}, and most, "
            f"{format_size(rule.most)}: these go from one block ({format_size(block)}) to the "
            f"card's {format_size(capacity)}, and least is not above most"
        )
    return rule


class Counts(Protocol):
    """What a session tells of its memory; bytes."""

    @property
    def budget(self) -> int:
        """The most on the card at once."""

    @property
    def resident(self) -> int:
        """What is on the card."""

    @property
    def peak_resident(self) -> int:
        """The most that was."""


class Budgeted(Protocol):
    """A session, as far as its budget is watched."""

    @property
    def device(self) -> _core.Device:
        """The card."""

    def stats(self) -> Counts:
        """Count."""

    def set_budget(self, budget: int) -> int:
        """Change the budget."""


class BudgetWatcher:
    """Keeps a session's budget to what other programs leave free. Made by `Session.watch_budget`.

    A context manager: leaving it stops the watching, and so do `stop`, the end of the session and
    the end of the interpreter. The budget stays as it was last set. In a forked child nothing is
    watched.

    Parameters
    ----------
    session : Session
        Whose budget.
    rule : BudgetRule
        What the budget becomes.
    card : FreeMemory
        Says what is free.
    every : float
        Seconds between two looks.

    Attributes
    ----------
    refused : Exception or None
        Why the budget is not what it should be, if it is not: usually an `OutOfMemoryError` because
        running modules and pins hold more. It is tried again at the next look.
    """

    def __init__(self, session: Budgeted, rule: BudgetRule, card: FreeMemory, every: float) -> None:
        if isinstance(every, bool) or not isinstance(every, (int, float)) or not 0 < every < 1e9:
            raise ConfigError(f"every {every!r} is not a time of more than zero seconds")
        if not callable(getattr(card, "free", None)):
            raise ConfigError(
                f"card {card!r} cannot tell what is free: give an object with a method free() "
                "that returns bytes"
            )
        self.refused: Exception | None = None
        self._session = session
        self._rule = rule
        self._card = card
        self._every = every
        self._warned: set[str] = set()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def watching(self) -> bool:
        """Whether the budget is being watched now."""
        thread = self._thread
        return thread is not None and thread.is_alive() and not self._over.is_set()

    def start(self) -> None:
        """Begin to watch, on a thread of its own."""
        # Not before this: a thread that is no daemon would keep the interpreter from its end.
        self._thread = threading.Thread(target=self._watch, name="vramx budget", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop watching; returns when no change is under way. Calling it again does nothing."""
        if self._process != os.getpid():  # the thread is the parent's, and so are its locks
            return
        self._over.set()
        atexit.unregister(self.stop)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> BudgetWatcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def describe(self) -> str:
        """Describe the watching for people, in a line."""
        rule = self._rule
        line = (
            f"budget watched: {format_size(rule.least)} to {format_size(rule.most)}, "
            f"{format_size(rule.reserve)} kept free"
        )
        return line if self.refused is None else f"{line}; last change refused: {self.refused}"

    def look(self) -> None:
        """Read what is free, and change the budget if necessary.

        Raises
        ------
        SessionClosedError
            If the session is closed.
        """
        stats, device = self._session.stats(), self._session.device
        if device.keeps_what_leaves:
            held = stats.peak_resident  # what is free does not rise when blocks leave
        else:
            held = max(stats.resident, device.card_bytes)
        try:
            free = self._card.free()
        except Exception as error:  # NVML's errors, and whatever another reader raises
            self._warn("reading", f"cannot tell what is free ({error}); the budget stays")
            return
        wanted = self._rule.next_budget(free, stats.budget, held)
        if wanted == stats.budget:
            self.refused = None
        else:
            self._change(wanted, stats.budget)

    def _change(self, wanted: int, budget: int) -> None:
        try:
            self._session.set_budget(wanted)
        except SessionClosedError:
            raise
        except OutOfMemoryError as error:
            self.refused = error
            held = error.leased + -error.leased % self._rule.block
            if wanted < held < budget:
                self._change(held, held)
                self.refused = error
        except Exception as error:  # a policy may raise anything
            self.refused = error
            self._warn("change", f"cannot set the budget to {format_size(wanted)} ({error})")
        else:
            self.refused = None

    def _warn(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(
                f"vramx's budget watcher {text}; it goes on trying", RuntimeWarning, stacklevel=3
            )

    def _watch(self) -> None:
        try:
            while not self._over.wait(self._every):
                self.look()
        except SessionClosedError:
            pass
        finally:
            self._over.set()
