"""A socket that tells what this process has open: nothing is written while nobody asks."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vramx import config
from vramx.errors import ConfigError
from vramx.processes.runtime import make_folder, runtime_folder

Describe = Callable[[], dict[str, Any]]

#: Seconds that an asker may take to read.
_PATIENCE = 1.0


def socket_folder() -> Path:
    """Return the folder in which each process that publishes has a socket, named by its number."""
    return runtime_folder() / "sessions"


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Give a socket's address by its folder's descriptor: paths may be longer than addresses."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Publisher:
    """A socket that answers each connection, from a thread of its own.

    Parameters
    ----------
    describe : callable
        What it answers with: plain data.

    Attributes
    ----------
    path : pathlib.Path
        Where it listens.

    Raises
    ------
    OSError
        If the socket cannot be made.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        folder = socket_folder()
        make_folder(folder)
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Whoever sees it must find it listening, or take it for one of the dead.
            unready = self.path.with_suffix(".new")
            with address_of(unready) as address:
                self._socket.bind(address)
            self._socket.listen()
            unready.rename(self.path)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._serve, name="vramx publisher", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _serve(self) -> None:
        while True:
            try:
                asker, _ = self._socket.accept()
            except OSError:
                return
            with asker, contextlib.suppress(OSError):
                asker.settimeout(_PATIENCE)
                asker.sendall(json.dumps(self._describe()).encode())

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # so that the thread ends
        self._thread.join()
        self._socket.close()
        self.path.unlink(missing_ok=True)
        atexit.unregister(self.close)

    def leave_to_parent(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        self._socket.close()
        atexit.unregister(self.close)


class _Published:
    """The publisher of this process, once there is one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.publisher: Publisher | None = None
        self.warned = False

    def in_child(self) -> None:
        self.lock.release()
        if self.publisher is not None:
            self.publisher.leave_to_parent()
            self.publisher = None


_published = _Published()
os.register_at_fork(
    before=_published.lock.acquire,
    after_in_parent=_published.lock.release,
    after_in_child=_published.in_child,
)


def publish(describe: Describe) -> None:
    """Let `vramx monitor` see this process's sessions from now on, unless ``VRAMX_MONITOR=0``.

    Where that cannot be, a warning says so once; the sessions do not mind.

    Parameters
    ----------
    describe : callable
        Returns what is told of them, as plain data.
    """
    if not config.from_environment().monitored:
        return
    with _published.lock:
        published = _published.publisher
        try:
            if published is not None:
                if published.path.parent == socket_folder() and published.path.exists():
                    return
                published.close()
            _published.publisher = Publisher(describe)
        except (OSError, ConfigError) as error:
            if not _published.warned:
                _published.warned = True
                warnings.warn(
                    f"vramx monitor will not see this process ({error}); VRAMX_MONITOR=0 if that "
                    "is as it should be",
                    RuntimeWarning,
                    stacklevel=3,
                )
