"""One look at all sessions, queues and cards of this machine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from vramx.monitor.asking import ask_cards, ask_processes, ask_queues
from vramx.queue.ledger import Member
from vramx.seeing.stats import Stats


@dataclass(frozen=True)
class Rates:
    """What a session did between two looks, a second.

    Attributes
    ----------
    moved_in, crossed_in, moved_out : float
        Bytes, as in `vramx.Stats`.
    passes : float
        Finished calls of managed modules.
    stalled : float
        Seconds that work waited for moves.
    hits : float or None
        The part of the blocks used that was on the card; None if none was used.
    """

    moved_in: float
    crossed_in: float
    moved_out: float
    passes: float
    stalled: float
    hits: float | None


@dataclass(frozen=True)
class SessionView:
    """An open session.

    Attributes
    ----------
    number : int
        In its process, from 1.
    card, uuid, backend : str
        Where it is; a simulated card has no UUID.
    stats : Stats
        Its counts.
    rates : Rates or None
        What it did since the look before, if it was there then.
    """

    number: int
    card: str
    uuid: str
    backend: str
    stats: Stats
    rates: Rates | None


@dataclass(frozen=True)
class ProcessView:
    """A process and its open sessions."""

    pid: int
    command: str
    sessions: tuple[SessionView, ...]


@dataclass(frozen=True)
class CardView:
    """A card's memory in bytes as NVML tells it, and what each process holds of it."""

    name: str
    uuid: str
    total: int
    free: int
    processes: dict[int, int]


@dataclass(frozen=True)
class Snapshot:
    """What there is at one time.

    Attributes
    ----------
    time : float
        Seconds since the epoch.
    cards : tuple of CardView
        The cards.
    no_cards : str
        Why no card is known, if so.
    processes : tuple of ProcessView
        Those with open sessions.
    silent : dict of int to str
        Processes that did not answer, and why.
    queues : dict of str to tuple of Member
        What jobs have claimed, by card.
    """

    time: float
    cards: tuple[CardView, ...]
    no_cards: str
    processes: tuple[ProcessView, ...]
    silent: dict[int, str]
    queues: dict[str, tuple[Member, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def session(self, pid: int, number: int) -> SessionView | None:
        """Find a session."""
        return next(
            (
                session
                for process in self.processes
                for session in process.sessions
                if (process.pid, session.number) == (pid, number)
            ),
            None,
        )


def look(previous: Snapshot | None = None, *, patience: float = 1.0) -> Snapshot:
    """Look at what all processes of this user have open now.

    Parameters
    ----------
    previous : Snapshot, optional
        An earlier look, from which rates are reckoned.
    patience : float
        Seconds to wait for the answer of each process.

    Returns
    -------
    Snapshot
        What there is.

    Raises
    ------
    ConfigError
        If there can be no folder in which processes find each other.
    """
    now = time.time()
    answers, silent = ask_processes(patience)
    cards, no_cards = ask_cards()
    return Snapshot(
        time=now,
        cards=tuple(
            CardView(card.name, card.uuid, memory.total, memory.free, memory.others)
            for card, memory in cards
        ),
        no_cards=no_cards,
        processes=tuple(
            _process(answer, previous, now) for answer in answers if answer["sessions"]
        ),
        silent=silent,
        queues={card: tuple(members) for card, members in ask_queues(patience).items()},
    )


def _process(answer: dict[str, Any], previous: Snapshot | None, now: float) -> ProcessView:
    sessions = []
    for each in answer["sessions"]:
        stats = Stats(**each["stats"])
        rates = None
        if previous is not None:
            before = previous.session(answer["pid"], each["number"])
            if before is not None:
                rates = rates_between(before.stats, stats, now - previous.time)
        sessions.append(SessionView(**{**each, "stats": stats, "rates": rates}))
    return ProcessView(answer["pid"], answer["command"], tuple(sessions))


def rates_between(before: Stats, after: Stats, seconds: float) -> Rates | None:
    """Reckon rates from two counts.

    Parameters
    ----------
    before, after : Stats
        A session's counts.
    seconds : float
        The time between them.

    Returns
    -------
    Rates or None
        None if no time has passed.
    """
    if seconds <= 0:
        return None
    hits, misses = after.hits - before.hits, after.misses - before.misses
    return Rates(
        moved_in=(after.moved_in - before.moved_in) / seconds,
        crossed_in=(after.crossed_in - before.crossed_in) / seconds,
        moved_out=(after.moved_out - before.moved_out) / seconds,
        passes=(after.passes - before.passes) / seconds,
        stalled=(after.stall_seconds - before.stall_seconds) / seconds,
        hits=hits / (hits + misses) if hits + misses else None,
    )
