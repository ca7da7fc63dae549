"""A job of a queue."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

from vramx.errors import Error
from vramx.queue import waits
from vramx.queue.memory import Peak
from vramx.session import Session
from vramx.session.opening import oversubscribe
from vramx.stopping import Stop

if TYPE_CHECKING:
    from vramx.queue.line import Queue

T = TypeVar("T")

_current: contextvars.ContextVar[Job[Any]] = contextvars.ContextVar("vramx job")


class _Waiters(list[Any]):
    """Those of `concurrent.futures` that wait for a job and others: they come, and they go.

    `concurrent.futures.wait` and `as_completed` know no other way in than this list.
    """

    def __init__(self, job: Job[Any]) -> None:
        super().__init__()
        self._job = job

    def append(self, waiter: Any) -> None:
        waits.begin(running_job(), self._job, waiter)
        super().append(waiter)

    def remove(self, waiter: Any) -> None:
        waits.end(self._job, waiter)
        super().remove(waiter)


class Job(Future[T]):
    """A call that a queue runs when there is room. Made by `Queue.submit`.

    It is a `concurrent.futures.Future`: ``result()``, ``exception()``, ``done()``, callbacks,
    `concurrent.futures.wait` and `asyncio.wrap_future` work. The running function gets it from
    `current_job`.

    A running job may wait for another, which then runs beside it, before those in line. If that
    wait could never end, because the other job needs the memory that this one holds or waits for
    this one, it raises `InUseError`.

    Attributes
    ----------
    name : str
        Its name in reports.
    kind : hashable
        Jobs of one kind need the same memory.
    footprint : int or None
        Bytes of the card that it needs, as given; None where they are measured.
    priority : int
        Jobs with a higher one run earlier.
    budget : int
        Bytes of the card that it may use: 0 until it runs.
    measured : int or None
        The most bytes that it had on the card, if it ran to be measured.
    batch : int or None
        What it is called with now, or will be, as ``batch``.
    stop : Stop
        Stopped by `cancel` while the job runs; the function may pass it to what it calls.
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
        queue: Queue,
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
        self._queue = queue
        self._has_ended = False  # for its queue: it neither stands in line nor has memory
        self._waiters = _Waiters(self)
        self._peak: Peak | None = None
        self.stop = Stop()

    def cancel(self) -> bool:
        """Cancel the job if it waits; if it runs, ask it to stop.

        Nothing can stop a running function from outside: it stops where it calls `checkpoint`, or
        where something it calls checks `stop`, as a video does between two frames. A job that is
        asked to stop is not tried again with less.

        Returns
        -------
        bool
            Whether it is cancelled now. False for a running job, which may stop soon.
        """
        if super().cancel():
            self._queue._forget(self)
            return True
        if self.running():
            self.stop.stop()
        return False

    def cancelled(self) -> bool:
        """Return whether it was cancelled: before it ran, or by stopping when asked to."""
        return super().cancelled() or (
            self.stop.stopped and self.done() and isinstance(self.exception(), CancelledError)
        )

    def result(self, timeout: float | None = None) -> T:
        """Wait for the job, and return what its function returned or raise what it raised.

        Parameters
        ----------
        timeout : float, optional
            The most seconds to wait.

        Returns
        -------
        object
            What the function returned.

        Raises
        ------
        InUseError
            If a running job calls this, and it cannot end before that one.
        TimeoutError
            If the time is over.
        concurrent.futures.CancelledError
            If it is cancelled.
        """
        with self._awaited(timeout):
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job, and return what its function raised, if anything.

        Parameters
        ----------
        timeout : float, optional
            The most seconds to wait.

        Returns
        -------
        BaseException or None
            What the function raised.

        Raises
        ------
        InUseError
            If a running job calls this, and it cannot end before that one.
        TimeoutError
            If the time is over.
        concurrent.futures.CancelledError
            If it is cancelled.
        """
        with self._awaited(timeout):
            return super().exception(timeout)

    @contextlib.contextmanager
    def _awaited(self, timeout: float | None) -> Iterator[None]:
        """Tell those concerned that the calling thread waits for this job."""
        if self.done() or timeout == 0:
            yield
            return
        key = object()
        waits.begin(running_job(), self, key)
        try:
            yield
        finally:
            waits.end(self, key)

    def checkpoint(self) -> None:
        """Stop here if `cancel` was called, for the running function to call now and then.

        Raises
        ------
        concurrent.futures.CancelledError
            Do not catch it: it becomes the result.
        """
        if self.stop.stopped:
            raise CancelledError(f"the job {self.name} was asked to stop, and did")

    def oversubscribe(self, **options: Any) -> Session:
        """Open a session within what the job may use, for the running function.

        Parameters
        ----------
        **options
            As `vramx.oversubscribe`, whose budget, device and backend are the queue's by default.

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


def running_job() -> Job[Any] | None:
    """Return the job on behalf of which the calling thread works, unless it has ended."""
    job = _current.get(None)
    return None if job is None or job._has_ended else job


def current_job() -> Job[Any]:
    """Return the job that runs the calling function.

    Other threads that the function starts belong to the job if they run in a copy of its context
    (``contextvars.copy_context().run``, `asyncio.to_thread`).

    Returns
    -------
    Job
        The job.

    Raises
    ------
    Error
        If no queue called it, or it is on a thread that does not belong to the job.
    """
    job = _current.get(None)
    if job is None:
        raise Error("no job runs here: vramx.current_job() is for functions that a queue calls")
    return job
