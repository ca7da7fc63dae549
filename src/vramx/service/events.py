"""Server-sent events: what changes, told to those who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from vramx.service.refusals import BusyError

#: What waits for this is woken by every change.
EVERYTHING = "*"
#: Seconds after which a stream says that it is still there.
_STILL_THERE = 15.0
#: What a browser waits before it connects again, in milliseconds.
_AGAIN = 2000


class _Waiter:
    """A stream that waits: an event of the loop it runs on, and what has changed by then."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed: set[str] = set()
        self.event = asyncio.Event()

    def wake(self, what: str | None = None) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has ended, and the stream with it
            self._loop.call_soon_threadsafe(self._note, what)

    def _note(self, what: str | None) -> None:
        if what is not None:
            self._changed.add(what)
        self.event.set()

    def take(self) -> set[str]:
        changed, self._changed = self._changed, set()
        self.event.clear()
        return changed


class Changes:
    """Wakes streams when what they show changes. Any thread may tell.

    Parameters
    ----------
    most : int
        How many streams there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiters: defaultdict[str, set[_Waiter]] = defaultdict(set)
        self._streams = 0
        self._closed = False

    @property
    def streams(self) -> int:
        """How many there are."""
        return self._streams

    def tell(self, what: str) -> None:
        """Wake those who wait for a change of something."""
        with self._lock:
            waiters = [each for name in (what, EVERYTHING) for each in self._waiters.get(name, ())]
        for each in waiters:
            each.wake(what)

    def close(self) -> None:
        """End all streams."""
        with self._lock:
            self._closed = True
            waiters = [each for some in self._waiters.values() for each in some]
        for each in waiters:
            each.wake()

    def check_place(self) -> None:
        """Refuse a stream while there are as many as may be.

        Raises
        ------
        BusyError
            If there are.
        """
        if self._streams >= self._most:
            raise BusyError(f"{self._most} streams of events are open already", retry_after=2)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Count a stream, for a scope."""
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def watch(self, what: str, every: float = _STILL_THERE) -> AsyncIterator[set[str]]:
        """Tell what has changed: at once, at each change, and after `every` seconds without one."""
        waiter = _Waiter()
        with self._lock:
            self._waiters[what].add(waiter)
        try:
            while not self._closed:
                yield waiter.take()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(waiter.event.wait(), every)
        finally:
            with self._lock:
                self._waiters[what].discard(waiter)
                if not self._waiters[what]:
                    del self._waiters[what]


def event(kind: str, number: int, content: Any) -> bytes:
    """Write an event; its number comes back as Last-Event-ID after a break."""
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(content)}\n\n".encode()


#: How a stream begins, and what it says where nothing has changed.
BEGIN, STILL_THERE = f"retry: {_AGAIN}\n\n".encode(), b": still there\n\n"


async def job_events(
    changes: Changes,
    id: str,  # noqa: A002 - what clients call it
    look: Callable[[], dict[str, Any]],
    last: int,
) -> AsyncIterator[bytes]:
    """Tell how a job changes, from what a client has seen last until it has ended.

    Each event is the whole of the job, so that none is needed of what was missed.

    Parameters
    ----------
    changes : Changes
        Tells when to look.
    id : str
        The job.
    look : callable
        Returns what is told of it; `revision` and `state` among it.
    last : int
        The revision that the client has.

    Yields
    ------
    bytes
        Events.
    """
    with changes.place():
        yield BEGIN
        async for _ in changes.watch(id):
            job = await asyncio.to_thread(look)
            if job["revision"] > last:
                last = job["revision"]
                yield event("job", last, job)
            else:
                yield STILL_THERE
            if job["state"] not in ("queued", "running"):
                return


async def all_events(
    changes: Changes,
    look_at_card: Callable[[], dict[str, Any]],
    look_at_job: Callable[[str], dict[str, Any] | None],
    every: float,
) -> AsyncIterator[bytes]:
    """Tell of the card and of all jobs in one stream: browsers open few of them to a server.

    Parameters
    ----------
    changes : Changes
        Tells when to look.
    look_at_card, look_at_job : callable
        Return what is told of the card, and of a job: None if it was removed.
    every : float
        Seconds between two looks at the card.

    Yields
    ------
    bytes
        Events ``card``, ``job``, and ``gone`` with the `id` of a job that was removed.
    """
    number, due = 0, 0.0
    with changes.place():
        yield BEGIN
        async for changed in changes.watch(EVERYTHING, every):
            for id_ in changed:
                number += 1
                job = await asyncio.to_thread(look_at_job, id_)
                kind = "gone" if job is None else "job"
                yield event(kind, number, {"id": id_} if job is None else job)
            now = asyncio.get_running_loop().time()
            if now >= due:
                due = now + every / 2  # waits that a job's change cuts short put it off a little
                number += 1
                yield event("card", number, await asyncio.to_thread(look_at_card))
