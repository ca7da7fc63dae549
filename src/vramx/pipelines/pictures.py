"""Pictures from files and to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from vramx.errors import MediaError
from vramx.pipelines.files import written_whole

_BITS_PER_SAMPLE = 258  # a TIFF tag


def writable_format(path: Path) -> str:
    """Tell which format a file's suffix names.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        Pillow's name of the format.

    Raises
    ------
    MediaError
        If it names none that can be written.
    """
    name = Image.registered_extensions().get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise MediaError(f"{path}: {path.suffix!r} is no picture format; try .png")
    return name


def is_picture_file(path: Path) -> bool:
    """Tell by its first bytes whether a file is a picture that Pillow knows."""
    try:
        with Image.open(path):
            return True
    except Image.DecompressionBombError:
        return True
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False


def picture_size(path: Path) -> tuple[int, int]:
    """Tell the width and height of a picture in a file."""
    with Image.open(path) as image:
        size: tuple[int, int] = image.size
        return size


def load_picture(path: Path) -> Image.Image:
    """Read a picture, pixels and all.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    PIL.Image.Image
        As it is in the file.

    Raises
    ------
    MediaError
        If it is no picture, is truncated, has several frames, or has more than 8 bits a colour,
        which Pillow would cut off.
    """
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise MediaError(
                    f"{path} has {image.n_frames} frames; only single ones can be read"
                )
            if _cuts_bits(image):
                raise MediaError(
                    f"{path} has 16 bits for each of several channels, which Pillow reads as 8: "
                    "read it as an array of uint16 with another library"
                )
            image.load()
            picture: Image.Image = image.copy()
            return picture
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {error}") from error
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error}") from error


def _cuts_bits(image: Image.Image) -> bool:
    if len(image.getbands()) == 1:
        return False
    if image.format == "TIFF":
        bits: Any = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        return any(each > 8 for each in bits)
    return any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture with its ICC profile and EXIF data, whole or not at all.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture.
    path : Path
        The file; its suffix chooses the format.

    Raises
    ------
    MediaError
        If the format does not take such a picture, or the file cannot be written.
    """
    name = writable_format(path)
    kept = {key: image.info[key] for key in ("icc_profile", "exif") if image.info.get(key)}
    try:
        with written_whole(path) as file:
            image.save(file, name, **kept)
    except (OSError, ValueError) as error:
        raise MediaError(
            f"{path} cannot be written as {name} with mode {image.mode}: {error}"
        ) from error
