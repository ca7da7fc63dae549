"""Uploaded files: streamed to disk under names of the server's own."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from anyio.to_thread import run_sync

from vramx.service.media import identify
from vramx.service.refusals import BadRequestError, BusyError, TooLargeError
from vramx.service.settings import Limits
from vramx.service.store import Store, StoredFile
from vramx.units import format_size
from vramx.writing import written_whole

#: The most characters of a name.
_LONGEST_NAME = 200


class Files:
    """Uploaded files.

    Parameters
    ----------
    folder : Path
        Where they lie, made if need be. What is in it and not in the store is removed.
    store : Store
        What is known of them.
    limits : Limits
        The most bytes and pixels.
    """

    def __init__(self, folder: Path, store: Store, limits: Limits) -> None:
        self._folder = folder
        self._store = store
        self._limits = limits
        self._lock = threading.Lock()
        folder.mkdir(exist_ok=True)
        known = store.file_ids()
        for left in folder.iterdir():
            if left.name not in known:
                left.unlink()
        self._held = store.stored_bytes()

    async def receive(self, chunks: AsyncIterator[bytes], name: str) -> StoredFile:
        """Take an upload.

        Parameters
        ----------
        chunks : async iterator of bytes
            Its content.
        name : str
            What its client calls it.

        Returns
        -------
        StoredFile
            What it is.

        Raises
        ------
        TooLargeError
            If it has more bytes or pixels than are taken.
        UnsupportedError
            If it is neither a picture nor a video.
        BusyError
            If there is no room for it.
        BadRequestError
            If it is empty.
        """
        shown = _shown(name)
        id_ = secrets.token_hex(16)
        path = self._folder / id_
        taken = 0
        try:
            with contextlib.ExitStack() as writing:
                file = await run_sync(writing.enter_context, written_whole(path))
                async for chunk in chunks:
                    self._take(len(chunk))
                    taken += len(chunk)
                    if taken > self._limits.upload_bytes:
                        raise TooLargeError(_too_large(self._limits.upload_bytes))
                    await run_sync(file.write, chunk)
                if not taken:
                    raise BadRequestError("the file is empty: send its bytes as the body")
                await run_sync(writing.close)
            look = partial(identify, path, shown, self._limits.pixels)
            media = await run_sync(look)
            stored = StoredFile(id_, shown, taken, **vars(media), made=time.time())
            await run_sync(self._store.add_file, stored)
        except BaseException:
            path.unlink(missing_ok=True)
            self._take(-taken)
            raise
        return stored

    def _take(self, count: int) -> None:
        with self._lock:
            if count > 0 and self._held + count > self._limits.stored_bytes:
                raise BusyError(
                    f"uploaded files may have {format_size(self._limits.stored_bytes)} together: "
                    "remove some, or try again later",
                    retry_after=60,
                )
            self._held += count

    def path(self, id: str) -> Path:  # noqa: A002 - what clients call it
        """Return where a file lies.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        return self._folder / self._store.file(id).id

    def remove(self, id: str) -> None:  # noqa: A002
        """Remove a file.

        Raises
        ------
        NotFoundError
            If there is none.
        ConflictError
            If a job that has not ended reads it.
        """
        file = self._store.file(id)
        self._store.remove_file(id)
        (self._folder / file.id).unlink(missing_ok=True)
        self._take(-file.bytes)


def _too_large(most: int) -> str:
    return f"files of at most {format_size(most)} are taken"


def _shown(name: str) -> str:
    """Return a name as text that names nothing here."""
    kept = "".join("_" if each in "/\\" else each for each in name if each.isprintable())
    return kept.strip(". ")[-_LONGEST_NAME:] or "file"
