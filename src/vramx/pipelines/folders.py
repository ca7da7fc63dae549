"""A folder's pictures into another folder, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from vramx.errors import Error, MediaError, StoppedError
from vramx.pipelines.files import TakenError, wait_for_claim
from vramx.pipelines.options import PictureOptions
from vramx.progress import Meter, OnProgress
from vramx.stopping import Stop

T = TypeVar("T")

#: Makes a picture: takes what to read, what to write and how, with a quality where the format has
#: one.
MakePicture = Callable[[Path, Path, PictureOptions], T]

#: Seconds between two looks at whether to stop, while another process makes a picture.
_LOOK = 0.5


class PictureChange(NamedTuple, Generic[T]):
    """What becomes of pictures.

    Attributes
    ----------
    make : callable
        What makes one, as of `change_folder`.
    identity : mapping of str to str
        What its results depend on.
    """

    make: MakePicture[T]
    identity: Mapping[str, str]


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


class Picture(NamedTuple):
    """A picture that is to be made.

    Attributes
    ----------
    source, target : Path
        What to read and to write.
    options : PictureOptions
        How it is written.
    """

    source: Path
    target: Path
    options: PictureOptions


class FolderWork(Generic[T]):
    """A folder's pictures that are to be made, for whoever makes them, and what became of them.

    Parameters
    ----------
    source, target, options, overwrite, on_progress
        As of `change_folder`, which also says what is raised.

    Attributes
    ----------
    pictures : list of Picture
        In the order of their names.
    result : FolderResult
        What was noted.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        options: PictureOptions,
        *,
        overwrite: bool,
        on_progress: OnProgress | None,
    ) -> None:
        from vramx.pipelines.pictures.formats import check_quality, format_named, has_quality

        if target.exists() and (not target.is_dir() or target.samefile(source)):
            raise MediaError(f"{target} must be another folder than {source}, or not exist yet")
        check_quality(
            options.quality, None if options.format is None else format_named(options.format)
        )
        self._source, self._target, self._overwrite = source, target, overwrite
        self.result: FolderResult[T] = FolderResult()
        pictures = []
        for path in _inside(source):
            if (why := _why_no_picture(path)) is None:
                pictures.append(path)
            else:
                self.result.passed_by.append((path, why))
        if not pictures:
            raise MediaError(f"{source} holds no pictures")
        self.pictures = [
            Picture(
                picture,
                place,
                PictureOptions(quality=options.quality if has_quality(place) else None),
            )
            for picture, place in _places(pictures, target, options.format)
        ]
        try:
            target.mkdir(exist_ok=True)
        except OSError as error:
            raise MediaError(f"{target} cannot be made: {error}") from error
        self._meter = Meter(on_progress, source.name, "picture", len(self.pictures))

    def left(self) -> Iterator[Picture]:
        """Yield the pictures that are to be made, and note those that are there already."""
        for picture in self.pictures:
            if self._is_there(picture):
                self._skip(picture)
            else:
                yield picture

    def made(self, made: T) -> None:
        """Note what was made of a picture."""
        self.result.made.append(made)
        self._meter.add(1)

    def failed(self, picture: Picture, error: Exception) -> None:
        """Note that a picture was not made: another made it meanwhile, or there is an error."""
        if self._is_there(picture):
            self._skip(picture)
            return
        kind = "" if isinstance(error, Error) else f"{type(error).__name__}: "
        self.result.failed.append((picture.source, f"{kind}{error}"))
        self._meter.add(1)

    def _is_there(self, picture: Picture) -> bool:
        return picture.target.is_file() and not self._overwrite

    def _skip(self, picture: Picture) -> None:
        wait_for_claim(picture.target, _LOOK)  # whose holder may have been killed just now
        self.result.skipped.append(picture.target)
        self._meter.add(1)

    def stopped(self) -> StoppedError:
        """Return the error for a stop."""
        done = len(self.result.made) + len(self.result.skipped)
        error = StoppedError(
            f"{self._source} was stopped: {done} of its {len(self.pictures)} pictures are in "
            f"{self._target}, where the same call makes the others"
        )
        error.done, error.kept = done, self._target
        return error


def change_folder(
    make: MakePicture[T],
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
    make : callable
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
    work: FolderWork[T] = FolderWork(
        source, target, options, overwrite=overwrite, on_progress=on_progress
    )
    later: list[Picture] = []

    def make_one(picture: Picture) -> None:
        """Make one picture, or put it off where another process makes it."""
        if stop is not None and stop.stopped:
            raise work.stopped()
        try:
            made = make(*picture)
        except TakenError:
            later.append(picture)
        except Exception as error:  # whatever one picture brings, the others are made
            work.failed(picture, error)
        else:
            work.made(made)

    for picture in work.left():
        make_one(picture)
    while later:
        picture = later.pop()
        wait_for_other(picture)
        make_one(picture)
    return work.result


def wait_for_other(picture: Picture) -> None:
    """Wait a little for another process that makes a picture."""
    wait_for_claim(picture.target, _LOOK)


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
