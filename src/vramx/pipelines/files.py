"""Files that are whole or not there: written beside their place, then put there at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vramx.errors import MediaError

#: Suffixes of the videos that are written, and FFmpeg's names of their formats.
VIDEO_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}


def is_video(target: Path) -> bool:
    """Tell whether a file's suffix names a video that is written, rather than a picture."""
    return target.suffix.lower() in VIDEO_FORMATS


def check_paths(source: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot or must not be written.

    Parameters
    ----------
    source, target : Path
        What is read and what will be written.
    overwrite : bool
        Whether the target may exist.

    Raises
    ------
    MediaError
        If the source does not exist, or the target is the source, exists, or has no folder.
    """
    if not source.is_file():
        raise MediaError(f"{source} is not a file")
    if not target.parent.is_dir():
        raise MediaError(f"{target} cannot be written: there is no folder {target.parent}")
    if target.exists() and target.samefile(source):
        raise MediaError(f"{target} is what is read: name another file")
    if target.is_dir() or (target.exists() and not overwrite):
        raise MediaError(f"{target} exists: name another file, or give overwrite=True for a file")


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place; put it there when the scope ends without an error.

    Parameters
    ----------
    target : Path
        The place.

    Yields
    ------
    file
        Open for reading and writing bytes.
    """
    part = target.with_name(target.name + ".part")
    try:
        with part.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
