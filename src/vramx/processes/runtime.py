"""The folder in which the processes of a machine find each other, and files that tell who lives."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from pathlib import Path

from vramx import config
from vramx.errors import ConfigError

# A forked child shares its parent's locks and sockets, and would keep them when the parent ends.
_inherited: set[int] = set()
_opening = threading.Lock()

#: Seconds between tries to lock a file: at first, and at most.
_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02


def runtime_folder() -> Path:
    """Return the folder, made if need be.

    It is ``VRAMX_RUNTIME_DIR``, or one in ``/tmp`` that only the user can enter: not one that
    depends on the login, for services and shells of a user must find the same.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ConfigError
        If it cannot be made, or others could have put something there.
    """
    given = config.from_environment().runtime_dir
    folder = Path(given or f"/tmp/vramx-{os.getuid()}")
    try:
        folder.mkdir(mode=0o777 if given else 0o700, parents=bool(given), exist_ok=True)
        found = folder.lstat() if given is None else folder.stat()
    except OSError as error:
        raise ConfigError(
            f"the folder {folder}, in which processes find each other, cannot be had ({error}): "
            "set VRAMX_RUNTIME_DIR to one that this user may write"
        ) from error
    safe = given or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
    if not stat.S_ISDIR(found.st_mode) or not safe:
        raise ConfigError(
            f"{folder}, in which processes find each other, is not a folder that this user alone "
            "can enter: remove it, or set VRAMX_RUNTIME_DIR to another"
        )
    return folder


def forget_in_children(descriptor: int) -> int:
    """Have forked children close their copy of a descriptor.

    Parameters
    ----------
    descriptor : int
        What `close` will close.

    Returns
    -------
    int
        The same.
    """
    _inherited.add(descriptor)
    return descriptor


def close(descriptor: int) -> None:
    """Close a descriptor that `forget_in_children` or `open_file` was called for."""
    _inherited.discard(descriptor)
    os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each open to those to whom the one above it is.

    Parameters
    ----------
    path : pathlib.Path
        The folder; nothing happens if it is there.
    """
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(stat.S_IMODE(path.parent.stat().st_mode))


def open_file(path: Path, flags: int) -> int:
    """Open a file so that no forked child keeps it open.

    Parameters
    ----------
    path : pathlib.Path
        The file; others may have put something else there.
    flags : int
        As of `os.open`.

    Returns
    -------
    int
        Its descriptor, for `close`.

    Raises
    ------
    OSError
        If it is a link, or no file but a folder, a pipe or a device; a pipe is not waited for.
    """
    with _opening:  # no fork between the two
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        forget_in_children(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        close(descriptor)
        raise OSError(f"{path} is no plain file")
    return descriptor


def lock_file(path: Path, patience: float) -> int:
    """Open a file and wait until nobody else has it locked.

    The lock is the kernel's, so that a process that is killed leaves none behind.

    Parameters
    ----------
    path : pathlib.Path
        The file, made if need be.
    patience : float
        Seconds to wait.

    Returns
    -------
    int
        Its descriptor, for `unlock_file`.

    Raises
    ------
    TimeoutError
        If it is locked all the time, as by a process that was stopped.
    OSError
        If it is no plain file.
    """
    deadline = time.monotonic() + patience
    pause = _PAUSE
    while True:
        try:  # to write, since file systems over a network lock nothing else
            descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
        except PermissionError:
            if not path.exists():
                raise
            # Another user's.
            descriptor = open_file(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                close(descriptor)
                raise TimeoutError(
                    f"another process has held {path} locked for {patience:g} s"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        close(descriptor)  # or someone tidied the folder meanwhile


def unlock_file(descriptor: int) -> None:
    """End what `lock_file` began, also where a forked child has a copy of the descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is still the one at a path."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _in_child() -> None:
    _opening.release()
    for descriptor in _inherited:
        os.close(descriptor)
    _inherited.clear()


os.register_at_fork(
    before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_in_child
)
