"""Files and folders through an enlarger: pictures and videos, told apart by what is in them."""

from __future__ import annotations

import time
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
        How many there are; of a picture one.
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
    from vramx.pipelines.pictures import is_picture_file
    from vramx.pipelines.video import VideoSource

    check_paths(source, target, overwrite=overwrite)
    if is_picture_file(source):
        return _enlarge_picture(enlarger, source, target, overwrite=overwrite, progress=progress)
    begun = time.perf_counter()
    frames = enlarger.enlarge_video(
        source, target, overwrite=overwrite, progress=progress, **(video or {})
    )
    made = VideoSource(target)
    size = (made.width, made.height)
    return Enlarged(source, target, "video", frames, size, time.perf_counter() - begun)


def _enlarge_picture(
    enlarger: SuperResolution, source: Path, target: Path, *, overwrite: bool, progress: bool
) -> Enlarged:
    from vramx.pipelines.pictures import upright_size

    begun = time.perf_counter()
    width, height = enlarger.target_size(*upright_size(source))
    way = enlarger.enlarge_picture(source, target, overwrite=overwrite, progress=progress)
    seconds = time.perf_counter() - begun
    return Enlarged(source, target, "picture", 1, (width, height), seconds, way)


def enlarge_folder(
    enlarger: SuperResolution,
    source: Path,
    target: Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> FolderResult[Enlarged]:
    """Enlarge the pictures of a folder into another folder; see `change_folder`."""

    def enlarge(picture: Path, place: Path) -> Enlarged:
        return _enlarge_picture(enlarger, picture, place, overwrite=overwrite, progress=False)

    return change_folder(enlarge, source, target, overwrite=overwrite, progress=progress)


def change_folder(
    change: Callable[[Path, Path], T],
    source: Path,
    target: Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> FolderResult[T]:
    """Make pictures of those of a folder, by the order of their names, in another folder.

    Files that are neither pictures nor named like ones, and folders inside, are passed by. One
    picture that cannot be made does not keep the others from it.

    Parameters
    ----------
    change : callable
        Takes what to read and what to write.
    source, target : Path
        The folders; the target is made if need be. Names stay the same.
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

    if target.exists() and (not target.is_dir() or target.samefile(source)):
        raise MediaError(f"{target} must be another folder than {source}, or not exist yet")
    result: FolderResult[T] = FolderResult()
    pictures = []
    for path in _inside(source):
        if (why := _why_no_picture(path)) is None:
            pictures.append(path)
        else:
            result.passed_by.append((path, why))
    if not pictures:
        raise MediaError(f"{source} holds no pictures")
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"{target} cannot be made: {error}") from error
    for picture in tqdm(pictures, unit="picture", desc=source.name, disable=not progress):
        place = target / picture.name
        if place.exists() and not overwrite:
            result.skipped.append(place)
            continue
        try:
            made = change(picture, place)
        except Error as error:
            result.failed.append((picture, str(error)))
        except Exception as error:  # whatever one picture brings, the others are made
            result.failed.append((picture, f"{type(error).__name__}: {error}"))
        else:
            result.made.append(made)
    return result


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
