"""The files that a job reads and writes, checked before it begins."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vramx.errors import MediaError
from vramx.processes.runtime import lock_file, unlock_file
from vramx.units import format_size
from vramx.writing import beside

#: Tells the width and height of what a picture or a frame becomes, from its own.
TargetSize = Callable[[int, int], tuple[int, int]]

#: Suffixes of the videos that are written, and FFmpeg's names of their formats.
VIDEO_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}

#: Formats that pack nothing unless asked to, those that lose nothing, and all others: the least
#: bytes that a sample of a photograph takes, by Pillow's names.
_PLAIN = ("BMP", "DDS", "DIB", "IM", "PPM", "SGI", "TGA", "TIFF")
_LOSSLESS = ("GIF", "PNG")
_LEAST_PLAIN, _LEAST_LOSSLESS, _LEAST_OTHERS = 0.95, 0.1, 0.005


def same_size(width: int, height: int) -> tuple[int, int]:
    """Tell that nothing changes."""
    return width, height


def is_video(target: Path) -> bool:
    """Return whether a file's suffix names a video that is written, rather than a picture."""
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
        If the source does not exist, or the target is the source, exists, is a link, a device or a
        folder, or is in no folder that can be written.
    """
    try:
        _check_paths(source, target, overwrite=overwrite)
    except OSError as error:  # such as a name that is too long
        raise MediaError(f"{target} cannot be written from {source}: {error}") from error


def _check_paths(source: Path, target: Path, *, overwrite: bool) -> None:
    if not source.is_file():
        raise MediaError(f"{source} is not a file")
    _check_folder(target)
    if target.is_symlink():
        raise MediaError(
            f"{target} is a link, which would be replaced and not followed: name the file that it "
            "leads to, or remove it"
        )
    if target.exists():
        if target.samefile(source):
            raise MediaError(f"{target} is what is read: name another file")
        if not target.is_file():
            kind = "a folder" if target.is_dir() else "a device, a pipe or a socket"
            raise MediaError(f"{target} is {kind}: name a file")
        if not overwrite:
            raise MediaError(f"{target} exists: name another file, or give overwrite=True")


def _check_folder(target: Path) -> None:
    folder = target.parent
    if not folder.is_dir():
        raise MediaError(f"{target} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(
            f"{target} cannot be written: {folder} is read-only for this user. Name a file in "
            "another folder, or change its permissions"
        )


def check_are_there(*paths: Path) -> None:
    """Refuse work for several machines on one that lacks what they share.

    Parameters
    ----------
    paths : Path
        What is read, and where is written.

    Raises
    ------
    MediaError
        If one is not there.
    """
    for path in paths:
        if not path.exists():
            raise MediaError(f"{path} is not there: all machines need it at that path")


def check_room(target: Path, least: int) -> None:
    """Refuse a target for which the disk has no room.

    Parameters
    ----------
    target : Path
        What will be written.
    least : int
        The least bytes that it takes.

    Raises
    ------
    MediaError
        If fewer are free.
    """
    free = shutil.disk_usage(target.parent).free
    if free < least:
        raise MediaError(
            f"{target} takes at least {format_size(least)}, and {format_size(free)} are free on "
            f"the disk of {target.parent}: make room, or name a file on another disk"
        )


def least_picture_bytes(samples: int, name: str) -> int:
    """Return what a picture's file takes at least.

    Parameters
    ----------
    samples : int
        Pixels times channels.
    name : str
        Pillow's name of the format.

    Returns
    -------
    int
        Bytes.
    """
    if name in _PLAIN:
        return int(_LEAST_PLAIN * samples)
    return int((_LEAST_LOSSLESS if name in _LOSSLESS else _LEAST_OTHERS) * samples)


class TakenError(MediaError):
    """Another process makes a target."""


@contextlib.contextmanager
def claimed(target: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes from making the same target meanwhile.

    The claim is a lock of the kernel's, which ends with the process however it ends.

    Parameters
    ----------
    target : Path
        What will be written.
    patience : float
        Seconds to wait for another that makes it.

    Raises
    ------
    TakenError
        If another makes it all that time.
    MediaError
        If the target's folder is not there, or cannot be written.
    """
    _check_folder(target)
    path = _claim_of(target)
    try:
        lock = lock_file(path, patience)
    except TimeoutError:
        raise TakenError(f"{target} is in use by another process, which makes it") from None
    except OSError as error:
        raise MediaError(f"{target} cannot be written: {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        unlock_file(lock)


def wait_for_claim(target: Path, patience: float) -> None:
    """Wait for another process that makes a target, and end the claim of one that was killed.

    Parameters
    ----------
    target : Path
        What it writes.
    patience : float
        Seconds to wait.
    """
    if _claim_of(target).exists():
        with contextlib.suppress(MediaError), claimed(target, patience):
            pass


def _claim_of(target: Path) -> Path:
    return beside(target, ".lock")
