"""Who has claimed how much of a card: one file a member, which its death makes void."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramx.errors import ConfigError, Error
from vramx.processes.runtime import (
    close,
    is_at,
    lock_file,
    make_folder,
    open_file,
    runtime_folder,
    unlock_file,
)

#: What no number that is meant goes beyond, and what no member writes more than.
_MOST, _LONGEST = 2**62, 2**20
#: Seconds to wait for another process that reads or writes claims, which takes it microseconds.
_PATIENCE = 4.0


def folder_of_card(card: str) -> Path:
    """Return the folder of the claims on a card, by the name under which processes share it.

    Raises
    ------
    ConfigError
        If it is not a name.
    """
    if "/" in card or card in (".", ".."):
        raise ConfigError(f"card {card!r} is not a name: it may not be a path")
    return runtime_folder() / "cards" / card


@dataclass(frozen=True)
class Claim:
    """Bytes of a card that a job has, or waits for."""

    nbytes: int
    name: str


@dataclass(frozen=True)
class Member:
    """What one queue has claimed.

    Attributes
    ----------
    pid : int
        Its process.
    running : tuple of Claim
        What its jobs have.
    waiting : Claim or None
        What its next job waits for.
    ticket : int
        Its place in the line, if it waits: less is earlier, and below zero ahead of the line.
    kept : int
        Bytes of what its jobs have that they keep until it has what it waits for.
    """

    pid: int
    running: tuple[Claim, ...] = ()
    waiting: Claim | None = None
    ticket: int = 0
    kept: int = 0

    @property
    def held(self) -> int:
        """Bytes that its jobs have."""
        return sum(each.nbytes for each in self.running)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "pid": self.pid,
            "running": [vars(each) for each in self.running],
            "waiting": None if self.waiting is None else vars(self.waiting),
            "ticket": self.ticket,
            "kept": self.kept,
        }


def _whole(value: object, what: str, least: int = 0) -> int:
    """Take a number that another process wrote, if it is one that could be meant."""
    if type(value) is not int or not least <= value <= _MOST:
        raise ValueError(f"its {what} is {repr(value)[:40]}")
    return value


def _claim(data: Any) -> Claim:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise ValueError("a claim has no name")
    return Claim(_whole(data.get("nbytes"), "number of bytes"), data["name"])


def _member(text: bytes) -> Member:
    """Read what another process wrote.

    Raises
    ------
    ValueError
        If it is not what a member writes; the message says in what.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("running"), list):
        raise ValueError("it is no member's")
    waiting = data.get("waiting")
    return Member(
        pid=_whole(data.get("pid"), "process", 1),
        running=tuple(map(_claim, data["running"])),
        waiting=None if waiting is None else _claim(waiting),
        ticket=_whole(data.get("ticket"), "ticket", -_MOST),
        kept=_whole(data.get("kept", 0), "number of bytes"),
    )


