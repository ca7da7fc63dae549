"""A job of a queue."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from vramx.errors import Error
from vramx.opening import oversubscribe
from vramx.queue.memory import Peak
from vramx.session import Session

T = TypeVar("T")

_current: contextvars.ContextVar[Job[Any]] = contextvars.ContextVar("vramx job")


class Job(Future[T]):
    """A call that a queue runs when there is room. Made by `Queue.submit`.

    It is a `concurrent.futures.Future`: ``result()``, ``exception()``, ``done()``, callbacks,
    `concurrent.futures.wait` and `asyncio.wrap_future` work. The function that runs reaches it by
    `current_job`.

    Attributes
    ----------
    name : str
        What reports call it.
    kind : hashable
        Jobs of one kind need the same memory.
    footprint : int or None
        Bytes of the card that it needs, as given; None where they are measured.
    priority : int
        More comes earlier.
    budget : int
        Bytes of the card that it may use: 0 until it runs.
    measured : int or None
        The most bytes that it had on the card, if it ran to be measured.
    batch : int or None
        What it is called with now, or will be, as ``batch``.
    """

    def __init__(
        self,
        call: Callable[..., T],
        *,
        name: str,
        kind: Hashable,
        footprint: int | None,
        priority: int,
        batch: int | None,
        session_options: dict[str, Any],
        on_cancel: Callable[[Job[Any]], None],
    ) -> None:
        super().__init__()
        self.name = name
        self.kind = kind
        self.footprint = footprint
        self.priority = priority
        self.budget = 0
        self.measured: int | None = None
        self.batch = batch
        self._call: Callable[..., T] | None = call
        self._session_options = session_options
        self._on_cancel = on_cancel
        self._peak: Peak | None = None
        self._stop = threading.Event()

    def cancel(self) -> bool:
        """Cancel the job if it waits; if it runs, ask it to stop.

        Nothing can stop a running function from outside: it stops where it calls `checkpoint`, or
        looks at `stop_asked`. A job that is asked to stop is not tried again with less.

        Returns
        -------
        bool
            Whether it is cancelled now. False for a running job, which may stop soon.
        """
        if super().cancel():
            self._on_cancel(self)
            return True
        if self.running():
            self._stop.set()
        return False

    def cancelled(self) -> bool:
        """Tell whether it was cancelled, before it ran or by its own `checkpoint`."""
        return super().cancelled() or (
            self._stop.is_set() and self.done() and isinstance(self.exception(), CancelledError)
        )

    @property
    def stop_asked(self) -> bool:
        """Whether `cancel` was called while it ran."""
        return self._stop.is_set()

    def checkpoint(self) -> None:
        """Stop here if `cancel` was called, for the running function to call now and then.

        Raises
        ------
        concurrent.futures.CancelledError
            To be let through: it becomes the result.
        """
        if self.stop_asked:
            raise CancelledError(f"the job {self.name} was asked to stop, and did")

    def oversubscribe(self, **options: Any) -> Session:
        """Open a session within what the job may use, for the running function.

        Parameters
        ----------
        **options
            As `vramx.oversubscribe`, whose budget, device and backend are the queue's unless given.

        Returns
        -------
        Session
            As `vramx.oversubscribe`.

        Raises
        ------
        Error
            If the job does not run; and as `vramx.oversubscribe`.
        """
        if self._peak is None:
            raise Error(f"the job {self.name} does not run now, so it has no share of the card")
        session = oversubscribe(**{"budget": self.budget, **self._session_options, **options})
        self._peak.sessions.append(session)
        return session

    def _run(self, peak: Peak) -> T:
        """Call the function, as the current job of this thread."""
        assert self._call is not None
        self._peak = peak
        token = _current.set(self)
        try:
            return self._call() if self.batch is None else self._call(batch=self.batch)
        finally:
            _current.reset(token)
            self._peak = None

    def _drop_call(self) -> None:
        self._call = None


def current_job() -> Job[Any]:
    """Return the job that runs the calling function.

    Returns
    -------
    Job
        The job.

    Raises
    ------
    Error
        If no queue called it, or it is on another thread than the job's.
    """
    job = _current.get(None)
    if job is None:
        raise Error("no job runs here: vramx.current_job() is for functions that a queue calls")
    return job
