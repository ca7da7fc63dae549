"""Hashes of whole files, so that a change anywhere in them is seen."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from vramx.errors import MediaError
from vramx.processes.runtime import close, open_file

_CHUNK = 2**20


def digest_of_own(path: Path) -> str:
    """Hash a file that this library wrote.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        Its SHA-256.

    Raises
    ------
    OSError
        If it cannot be read, or is a link or no plain file.
    """
    descriptor = open_file(path, os.O_RDONLY)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            return _digest(file, threading.Event())
    finally:
        close(descriptor)


def _digest(file: BinaryIO, left: threading.Event) -> str:
    hashed = hashlib.sha256()
    while (chunk := file.read(_CHUNK)) and not left.is_set():
        hashed.update(chunk)
    return hashed.hexdigest()


class SourceDigest:
    """The hash of a job's source, found on a thread beside the work.

    Parameters
    ----------
    path : Path
        The file, read from the start of the scope on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = threading.Event()
        self._pool = ThreadPoolExecutor(1, "vramx source's hash")
        self._state = self._look()

    def __enter__(self) -> SourceDigest:
        self._found = self._pool.submit(self._read)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._pool.shutdown()

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise MediaError(f"{self._path} cannot be read: {error}") from error
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> str:
        with self._path.open("rb") as file:
            return _digest(file, self._left)

    def result(self) -> str:
        """Wait for the hash.

        Returns
        -------
        str
            The SHA-256 of the whole file.

        Raises
        ------
        MediaError
            If the file cannot be read.
        """
        try:
            return self._found.result()
        except OSError as error:
            raise MediaError(f"{self._path} cannot be read: {error}") from error

    def is_changed(self) -> bool:
        """Tell whether the file was written or put in its place since the scope began."""
        return self._look() != self._state
