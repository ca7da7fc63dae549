"""The queue: jobs wait in line, and run while their footprints fit the budget."""

from __future__ import annotations

import atexit
import bisect
import contextlib
import functools
import itertools
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from vramx import config
from vramx.cards.opening import card_ordinal, free_bytes, open_card
from vramx.errors import ConfigError, Error, InUseError, OutOfMemoryError, QueueClosedError
from vramx.queue import waits
from vramx.queue.admission import Admission
from vramx.queue.calling import call
from vramx.queue.job import Job, running_job
from vramx.queue.ledger import Ledger, folder_of_card
from vramx.queue.memory import give_back_cached
from vramx.queue.needs import Needs
from vramx.units import Size, as_count, format_size, parse_size

T = TypeVar("T")

#: Seconds between two looks at what other processes hold, while it keeps a job waiting.
_LOOK = 0.1
#: What a card is moved in unless a job's session says otherwise; needed to open one.
_BLOCK = 32 * 2**20


class Queue:
    """Runs jobs on one card while their footprints together fit the budget.

    Jobs run on threads of the queue, in order of submission within a priority, when there is room;
    the others wait in host memory. A large job at the head of the line is not overtaken by small
    ones behind it. A job for which a running one waits goes ahead of the line, and the one that
    waits does not count as one of the `workers` meanwhile.

    Queues of several processes on one card share it: the claims of all their running jobs together
    stay within each queue's budget, and their next jobs run in the order in which they reached the
    head of their queues. Claims are held by locks of the operating system, which end with the
    process, killed or not. Processes find each other in a folder of the user; containers and users
    that share a card need one that all of them may write (``VRAMX_RUNTIME_DIR``).

    A footprint is enforced only in sessions of `Job.oversubscribe`, which stay within the job's
    share. What a job allocates outside them is not limited.

    Parameters
    ----------
    budget : int, float or str, optional
        The most bytes of the card that running jobs may claim at once, those of other processes'
        queues included. By default, what is free on the card less `reserve`; set it where several
        processes share the card.
    device : int, str or torch.device, optional
        The card; 0 by default.
    backend : str
        As in `oversubscribe`; used by the sessions that jobs open.
    card : str, optional
        The name under which processes share the card: its UUID by default. A simulated card is
        shared only if this is given.
    workers : int
        The most jobs that run at once.
    reserve : int, float or str
        What a budget of ``None`` leaves to CUDA's contexts and libraries.

    Raises
    ------
    ConfigError
        If an argument is not allowed, or the budget is more than the card has.
    NoDeviceError
        If there is no usable card.

    Examples
    --------
    >>> with vramx.Queue(budget="8GiB") as queue:
    ...     jobs = [queue.submit(enlarge, path, footprint="3GiB") for path in paths]
    ...     pictures = [job.result() for job in jobs]
    """

    def __init__(
        self,
        budget: Size | None = None,
        *,
        device: Any = None,
        backend: str = "auto",
        card: str | None = None,
        workers: int = 8,
        reserve: Size = "512MiB",
    ) -> None:
        self._workers = as_count(workers, "workers")
        reserved = parse_size(reserve, "reserve") if reserve != 0 else 0
        asked = None if budget is None else parse_size(budget, "budget")
        self._ordinal = card_ordinal(device)
        found = open_card(
            backend,
            self._ordinal,
            _BLOCK,
            config.from_environment(),
            accept_unpinned=True,
            keeps_raw=True,
        )
        self.budget = free_bytes(found) - reserved if asked is None else asked
        if not 0 < self.budget <= found.capacity:
            raise ConfigError(
                f"a budget of {format_size(max(self.budget, 0))} cannot be shared out on "
                f"{found.name}: give more than zero and up to its {format_size(found.capacity)}"
            )
        self._session_options = {"device": device, "backend": backend}
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None
        folder = self._folder(card or found.uuid)
        self.card = str(folder)
        self._ledger = Ledger(folder)
        self._changed = threading.Condition(waits.LOCK)
        self._turn = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, int, Job[Any]]] = []
        self._running: dict[int, Job[Any]] = {}
        self._threads: list[threading.Thread] = []
        self._looking = 0  # threads that take the next job, or wait to
        self._needs = Needs(self.budget)
        self._admission = Admission(self._ledger, self._needs, self.budget)
        self._closed = False
        self._process = os.getpid()
        waits.add_queue(self)
        atexit.register(self.close)

    def _folder(self, card: str) -> Path:
        if not card:
            self._own_folder = tempfile.TemporaryDirectory(prefix="vramx-queue-")
            return Path(self._own_folder.name)
        return folder_of_card(card)

    def submit(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        footprint: Size | None = None,
        kind: Hashable = None,
        batch: int | None = None,
        priority: int = 0,
        name: str | None = None,
        **kwargs: Any,
    ) -> Job[T]:
        """Put a job in line.

        Without a footprint, the first job of a kind has the whole budget to itself, on this queue
        and others, and its peak on the card is measured: what its sessions held, and what torch's
        allocator did. Later ones of that kind and batch claim as much. What neither sees is not
        measured; after a job in which they see nothing, the next one has the budget to itself
        again.

        What a failed job held is freed: the variables of the calls in its traceback are cleared.
        Return results in host memory: what is on the card is no longer counted when the job ends.

        Parameters
        ----------
        function : callable
            What to call, as ``function(*args, **kwargs)``; for keywords that are this method's own,
            use `functools.partial`.
        *args, **kwargs
            What to call it with.
        footprint : int, float or str, optional
            Bytes of the card that it needs; measured by default.
        kind : hashable, optional
            Jobs of one kind need the same memory; the function by default. Each lambda, closure or
            partial is a kind of its own.
        batch : int, optional
            The function is called with ``batch=batch``, and if memory runs out again with half of
            it, down to 1. Later jobs of this kind and footprint begin with what was enough.
        priority : int
            Jobs with a higher one run earlier.
        name : str, optional
            Its name in reports; the function's by default.

        Returns
        -------
        Job
            A future of what the function returns or raises.

        Raises
        ------
        ConfigError
            If an argument is not allowed.
        OutOfMemoryError
            If the footprint is more than the whole budget.
        QueueClosedError
            If the queue is closed, or the parent's of a forked process.
        """
        if not callable(function):
            raise ConfigError(f"{function!r} cannot be called; give a function and its arguments")
        needed = None if footprint is None else parse_size(footprint, "footprint")
        called = name or str(getattr(function, "__qualname__", type(function).__name__))
        if needed is not None and needed > self.budget:
            error = OutOfMemoryError(
                f"the job {called} needs {format_size(needed)} of the card, more than the queue's "
                f"whole budget of {format_size(self.budget)}: raise the budget, or give a smaller "
                "footprint and work in a session of vramx.current_job().oversubscribe(), which "
                "keeps within it"
            )
            error.asked, error.budget = needed, self.budget
            raise error
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise ConfigError(f"priority {priority!r} is not a whole number")
        try:
            hash(kind)
        except TypeError as error:
            raise ConfigError(f"kind {kind!r} is not hashable; give a text, say") from error
        job: Job[T] = Job(
            functools.partial(function, *args, **kwargs),
            name=called,
            kind=function if kind is None else kind,
            footprint=needed,
            priority=priority,
            batch=None if batch is None else as_count(batch, "batch"),
            session_options=self._session_options,
            queue=self,
        )
        with self._changed:
            self._usable()
            entry = (-priority, next(self._numbers), job)
            bisect.insort(self._waiting, entry, key=lambda each: each[:2])
            self._look_again()
        return job

    @property
    def running(self) -> tuple[Job[Any], ...]:
        """The jobs that run now, in the order of their start."""
        with self._changed:
            return tuple(self._running.values())

    @property
    def waiting(self) -> tuple[Job[Any], ...]:
        """The jobs that wait, the next one first."""
        with self._changed:
            return tuple(job for _, _, job in self._waiting)

    def close(self, *, cancel: bool = False) -> None:
        """Accept no more jobs and wait for those submitted. Calling it again does nothing.

        Leaving the queue's scope does this, and cancels if it is left by an error; so does the
        interpreter's end.

        Parameters
        ----------
        cancel : bool
            Cancel those that wait, and ask those that run to stop.

        Raises
        ------
        InUseError
            If a job calls this and one of the queue's jobs cannot end before it: it would wait
            for itself. The queue stays open then.
        """
        if self._process != os.getpid():
            return
        if threading.current_thread() in self._threads:
            raise InUseError(
                "a job cannot close the queue that it runs on: it would wait for itself"
            )
        key = object()
        with self._changed:
            awaited = self.running if cancel else (*self.running, *self.waiting)
            for job in awaited:
                waits.begin(running_job(), job, key)
            self._closed = True
            self._changed.notify_all()
        if cancel:
            for job in (*self.waiting, *self.running):
                job.cancel()
        for thread in self._threads:
            thread.join()
        for job in awaited:
            waits.end(job, key)
        self._ledger.close()
        if self._own_folder is not None:
            self._own_folder.cleanup()
        atexit.unregister(self.close)

    def __enter__(self) -> Queue:
        self._usable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)

    def _usable(self) -> None:
        if self._process != os.getpid():
            raise QueueClosedError("this queue belongs to the parent process; open one here")
        if self._closed:
            raise QueueClosedError("this queue is closed; open another with vramx.Queue()")

    def _forget(self, job: Job[Any]) -> None:
        """Take a cancelled job out of the line, unless a thread has taken it already."""
        with self._changed:
            left = [each for each in self._waiting if each[2] is not job]
            found = len(left) < len(self._waiting)
            self._waiting = left
            job._has_ended |= found
            self._changed.notify_all()
        if found:
            job.set_running_or_notify_cancel()  # tells those who wait for several futures

    def _look_again(self) -> None:
        """Have a thread look at the line, where that may find a job. With the lock held."""
        if self._waiting and not self._looking and self._has_worker():
            self._looking += 1
            thread = threading.Thread(target=self._work, name="vramx queue", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _has_worker(self) -> bool:
        return len(self._running) - waits.count_waiting(self) < self._workers

    # What follows runs on the queue's threads.

    def _work(self) -> None:
        while True:
            with self._turn:  # one thread looks; the others wait to
                taken = self._next()
            if taken is None:
                return
            number, job, error = taken
            if error is None:
                self._run(number, job)
            elif job.set_running_or_notify_cancel():
                job.set_exception(error)
            del taken, job, error
            with self._changed:
                self._looking += 1

    def _next(self) -> tuple[int, Job[Any], Error | None] | None:
        """Wait until a job may run, and take it; None when there will be none.

        Returns
        -------
        (int, Job, Error or None) or None
            The job's number, the job, and what keeps it from ever running.
        """
        with self._changed:
            while True:
                if self._has_worker() and (taken := self._admission.next_of(self._waiting)):
                    number, job, error = taken
                    self._waiting = [each for each in self._waiting if each[2] is not job]
                    if error is None:
                        self._running[number] = job
                    job._has_ended = error is not None
                    self._looking -= 1
                    self._look_again()
                    return taken
                if self._waiting:
                    self._changed.wait(None if self._own_folder is not None else _LOOK)
                    continue
                if self._ledger.waits:
                    with contextlib.suppress(Error):  # it is told to the next job
                        self._ledger.leave_line()
                if self._closed:
                    self._looking -= 1
                    return None
                self._changed.wait()

    def _run(self, number: int, job: Job[Any]) -> None:
        finish: Callable[[], None] | None = None
        if job.set_running_or_notify_cancel():
            finish = call(job, self._needs, self._ordinal)
        job._drop_call()
        self._give_back(number)
        if finish is not None:
            finish()

    def _give_back(self, number: int) -> None:
        try:
            with self._changed:
                shared = bool(self._ledger.others())
        except Error:
            shared = True
        if shared:
            give_back_cached()
        with self._changed:
            self._running.pop(number)._has_ended = True
            try:
                self._ledger.release(number)
            except Error as error:
                warnings.warn(f"vramx's queue: {error}", RuntimeWarning, stacklevel=2)
            self._look_again()
