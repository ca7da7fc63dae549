"""Files and folders through an enlarger: pictures and videos, told apart by what is in them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vramx.errors import ConfigError, MediaError
from vramx.pipelines.folders import FolderResult, PictureChange, change_folder
from vramx.pipelines.options import PictureOptions, VideoOptions
from vramx.progress import OnProgress
from vramx.stopping import Stop

if TYPE_CHECKING:
    from vramx.pipelines.enlarger import SuperResolution
    from vramx.pipelines.upscaling.ways import Way


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
        How many there are; one for a picture, unless it is animated or has pages.
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
    picture: PictureOptions = PictureOptions(),
    video: VideoOptions = VideoOptions(),
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> Enlarged:
    """Enlarge a picture or a video.

    Parameters
    ----------
    enlarger : SuperResolution
        Inside its scope.
    source, target : Path
        What to read and to write. What Pillow recognises is a picture, everything else a video.
    picture, video : PictureOptions and VideoOptions
        How each is written.
    overwrite : bool
        Whether the target may exist.
    on_progress, stop
        As of `SuperResolution.enlarge_video`.

    Returns
    -------
    Enlarged
        What was done.

    Raises
    ------
    MediaError
        If a file cannot be read or written.
    ConfigError
        If it is a video, and options of pictures were given.
    StoppedError
        If a video was asked to stop.
    """
    from vramx.pipelines.files import check_paths
    from vramx.pipelines.pictures import is_named_as_picture, is_picture_file

    check_paths(source, target, overwrite=overwrite)
    if is_picture_file(source):
        return _enlarge_picture(
            enlarger, source, target, picture, overwrite=overwrite, on_progress=on_progress
        )
    if picture != PictureOptions():
        raise ConfigError(f"{source} is no picture, and a quality and a format are for pictures")
    if is_named_as_picture(target):
        raise MediaError(
            f"{target} is named as a picture, but {source} cannot be read as one; of a video, name "
            "a video, such as .mp4"
        )
    begun = time.perf_counter()
    made = enlarger.enlarge_video(
        source, target, video, overwrite=overwrite, on_progress=on_progress, stop=stop
    )
    seconds = time.perf_counter() - begun
    return Enlarged(source, target, "video", made.frames, made.size, seconds)


def preview_file(
    enlarger: SuperResolution,
    source: Path,
    target: Path,
    video: VideoOptions = VideoOptions(),
    *,
    overwrite: bool = False,
) -> Enlarged:
    """Enlarge one frame of a video to a picture; see `SuperResolution.preview_video`."""
    from vramx.pipelines.pictures import upright_size

    begun = time.perf_counter()
    way = enlarger.preview_video(source, target, video, overwrite=overwrite)
    seconds = time.perf_counter() - begun
    return Enlarged(source, target, "picture", 1, upright_size(target), seconds, way)


def _enlarge_picture(
    enlarger: SuperResolution,
    source: Path,
    target: Path,
    options: PictureOptions,
    *,
    overwrite: bool,
    on_progress: OnProgress | None = None,
) -> Enlarged:
    from vramx.pipelines.pictures import count_frames, upright_size

    begun = time.perf_counter()
    size = enlarger.target_size(*upright_size(source))
    frames = count_frames(source)
    way = enlarger.enlarge_picture(
        source, target, options, overwrite=overwrite, on_progress=on_progress
    )
    seconds = time.perf_counter() - begun
    return Enlarged(source, target, "picture", frames, size, seconds, way)


def picture_change(enlarger: SuperResolution, *, overwrite: bool) -> PictureChange[Enlarged]:
    """Return what becomes of pictures, for whoever makes them.

    Parameters
    ----------
    enlarger : SuperResolution
        Inside its scope.
    overwrite : bool
        Whether targets may exist.

    Returns
    -------
    PictureChange
        As `change_folder` takes it.
    """

    def enlarge(picture: Path, place: Path, how: PictureOptions) -> Enlarged:
        return _enlarge_picture(enlarger, picture, place, how, overwrite=overwrite)

    return PictureChange(enlarge, enlarger.identity)


def enlarge_folder(
    enlarger: SuperResolution,
    source: Path,
    target: Path,
    options: PictureOptions = PictureOptions(),
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> FolderResult[Enlarged]:
    """Enlarge the pictures of a folder into another folder; see `change_folder`."""
    return change_folder(
        picture_change(enlarger, overwrite=overwrite).make,
        source,
        target,
        options,
        overwrite=overwrite,
        on_progress=on_progress,
        stop=stop,
    )
