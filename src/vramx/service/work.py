"""Stored jobs as tasks in the queue: what they tell goes into the store."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from vramx.errors import Error, OutOfMemoryError, StoppedError
from vramx.progress import Progress
from vramx.queue import Job, Queue
from vramx.seeing.stats import Stats
from vramx.service.events import Changes
from vramx.service.making import Making, files_of
from vramx.service.refusals import NotAllowedError, told
from vramx.service.results import Results
from vramx.service.settings import ServiceSettings
from vramx.service.store import Store, StoredJob
from vramx.tasks import run
from vramx.units import format_size, parse_size

#: Seconds between two reports of a job's progress.
_REPORTS = 0.2

_log = logging.getLogger(__name__)


class Moved:
    """Bytes that the sessions of finished jobs moved."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inwards = self.outwards = self.crossed = 0

    def add(self, stats: Stats) -> None:
        """Count a job's."""
        with self.lock:
            self.inwards += stats.moved_in
            self.outwards += stats.moved_out
            self.crossed += stats.crossed_in


class Work:
    """Runs stored jobs.

    Parameters
    ----------
    queue : Queue
        Where they run.
    store, results, making : Store, Results and Making
        What is known of them, where they write, and what they are.
    changes : Changes
        Is told of each change.
    settings : ServiceSettings
        How many jobs may be open, and may run at once.
    """

    def __init__(
        self,
        queue: Queue,
        store: Store,
        results: Results,
        making: Making,
        changes: Changes,
        settings: ServiceSettings,
    ) -> None:
        self.queue = queue
        self._store = store
        self._results = results
        self._making = making
        self._changes = changes
        self._most = settings.limits.jobs
        self._share_of_each = queue.budget // settings.workers
        self._lock = threading.Lock()
        self._jobs: dict[str, Job[Any]] = {}
        self.moved = Moved()

    def recover(self) -> None:
        """Go on with what a server that ended has left."""
        for job in self._store.open_jobs():
            self._store.put_back(job.id)
            if job.stopping:
                self._store.end(job.id, "cancelled")
                continue
            try:
                self._submit(job)
            except OutOfMemoryError as error:  # the budget is less than it was
                self._fail(job.id, error)

    def add(self, request: dict[str, Any]) -> StoredJob:
        """Take a job.

        Raises
        ------
        RefusedError
            If it cannot be, or as many as may be are open.
        """
        self._making.check(request)
        request = {**request, "budget": self._share(request.get("budget"))}
        job = self._store.add_job(secrets.token_hex(16), request, files_of(request), self._most)
        self._submit(job)
        return job

    def _share(self, asked: str | None) -> int:
        """Return what a job may have of the card.

        It is a part of the job, and not measured: networks round differently in other tiles, and a
        video that goes on after a kill would not be the same bytes.
        """
        if asked is None:
            return self._share_of_each
        try:
            share = parse_size(asked, "budget")
        except Error as error:
            raise NotAllowedError(str(error)) from error
        if share > self.queue.budget:
            raise NotAllowedError(
                f"budget {asked!r} is more than all jobs together may have on the card, "
                f"{format_size(self.queue.budget)}"
            )
        return share

    def cancel(self, id: str) -> StoredJob:  # noqa: A002 - what clients call it
        """Take a job out of the line, or ask it to stop.

        Raises
        ------
        NotFoundError, ConflictError
            If there is no such job, or it has ended.
        """
        self._store.ask_to_stop(id)
        self._changes.tell(id)
        with self._lock:
            job = self._jobs.get(id)
        if job is not None:
            job.cancel()
        return self._store.job(id)

    def resume(self, id: str) -> StoredJob:  # noqa: A002
        """Have a job that was cancelled or failed go on.

        Raises
        ------
        NotFoundError, ConflictError, BusyError
            If there is no such job, it is in another state, or as many as may be are open.
        """
        job = self._store.resume(id, self._most)
        self._submit(job)
        return job

    def forget(self, id: str) -> None:  # noqa: A002
        """Remove a job that has ended, and what it made.

        Raises
        ------
        NotFoundError, ConflictError
            If there is no such job, or it has not ended.
        """
        self._store.forget(id)
        self._results.remove(id)
        self._changes.tell(id)

    def close(self) -> None:
        """Stop what runs so that the next server goes on with it, and wait for that."""
        self.queue.close(cancel=True)

    def _submit(self, stored: StoredJob) -> None:
        with self._lock:
            job = self.queue.submit(
                self._run,
                stored.id,
                footprint=stored.request["budget"],
                name=f"{stored.request['kind']} {stored.id}",
            )
            self._jobs[stored.id] = job
        job.add_done_callback(partial(self._ended, stored.id))
        self._changes.tell(stored.id)

    # What follows runs on the queue's threads.

    def _run(self, id: str) -> Any:  # noqa: A002
        stored = self._store.begin(id)
        if stored is None:
            raise StoppedError(f"the job {id} was cancelled before it began")
        self._changes.tell(id)
        is_search = stored.request["kind"] == "faces"  # which does not go on, but begins again
        folder = self._results.begin(id, anew=is_search)
        if not is_search and self._results.name(id) is not None:
            return None  # the server ended between the last byte and the note of it
        task = self._making.task(stored.request, folder)
        return run(task, on_progress=self._reporter(id))

    def _reporter(self, id: str) -> Any:  # noqa: A002
        """Return what notes a job's progress, not more often than people see."""
        last, done = 0.0, 0

        def report(progress: Progress) -> None:
            nonlocal last, done
            now = time.monotonic()
            # That it has begun to move is told at once: the next report may be long in coming.
            if now - last >= _REPORTS or done == 0 or progress.done == progress.total:
                last, done = now, progress.done
                self._store.report_progress(id, _told(progress))
                self._changes.tell(id)

        return report

    def _ended(self, id: str, job: Job[Any]) -> None:  # noqa: A002
        with self._lock:
            if self._jobs.get(id) is job:
                del self._jobs[id]
        error: BaseException | None
        try:
            error = job.exception()
        except CancelledError as cancelled:
            error = cancelled
        if isinstance(error, CancelledError):
            if self._store.job(id).stopping:
                self._store.end(id, "cancelled")
            else:  # the server ends
                self._store.put_back(id)
        elif error is not None:
            self._fail(id, error)
        else:
            done = job.result()
            if done is not None:
                self.moved.add(done.stats)
            self._store.end(id, "done", report=None if done is None else _figures(done.to_dict()))
        self._changes.tell(id)

    def _fail(self, id: str, error: BaseException) -> None:  # noqa: A002
        kind = type(error).__name__
        if not isinstance(error, Error):
            _log.error("job %s: %s: %s", id, kind, error)
        self._store.end(id, "failed", error=told(kind, self._making.said(error)))


def _told(progress: Progress) -> dict[str, Any]:
    """Return progress as JSON values; `what` is a name of the server's own."""
    return {name: each for name, each in vars(progress).items() if name != "what"}


def _figures(report: Any) -> Any:
    """Return a report without paths of this machine."""
    if isinstance(report, dict):
        paths = ("source", "target", "out", "path")
        names = {}
        with contextlib.suppress(KeyError):
            names["name"] = report["path"].rpartition("/")[2]
        return names | {key: _figures(each) for key, each in report.items() if key not in paths}
    return [_figures(each) for each in report] if isinstance(report, list) else report
