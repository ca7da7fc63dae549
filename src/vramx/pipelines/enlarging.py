"""Files and folders through an enlarger: pictures and videos, told apart by what is in them."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vramx.errors import ConfigError, Error, MediaError

if TYPE_CHECKING:
    from vramx.pipelines.enlarger import SuperResolution
    from vramx.pipelines.upscaling.ways import Way

T = TypeVar("T")


@dataclass(frozen=True)
class Enlarged:
    """A file that was made.

    Attributes
    ----------
    source, target : Path
        What was read, and what was written.
    kind : str
        ``"picture"`` or ``"video"``.
    frames : int
        How many there are; of a picture one, unless it moves or has pages.
    size : (int, int)
        The target's width and height in pixels.
    seconds : float
        How long it took, decoding and encoding included.
    way : InTiles or InBands, optional
        How a picture went through the network.
    """

    source: Path
    target: Path
    kind: str
    frames: int
    size: tuple[int, int]
    seconds: float
    way: Way | None = None


@dataclass
class FolderResult(Generic[T]):
    """What became of a folder's pictures.

    Attributes
    ----------
    made : list
        What was told of those that were written.
    skipped : list of Path
        Targets that were there already.
    failed : list of (Path, str)
        Those that could not be enlarged, and why.
    passed_by : list of (Path, str)
        What is in the folder beside its pictures, and why it is none.
    """

    made: list[T] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    passed_by: list[tuple[Path, str]] = field(default_factory=list)


def require_media_libraries() -> None:
    """Raise `ConfigError` unless the packages that read and write files are there."""
    try:
        import av  # noqa: F401
        import PIL  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"pictures and videos in files need {error.name}: pip install 'vramx[video]'"
        ) from error


def enlarge_file(
    enlarger: SuperResolution,
    source: Path,
    target: Path,
    *,
    quality: int | None = None,
    format: str | None = None,  # noqa: A002 - the command's word for it
    overwrite: bool = False,
    progress: bool = False,
    video: Mapping[str, Any] | None = None,
) -> Enlarged:
    """Enlarge a picture or a video.

    Parameters
    ----------
    enlarger : SuperResolution
        Inside its scope.
    source, target : Path
        What to read and to write. What Pillow knows is a picture, all else a video.
    quality, format : optional
        Of a picture, as `SuperResolution.enlarge_picture` has them.
    overwrite : bool
        Whether the target may exist.
    progress : bool
        Whether to show a bar on standard error.
    video : mapping, optional
        Further arguments of `SuperResolution.enlarge_video`.

    Returns
    -------
    Enlarged
        What was done.

    Raises
    ------
    MediaError
        If a file cannot be read or written.
    """
    from vramx.pipelines.files import check_paths
    from vramx.pipelines.pictures import is_named_as_picture, is_picture_file

    check_paths(source, target, overwrite=overwrite)
    if is_picture_file(source):
        return _enlarge_picture(
            enlarger,
            source,
            target,
            quality=quality,
            format=format,
            overwrite=overwrite,
            progress=progress,
        )
    if quality is not None or format is not None:
        raise ConfigError(f"{source} is no picture, and a quality and a format are for pictures")
    if is_named_as_picture(target):
        raise MediaError(
            f"{target} is named as a picture, but {source} cannot be read as one; of a video, name "
            "a video, such as .mp4"
        )
    begun = time.perf_counter()
    made = enlarger.change_video(
        source, target, overwrite=overwrite, progress=progress, **(video or {})
    )
    seconds = time.perf_counter() - begun
    return Enlarged(source, target, "video", made.frames, made.size, seconds)


def preview_file(
    enlarger: SuperResolution,
    source: Path,
    target: Path,
    *,
    start: str | None,
    deinterlace: str,
    overwrite: bool,
) -> Enlarged:
    """Enlarge one frame of a video to a picture; see `SuperResolution.preview_video`."""
    from vramx.pipelines.pictures import upright_size

    begun = time.perf_counter()
    way = enlarger.preview_video(
        source, target, start=start, deinterlace=deinterlace, overwrite=overwrite
    )
    seconds = time.perf_counter() - begun
    return Enlarged(source, target, "picture", 1, upright_size(target), seconds, way)


def _enlarge_picture(
    enlarger: SuperResolution, source: Path, target: Path, **options: Any
) -> Enlarged:
    from vramx.pipelines.pictures import count_frames, upright_size

    begun = time.perf_counter()
    size = enlarger.target_size(*upright_size(source))
    frames = count_frames(source)
    way = enlarger.enlarge_picture(source, target, **options)
    seconds = time.perf_counter() - begun
    return Enlarged(source, target, "picture", frames, size, seconds, way)


def enlarge_folder(
    enlarger: SuperResolution,
    source: Path,
    target: Path,
    *,
    quality: int | None = None,
    format: str | None = None,  # noqa: A002 - the command's word for it
    overwrite: bool = False,
    progress: bool = False,
) -> FolderResult[Enlarged]:
    """Enlarge the pictures of a folder into another folder; see `change_folder`."""

    def enlarge(picture: Path, place: Path, quality: int | None) -> Enlarged:
        return _enlarge_picture(enlarger, picture, place, quality=quality, overwrite=overwrite)

    return change_folder(
        enlarge,
        source,
        target,
        quality=quality,
        format=format,
        overwrite=overwrite,
        progress=progress,
    )


def change_folder(
    change: Callable[[Path, Path, int | None], T],
    source: Path,
    target: Path,
    *,
    quality: int | None = None,
    format: str | None = None,  # noqa: A002 - the command's word for it
    overwrite: bool = False,
    progress: bool = False,
) -> FolderResult[T]:
    """Make pictures of those of a folder, by the order of their names, in another folder.

    Files that are neither pictures nor named like ones, and folders inside, are passed by. One
    picture that cannot be made does not keep the others from it. Several processes may do so
    together: each picture is made by one of them, and each returns when all are there.

    Parameters
    ----------
    change : callable
        Takes what to read, what to write and the quality, where the format has one.
    source, target : Path
        The folders; the target is made if need be. Names stay the same, unless a format is asked
        for.
    quality : int, optional
        As `SuperResolution.enlarge_picture` has it; formats that have none go without.
    format : str, optional
        What pictures become, by a suffix of it, which their names get.
    overwrite : bool
        Whether to make anew what is in the target already, which is skipped otherwise: so the same
        call goes on after a stop.
    progress : bool
        Whether to show a bar on standard error.

    Returns
    -------
    FolderResult
        What was done.

    Raises
    ------
    MediaError
        If there are no pictures, or the target is the source or cannot be made.
    """
    from tqdm import tqdm

    from vramx.pipelines.files import TakenError, claimed
    from vramx.pipelines.pictures.formats import check_quality, format_named, has_quality

    if target.exists() and (not target.is_dir() or target.samefile(source)):
        raise MediaError(f"{target} must be another folder than {source}, or not exist yet")
    check_quality(quality, None if format is None else format_named(format))
    result: FolderResult[T] = FolderResult()
    pictures = []
    for path in _inside(source):
        if (why := _why_no_picture(path)) is None:
            pictures.append(path)
        else:
            result.passed_by.append((path, why))
    if not pictures:
        raise MediaError(f"{source} holds no pictures")
    places = _places(pictures, target, format)
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"{target} cannot be made: {error}") from error
    later: list[tuple[Path, Path]] = []

    def make(picture: Path, place: Path) -> None:
        """Make one picture, or put it off where another process makes it."""
        try:
            made = change(picture, place, quality if has_quality(place) else None)
        except TakenError:
            later.append((picture, place))
        except Exception as error:  # whatever one picture brings, the others are made
            if place.is_file() and not overwrite:
                result.skipped.append(place)
            else:
                kind = "" if isinstance(error, Error) else f"{type(error).__name__}: "
                result.failed.append((picture, f"{kind}{error}"))
        else:
            result.made.append(made)

    for picture, place in tqdm(places, unit="picture", desc=source.name, disable=not progress):
        make(picture, place)
    while later:
        picture, place = later.pop()
        with contextlib.suppress(MediaError), claimed(place, math.inf):
            pass  # whoever makes it has done so, or was killed
        make(picture, place)
    return result


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