class Ledger:
    """A member's view of the claims on a card.

    Each member writes what it has to a file of its own, on which it holds a lock of the operating
    system. The kernel drops the lock when the process ends, however it ends: a file whose lock is
    free counts for nothing and is removed by whoever sees it. Files are read and written under one
    more lock, and put there at once, so that none is seen half written. What is no claim counts for
    nothing and is told. Not for several threads at once.

    Parameters
    ----------
    folder : pathlib.Path
        The card's folder, on a local disk.
    patience : float
        Seconds to wait for others that read or write claims.
    """

    def __init__(self, folder: Path, patience: float = _PATIENCE) -> None:
        self._folder = folder
        self._patience = patience
        self._told: set[str] = set()
        self._path = folder
        self._file = -1
        self._running: dict[int, Claim] = {}
        self._waiting: Claim | None = None
        self._ticket = 0
        self._kept = 0

    def claim(self, key: int, wanted: Claim, budget: int, *, kept: int | None = None) -> bool:
        """Claim bytes, or stand in the line for them.

        Nobody is served before those who came earlier: what a large claim waits for is not given
        to small ones behind it. What a member needs before it gives back goes ahead of the line.

        Parameters
        ----------
        key : int
            By what it will be released.
        wanted : Claim
            What is wanted. While one waits, another may be asked for in its place in the line.
        budget : int
            The most that all claims may come to.
        kept : int, optional
            Bytes that this member keeps until it has this: it goes ahead of the line then.

        Returns
        -------
        bool
            Whether it was had.

        Raises
        ------
        Error
            If the ledger cannot be read or written; then nothing is claimed.
        """
        with self._alone():
            others = self._others()
            line = [each.ticket for each in others if each.waiting is not None]
            ahead = kept is not None
            has_place = self._waiting is not None and (self._ticket < 0) == ahead
            first = ahead or not line or (has_place and self._ticket < min(line))
            held = sum(each.held for each in others) + self.held
            if first and held + wanted.nbytes <= budget:
                self._write({**self._running, key: wanted}, None, 0)
                return True
            if has_place:
                ticket = self._ticket
            else:
                ticket = min([0, *line]) - 1 if ahead else max([0, *line]) + 1
            if (wanted, ticket, kept or 0) != (self._waiting, self._ticket, self._kept):
                self._write(self._running, wanted, ticket, kept or 0)
            return False

    def waits_in_vain(self, budget: int) -> bool:
        """Return whether what this member waits for can never be had, and it is to give up first.

        So it is where members wait for what the others keep until they have what they wait for,
        and all else given back is not enough for any. The last to come gives up.

        Parameters
        ----------
        budget : int
            The most that all claims may come to.

        Returns
        -------
        bool
            Whether it is so.

        Raises
        ------
        Error
            If the ledger cannot be read.
        """
        if self._waiting is None or not self._kept:
            return False
        with self._alone():
            members = self._others()
        left = [(self._ticket, self._waiting.nbytes, self._kept)]
        left += [
            (each.ticket, each.waiting.nbytes, each.kept)
            for each in members
            if each.waiting is not None and each.kept
        ]
        while True:
            kept = sum(each for _, _, each in left)
            stuck = [each for each in left if kept + each[1] > budget]
            if len(stuck) == len(left):
                return self._ticket == min((ticket for ticket, _, _ in stuck), default=None)
            left = stuck

    @property
    def held(self) -> int:
        """Bytes that this member has claimed."""
        return sum(each.nbytes for each in self._running.values())

    @property
    def waits(self) -> bool:
        """Whether this member stands in the line."""
        return self._waiting is not None

    def leave_line(self) -> None:
        """Wait no more."""
        with self._alone():
            self._write(self._running, None, 0)

    def release(self, key: int) -> None:
        """Give a claim back.

        Parameters
        ----------
        key : int
            As `claim` was given.

        Raises
        ------
        Error
            If the ledger cannot be written; the claim stands until something can be written.
        """
        del self._running[key]
        with self._alone():
            self._write(self._running, self._waiting, self._ticket, self._kept)

    def others(self) -> list[Member]:
        """Return what the other living members have.

        Returns
        -------
        list of Member
            In no particular order.
        """
        with self._alone():
            return self._others()

    def close(self) -> None:
        """Give up all claims, and be no member. Calling it again does nothing."""
        if self._file >= 0:
            try:
                with self._alone():
                    if is_at(self._file, self._path):
                        self._path.unlink()
            except Error:
                pass  # without its lock the file counts for nothing
            finally:
                unlock_file(self._file)
                self._file = -1
        self._running, self._waiting, self._ticket, self._kept = {}, None, 0, 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            make_folder(self._folder)
            lock = lock_file(self._folder / "lock", self._patience)
            try:
                yield
            finally:
                unlock_file(lock)
        except OSError as error:
            raise Error(
                f"the claims on the card in {self._folder} cannot be read or written "
                f"({type(error).__name__}: {error}): set VRAMX_RUNTIME_DIR to a folder on a local "
                "disk that every process concerned may write"
            ) from error

    def _others(self) -> list[Member]:
        for path in self._folder.glob("*.new"):  # of a process that was killed as it wrote
            with contextlib.suppress(OSError):
                path.unlink()
        found = []
        for path in self._folder.glob("*.claims"):
            if path == self._path:
                continue
            try:
                file = open_file(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._pass_by(path, str(error))
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                try:
                    found.append(_member(os.pread(file, _LONGEST + 1, 0)))
                except (ValueError, OSError) as error:
                    self._pass_by(path, str(error))
            else:
                with contextlib.suppress(PermissionError):  # another user's: it counts for nothing
                    path.unlink()
            finally:
                close(file)
        return found

    def _pass_by(self, path: Path, why: str) -> None:
        """Warn once of what looks like a claim and is none."""
        if path.name not in self._told:
            self._told.add(path.name)
            warnings.warn(
                f"{path} counts for nothing among the claims on a card: {why}; remove it, or end "
                "the process that has it open",
                RuntimeWarning,
                stacklevel=2,
            )

    def _write(
        self, running: dict[int, Claim], waiting: Claim | None, ticket: int, kept: int = 0
    ) -> None:
        """Write all anew and put it there at once: what was there stands until then."""
        path = self._path
        if self._file < 0 or not is_at(self._file, path):
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.claims"
        member = Member(os.getpid(), tuple(running.values()), waiting, ticket, kept)
        text = json.dumps(member.as_dict()).encode()
        unready = path.with_suffix(".new")
        file = open_file(unready, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(file, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            unready.replace(path)
        except BaseException:
            close(file)
            with contextlib.suppress(OSError):
                unready.unlink()
            raise
        if self._file >= 0:
            close(self._file)
        self._file, self._path = file, path
        self._running, self._waiting, self._ticket = running, waiting, ticket
        self._kept = kept
