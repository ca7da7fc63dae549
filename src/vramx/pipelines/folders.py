"""A folder's pictures into another folder, one by one."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from vramx.errors import Error, MediaError, StoppedError
from vramx.pipelines.options import PictureOptions
from vramx.progress import Meter, OnProgress
from vramx.stopping import Stop

T = TypeVar("T")

#: Seconds between two looks at whether to stop, while another process makes a picture.
_LOOK = 0.5


@dataclass
class FolderResult(Generic[T]):
    """What happened to a folder's pictures.

    Attributes
    ----------
    made : list
        The results of those that were written.
    skipped : list of Path
        Targets that were there already.
    failed : list of (Path, str)
        Those that could not be enlarged, and why.
    passed_by : list of (Path, str)
        What else is in the folder, and why it was skipped.
    """

    made: list[T] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    passed_by: list[tuple[Path, str]] = field(default_factory=list)


def change_folder(
    change: Callable[[Path, Path, PictureOptions], T],
    source: Path,
    target: Path,
    options: PictureOptions = PictureOptions(),
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> FolderResult[T]:
    """Make a picture in another folder from each picture of a folder, in the order of their names.

    Files that are neither pictures nor named like ones, and folders inside, are skipped. A picture
    that cannot be made does not stop the others. Several processes may work on a folder together:
    each picture is made by one of them, and each returns when all are there.

    Parameters
    ----------
    change : callable
        Takes what to read, what to write and how: with a quality where the format has one.
    source, target : Path
        The folders; the target is made if need be. Names stay the same, unless a format is asked
        for.
    options : PictureOptions
        How pictures are written. If it gives a format, their names get its suffix.
    overwrite : bool
        Whether to make again what is in the target already; otherwise that is skipped, so that the
        same call resumes after a stop.
    on_progress : callable, optional
        Called with a `vramx.Progress`.
    stop : Stop, optional
        Ends the work between two pictures.

    Returns
    -------
    FolderResult
        What was done.

    Raises
    ------
    MediaError
        If there are no pictures, or the target is the source or cannot be made.
    StoppedError
        If it was asked to stop. What was made stays.
    """
    from vramx.pipelines.files import TakenError, claimed
    from vramx.pipelines.pictures.formats import check_quality, format_named, has_quality

    if target.exists() and (not target.is_dir() or target.samefile(source)):
        raise MediaError(f"{target} must be another folder than {source}, or not exist yet")
    check_quality(options.quality, None if options.format is None else format_named(options.format))
    result: FolderResult[T] = FolderResult()
    pictures = []
    for path in _inside(source):
        if (why := _why_no_picture(path)) is None:
            pictures.append(path)
        else:
            result.passed_by.append((path, why))
    if not pictures:
        raise MediaError(f"{source} holds no pictures")
    places = _places(pictures, target, options.format)
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"{target} cannot be made: {error}") from error
    later: list[tuple[Path, Path]] = []
    meter = Meter(on_progress, source.name, "picture", len(places))

    def make(picture: Path, place: Path) -> None:
        """Make one picture, or put it off where another process makes it."""
        try:
            how = PictureOptions(quality=options.quality if has_quality(place) else None)
            made = change(picture, place, how)
        except TakenError:
            later.append((picture, place))
            return
        except Exception as error:  # whatever one picture brings, the others are made
            if place.is_file() and not overwrite:
                result.skipped.append(place)
            else:
                kind = "" if isinstance(error, Error) else f"{type(error).__name__}: "
                result.failed.append((picture, f"{kind}{error}"))
        else:
            result.made.append(made)
        meter.add(1)

    def check_stop() -> None:
        if stop is not None and stop.stopped:
            raise _stopped(source, target, len(result.made) + len(result.skipped), len(places))

    for picture, place in places:
        check_stop()
        make(picture, place)
    while later:
        check_stop()
        picture, place = later.pop()
        with contextlib.suppress(MediaError), claimed(place, _LOOK):
            pass  # whoever makes it has done so, or was killed
        make(picture, place)
    return result


def _stopped(source: Path, target: Path, done: int, total: int) -> StoppedError:
    error = StoppedError(
        f"{source} was stopped: {done} of its {total} pictures are in {target}, where the same "
        "call makes the others"
    )
    error.done, error.kept = done, target
    return error


def _places(
    pictures: list[Path],
    target: Path,
    format: str | None,  # noqa: A002
) -> list[tuple[Path, Path]]:
    """Say what becomes of each picture; two of a name but for the suffix keep theirs within it."""
    if format is None:
        return [(each, target / each.name) for each in pictures]
    from vramx.pipelines.pictures.formats import suffix_of

    suffix = suffix_of(format)
    stems = Counter(each.stem for each in pictures)
    return [
        (each, target / f"{each.stem if stems[each.stem] == 1 else each.name}{suffix}")
        for each in pictures
    ]


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise MediaError(f"{folder} cannot be read: {error}") from error


def _why_no_picture(path: Path) -> str | None:
    from vramx.pipelines.pictures import is_named_as_picture, is_picture_file

    if path.is_dir():
        return "is a folder"
    if not path.is_file():
        return "is no file"
    if is_picture_file(path) or is_named_as_picture(path):
        return None
    return "is no picture that Pillow knows"
