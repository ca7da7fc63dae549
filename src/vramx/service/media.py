"""What a file is, by the project's readers; what is too large is refused before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vramx.errors import Error
from vramx.service.refusals import TooLargeError, UnsupportedError


@dataclass(frozen=True)
class Media:
    """A picture or a video.

    Attributes
    ----------
    kind : str
        ``"picture"`` or ``"video"``.
    width, height : int
        As it is shown, in pixels.
    frames : int or None
        About how many, where a video says.
    """

    kind: str
    width: int
    height: int
    frames: int | None


def identify(path: Path, name: str, most: int) -> Media:
    """Tell what a file is.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        How messages call it.
    most : int
        The most pixels.

    Returns
    -------
    Media
        What it is.

    Raises
    ------
    UnsupportedError
        If it is neither a picture nor a video that can be read.
    TooLargeError
        If it has more pixels.
    """
    from vramx.pipelines.pictures import is_picture_file

    try:
        return _picture(path, name, most) if is_picture_file(path) else _video(path, name, most)
    except (TooLargeError, UnsupportedError):
        raise
    except Error as error:
        if "DecompressionBomb" in type(error.__cause__).__name__:
            raise TooLargeError(f"{name} has more pixels than are read") from error
        raise UnsupportedError(without_paths(str(error), {str(path): name})) from error


def _picture(path: Path, name: str, most: int) -> Media:
    from vramx.pipelines.pictures import count_frames, upright_size

    width, height = upright_size(path)
    _check(width, height, name, most)
    return Media("picture", width, height, count_frames(path))


def _video(path: Path, name: str, most: int) -> Media:
    from vramx.pipelines.video.opening import open_video
    from vramx.pipelines.video.source import VideoSource

    with open_video(path) as container:  # what its head says, before a frame is decoded
        for stream in container.streams.video:
            _check(stream.width, stream.height, name, most)
    source = VideoSource(path)
    height, width = source.upright_size
    return Media("video", width, height, source.frame_count)


def _check(width: int, height: int, name: str, most: int) -> None:
    if width * height > most:
        raise TooLargeError(f"{name} is {width}x{height} pixels: at most {most} are taken, in all")


def without_paths(message: str, names: dict[str, str]) -> str:
    """Replace paths of this machine in a message for clients."""
    for path, name in names.items():
        message = message.replace(path, name)
    return message
