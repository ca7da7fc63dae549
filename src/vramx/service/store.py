"""Files and jobs in SQLite, so that a server that was killed goes on with them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramx.errors import ConfigError
from vramx.service.refusals import BusyError, ConflictError, NotFoundError

#: States of jobs that are still to be done, and of those that are not.
OPEN, ENDED = ("queued", "running"), ("done", "failed", "cancelled")
STATES = (*OPEN, *ENDED)

_VERSION = 1
_TABLES = """
CREATE TABLE files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, bytes INTEGER NOT NULL, kind TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, frames INTEGER, made REAL NOT NULL);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, request TEXT NOT NULL,
    state TEXT NOT NULL, stopping INTEGER NOT NULL DEFAULT 0, revision INTEGER NOT NULL DEFAULT 1,
    progress TEXT, report TEXT, error TEXT, made REAL NOT NULL, begun REAL, ended REAL);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE TABLE uses (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, file TEXT NOT NULL);
CREATE INDEX uses_by_file ON uses (file);
"""


@dataclass(frozen=True)
class StoredFile:
    """An uploaded file; `name` is text that its client gave it, and names nothing here."""

    id: str
    name: str
    bytes: int
    kind: str
    width: int
    height: int
    frames: int | None
    made: float


@dataclass(frozen=True)
class StoredJob:
    """A job: what was asked for, and what became of it.

    Attributes
    ----------
    number : int
        In the order in which they were given.
    id : str
        How clients name it.
    request : dict
        What was asked for.
    state : str
        One of `STATES`.
    stopping : bool
        Whether it was cancelled.
    revision : int
        Grows with each change.
    progress, report, error : dict or None
        How far it is, what it made, and why it failed.
    made, begun, ended : float or None
        Seconds since the epoch.
    """

    number: int
    id: str
    request: dict[str, Any]
    state: str
    stopping: bool
    revision: int
    progress: dict[str, Any] | None
    report: dict[str, Any] | None
    error: dict[str, Any] | None
    made: float
    begun: float | None
    ended: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dict(vars(self))


class Store:
    """The list of files and jobs. Any thread may use it.

    Parameters
    ----------
    path : Path
        The database, made if need be.

    Raises
    ------
    ConfigError
        If it is no database of this version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        try:
            # A change that is told to a client is in the file, whatever ends this process.
            self._database.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON"
            )
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._database.executescript(
                    f"BEGIN;{_TABLES}PRAGMA user_version = {_VERSION};COMMIT"
                )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ConfigError(f"{path} is no list of jobs that can be read: {error}") from error
        if version not in (0, _VERSION):
            self._database.close()
            raise ConfigError(
                f"{path} was written by another version of vramx: give another folder of data"
            )

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Make changes that come together, or not at all."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # Files

    def add_file(self, file: StoredFile) -> None:
        """Add a file."""
        with self._changing() as database:
            database.execute(
                "INSERT INTO files VALUES (:id,:name,:bytes,:kind,:width,:height,:frames,:made)",
                vars(file),
            )

    def file(self, id: str) -> StoredFile:  # noqa: A002 - what clients call it
        """Find a file.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        for row in self._rows("SELECT * FROM files WHERE id = ?", id):
            return StoredFile(**row)
        raise NotFoundError(f"there is no file {id}")

    def file_ids(self) -> set[str]:
        """Name all files."""
        return {row["id"] for row in self._rows("SELECT id FROM files")}

    def stored_bytes(self) -> int:
        """Add up the bytes of all files."""
        return int(self._rows("SELECT coalesce(sum(bytes), 0) AS all_of FROM files")[0]["all_of"])

    def remove_file(self, id: str) -> None:  # noqa: A002
        """Forget a file.

        Raises
        ------
        NotFoundError
            If there is none.
        ConflictError
            If a job that has not ended reads it.
        """
        with self._changing() as database:
            self.file(id)
            query = "SELECT jobs.id FROM uses JOIN jobs ON jobs.id = job WHERE file = ?"
            for row in database.execute(f"{query} AND state IN ('queued', 'running')", (id,)):
                raise ConflictError(f"the job {row['id']} reads the file {id}: cancel it first")
            database.execute("DELETE FROM files WHERE id = ?", (id,))

    # Jobs

    def add_job(self, id: str, request: dict[str, Any], files: set[str], most: int) -> StoredJob:  # noqa: A002
        """Add a job.

        Parameters
        ----------
        id : str
            How clients name it.
        request : dict
            What was asked for.
        files : set of str
            Uploaded files that it reads.
        most : int
            How many jobs may be open.

        Returns
        -------
        StoredJob
            The job.

        Raises
        ------
        NotFoundError
            If a file is not there any more.
        BusyError
            If as many are open.
        """
        with self._changing() as database:
            self._check_room(most)
            for file in files:
                self.file(file)
            database.execute(
                "INSERT INTO jobs (id, request, state, made) VALUES (?, ?, 'queued', ?)",
                (id, json.dumps(request), time.time()),
            )
            database.executemany("INSERT INTO uses VALUES (?, ?)", [(id, each) for each in files])
            return self.job(id)

    def _check_room(self, most: int) -> None:
        if sum(self.counts()[state] for state in OPEN) >= most:
            raise BusyError(f"{most} jobs wait or run already: try again later", retry_after=5)

    def job(self, id: str) -> StoredJob:  # noqa: A002
        """Find a job.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        for row in self._rows("SELECT * FROM jobs WHERE id = ?", id):
            return _job(row)
        raise NotFoundError(f"there is no job {id}")

    def jobs(self, before: int, most: int, state: str | None = None) -> list[StoredJob]:
        """List jobs, the latest first.

        Parameters
        ----------
        before : int
            Only jobs of lower numbers.
        most : int
            How many.
        state : str, optional
            Only jobs in this state.

        Returns
        -------
        list of StoredJob
            The jobs.
        """
        query = "SELECT * FROM jobs WHERE number < ? AND (? IS NULL OR state = ?)"
        rows = self._rows(f"{query} ORDER BY number DESC LIMIT ?", before, state, state, most)
        return [_job(row) for row in rows]

    def open_jobs(self) -> list[StoredJob]:
        """List jobs that are still to be done, the oldest first."""
        rows = self._rows("SELECT * FROM jobs WHERE state IN ('queued', 'running') ORDER BY number")
        return [_job(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Count jobs by their state."""
        rows = self._rows("SELECT state, count(*) AS jobs FROM jobs GROUP BY state")
        return {**dict.fromkeys(STATES, 0), **{row["state"]: row["jobs"] for row in rows}}

    def begin(self, id: str) -> StoredJob | None:  # noqa: A002
        """Take a queued job to run it; None if it was cancelled meanwhile."""
        changed = "state = 'running', begun = ?, progress = NULL"
        return self._change(id, changed, time.time(), where="state = 'queued' AND NOT stopping")

    def report_progress(self, id: str, progress: dict[str, Any]) -> None:  # noqa: A002
        """Note how far a running job is."""
        self._change(id, "progress = ?", json.dumps(progress), where="state = 'running'")

    def end(
        self,
        id: str,  # noqa: A002
        state: str,
        *,
        report: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        """Note what became of an open job."""
        values = [None if each is None else json.dumps(each) for each in (report, error)]
        self._change(
            id,
            "state = ?, report = ?, error = ?, ended = ?",
            *(state, *values, time.time()),
            where="state IN ('queued', 'running')",
        )

    def put_back(self, id: str) -> None:  # noqa: A002
        """Have a running job run again."""
        self._change(id, "state = 'queued'", where="state = 'running'")

    def ask_to_stop(self, id: str) -> StoredJob:  # noqa: A002
        """Note that an open job was cancelled.

        Raises
        ------
        NotFoundError
            If there is no such job.
        ConflictError
            If it has ended.
        """
        job = self._change(id, "stopping = 1", where="state IN ('queued', 'running')")
        if job is None:
            raise ConflictError(f"the job {id} is {self.job(id).state}: there is nothing to stop")
        return job

    def resume(self, id: str, most: int) -> StoredJob:  # noqa: A002
        """Have a job that was cancelled or failed run again.

        Raises
        ------
        NotFoundError
            If there is no such job, or a file of its is not there any more.
        ConflictError
            If it is neither cancelled nor failed.
        BusyError
            If `most` are open.
        """
        with self._changing():
            state = self.job(id).state
            if state not in ("failed", "cancelled"):
                raise ConflictError(
                    f"the job {id} is {state}: only what is cancelled or failed is resumed"
                )
            self._check_room(most)
            for row in self._rows("SELECT file FROM uses WHERE job = ?", id):
                self.file(row["file"])
            again = "state = 'queued', stopping = 0, progress = NULL, error = NULL, ended = NULL"
            job = self._change(id, again, where="true")
            assert job is not None
            return job

    def forget(self, id: str) -> None:  # noqa: A002
        """Remove a job that has ended.

        Raises
        ------
        NotFoundError
            If there is none.
        ConflictError
            If it has not ended.
        """
        with self._changing() as database:
            if (state := self.job(id).state) in OPEN:
                raise ConflictError(f"the job {id} is {state}: cancel it first")
            database.execute("DELETE FROM jobs WHERE id = ?", (id,))

    def _change(self, id: str, changed: str, *values: Any, where: str) -> StoredJob | None:  # noqa: A002
        """Change a job where that holds, and return it; else None."""
        rows = self._rows(
            f"UPDATE jobs SET {changed}, revision = revision + 1 WHERE id = ? AND ({where}) "
            "RETURNING *",
            *(*values, id),
        )
        return _job(rows[0]) if rows else None


def _job(row: sqlite3.Row) -> StoredJob:
    content = dict(row)
    for name in ("request", "progress", "report", "error"):
        if content[name] is not None:
            content[name] = json.loads(content[name])
    return StoredJob(**{**content, "stopping": bool(content["stopping"])})
