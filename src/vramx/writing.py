"""Files that are whole or not there: written beside their place, then put there at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from vramx.processes.runtime import close, is_at, open_file


class _Unready(io.BufferedRandom):
    """A file whose writes all go through Python, which sees where one was cut short."""

    def fileno(self) -> int:
        """Refuse: who writes to a descriptor by himself may not look how much was taken."""
        raise io.UnsupportedOperation("fileno")


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[io.BufferedRandom]:
    """Write a file beside its place; put it there when the scope ends without an error.

    Each writer has a file of its own, locked while it is written. What a process that was killed
    has left is removed by the next writer of the same target.

    Parameters
    ----------
    target : Path
        The place.

    Yields
    ------
    io.BufferedRandom
        Open for reading and writing bytes; `name` is where it lies meanwhile.

    Raises
    ------
    OSError
        If it cannot be written; then what was at the place is there still.
    """
    part, descriptor = _own_part(target)
    try:
        raw = io.FileIO(str(part), "r+", opener=lambda *_: os.dup(descriptor))
        with raw, _Unready(raw) as file:
            try:
                yield file
                file.flush()
                os.fsync(raw.fileno())
            except BaseException:
                raw.close()  # what is still to be written is given up
                raise
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        close(descriptor)
    # The file is there; a file system that cannot keep a folder's state by itself changes nothing.
    with contextlib.suppress(OSError):
        _keep(target.parent)


def beside(target: Path, kind: str) -> Path:
    """Return where a file lies that goes with a target, of a short name of its own.

    Parameters
    ----------
    target : Path
        The file that it goes with.
    kind : str
        How its name ends.

    Returns
    -------
    Path
        In the same folder, hidden.
    """
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".vramx-{digest}{kind}")


def _own_part(target: Path) -> tuple[Path, int]:
    """Make the first file beside a target that no other writer has, and lock it."""
    numbers = itertools.count()
    number = next(numbers)
    while True:
        part = beside(target, f"-{number}.part")
        try:
            descriptor = open_file(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            if not _remove_left_over(part):
                number = next(numbers)
            continue
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(descriptor, part):
                return part, descriptor
        close(descriptor)  # another took it for left over before it was locked


def _remove_left_over(part: Path) -> bool:
    """Remove a file whose writer is dead; tell whether it is gone."""
    try:
        descriptor = open_file(part, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:  # no writer's: a link, a folder, another user's file
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(descriptor, part):
            part.unlink()
    except OSError:
        return False
    finally:
        close(descriptor)
    return True


def _keep(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
