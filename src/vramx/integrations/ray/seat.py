"""A session that lasts as long as its actor, within the actor's share of its card."""

from __future__ import annotations

import atexit
import queue
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from vramx.integrations.ray.share import Share, share_of
from vramx.queue import Queue
from vramx.session import Session
from vramx.session.options import SessionOptions
from vramx.tasks.session import open_session

W = TypeVar("W")
T = TypeVar("T")

#: Opens what an actor works with, in its session, for as long as that is open.
Opener = Callable[[Session], AbstractContextManager[W]]
_Call = tuple[Callable[[W], Any], "Future[Any]"]


class Seat(Generic[W]):
    """A share of a card, claimed in the queue of the card's processes, and a session in it.

    The session is opened on a thread of its own, on which all work is done: Ray calls an actor on
    threads of its choice, and a session sees what its own thread allocates.

    Parameters
    ----------
    options : SessionOptions
        Of the session.
    opener : callable
        Takes the session and returns a context manager, whose value is what work is done with.

    Attributes
    ----------
    share : Share
        The actor's part of its card.

    Raises
    ------
    NoDeviceError, ConfigError
        As `share_of`; and whatever opening raises.
    """

    def __init__(self, options: SessionOptions, opener: Opener[W]) -> None:
        self.share: Share = share_of(options)
        self._calls: queue.SimpleQueue[_Call[W] | None] = queue.SimpleQueue()
        self._queue = Queue(self.share.whole, backend=options.backend, card=self.share.card)
        atexit.register(self.close)  # before the queue's own, which waits for its jobs
        opened: Future[None] = Future()
        self._job = self._queue.submit(
            self._work, options, opener, opened, footprint=self.share.budget, name="Ray actor"
        )
        try:
            done, _ = wait([opened, self._job], return_when=FIRST_COMPLETED)
            if self._job in done:
                self._job.result()
        except BaseException:
            self.close()
            raise

    def _work(self, options: SessionOptions, opener: Opener[W], opened: Future[None]) -> None:
        with open_session(options) as session, opener(session) as what:
            opened.set_result(None)
            while (call := self._calls.get()) is not None:
                work, result = call
                try:
                    result.set_result(work(what))
                except BaseException as error:
                    result.set_exception(error)
                del call, work, result  # they hold what was worked on

    def do(self, work: Callable[[W], T]) -> T:
        """Do some work in the session, and wait for it.

        Parameters
        ----------
        work : callable
            Takes what the opener gave.

        Returns
        -------
        object
            What it returned, or raises what it raised.
        """
        result: Future[T] = Future()
        self._calls.put((work, result))
        return result.result()

    def close(self) -> None:
        """Close the session and give the share back. Calling it again does nothing."""
        self._calls.put(None)
        self._queue.close(cancel=True)
        atexit.unregister(self.close)
