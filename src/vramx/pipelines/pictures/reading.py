"""Pictures from files, as they are shown."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vramx.errors import ConfigError, Error, MediaError
from vramx.pipelines.images import pil_to_array
from vramx.pipelines.pictures import deep
from vramx.pipelines.pictures.claims import check_claim, check_tiles
from vramx.pipelines.pictures.colours import as_rgb
from vramx.pipelines.pictures.formats import identified
from vramx.pipelines.pictures.metadata import beside_of, beside_of_tags, turned, without_turn
from vramx.pipelines.pictures.types import FilePicture, Pixels

_ORIENTATION = 274  # an EXIF tag, and a TIFF tag
#: Its values of pictures that lie on their side.
_LYING = (5, 6, 7, 8)
#: Formats whose further frames are no pictures of a sequence.
_FIRST_IS_SHOWN = ("HEIF", "MPO", "PSD")
#: How far beyond 0 and 1 floating point values may lie.
_SLACK = 1e-3


def upright_size(path: Path) -> tuple[int, int]:
    """Tell how wide and high a picture in a file is shown.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    (int, int)
        Width and height, turned as EXIF says.

    Raises
    ------
    MediaError
        If it cannot be read as a picture.
    """
    with opened(path) as image:
        if isinstance(image, Image.Image):
            width, height = image.size
            lies = image.getexif().get(_ORIENTATION) in _LYING
        else:
            width, height = image[256], image[257]
            lies = image.get(_ORIENTATION) in _LYING
        return (height, width) if lies else (width, height)


def count_frames(path: Path) -> int:
    """Tell of how many frames a file is that is enlarged: one, unless it moves or has pages."""
    with opened(path) as image:
        return frame_count(image) if isinstance(image, Image.Image) else 1


def load_picture(path: Path) -> FilePicture:
    """Read a picture, pixels and all.

    Parameters
    ----------
    path : Path
        The file. Of several pictures in one file of which viewers show the first, such as a phone's
        photograph with its depth map (MPO) or the layers of a drawing (PSD), it is that one.

    Returns
    -------
    FilePicture
        As it is shown, with as many bits as it has; CMYK and LAB as RGB.

    Raises
    ------
    MediaError
        If it is no picture, is truncated, has several frames, has floating point values beyond 0
        and 1, or is larger than Pillow's limit allows.

    Warns
    -----
    RuntimeWarning
        If it is in CMYK without a profile, or in AVIF of more than 8 bits a channel.
    """
    with opened(path) as image:
        if not isinstance(image, Image.Image):
            return _deep_tiff(path, image)
        if (frames := frame_count(image)) > 1:
            raise MediaError(f"{path} has {frames} frames; only single ones can be read")
        tell_lost_bits(image, path)
        if deep.is_deep_png(image):
            image.load()  # what follows the pixels, such as EXIF
            return _deep(deep.read_png(path), image, path)
        if deep.is_deep_heif(image):
            return _deep(deep.read_heif(path), image, path)
        return from_pil(image, path)


def tell_lost_bits(image: Image.Image, path: Path) -> None:
    """Warn of an AVIF file of which Pillow reads fewer bits than it has."""
    if image.format == "AVIF" and (bits := deep.avif_bits(path)) > 8:
        warnings.warn(
            f"{path} has {bits} bits a channel, of which Pillow reads 8: to keep them, make a "
            "16-bit PNG of it, such as by `avifdec --depth 16`",
            RuntimeWarning,
            stacklevel=3,
        )


def _deep(pixels: Pixels, image: Image.Image, path: Path) -> FilePicture:
    beside = beside_of(image, image, path)
    turn = image.getexif().get(_ORIENTATION, 1)
    return FilePicture(turned(pixels, turn), without_turn(beside))


def from_pil(image: Image.Image, path: Path) -> FilePicture:
    """Take the present frame of a file that Pillow opened."""
    check_claim(image.size, str(image.format), path)  # pages have sizes of their own
    check_tiles(image, path)
    image.load()
    seen = as_rgb(image, path)
    pixels = turned(pil_to_array(seen), image.getexif().get(_ORIENTATION, 1))
    if pixels.dtype.kind == "f":
        pixels = _checked(pixels, path)
    return FilePicture(pixels, without_turn(beside_of(seen, image, path)))


def frame_count(image: Image.Image) -> int:
    """Tell of how many pictures a sequence in a file is."""
    return 1 if image.format in _FIRST_IS_SHOWN else getattr(image, "n_frames", 1)


def _deep_tiff(path: Path, tags: Any) -> FilePicture:
    if tags.next:
        raise MediaError(
            f"{path} has several pages of more than 8 bits a channel: save each as a file"
        )
    pixels = turned(deep.read_tiff(path, tags), tags.get(_ORIENTATION, 1))
    if pixels.dtype.kind == "f":
        pixels = _checked(pixels, path)
    return FilePicture(pixels, without_turn(beside_of_tags(path, tags)))


def _checked(pixels: Pixels, path: Path) -> Pixels:
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise MediaError(
            f"{path} has floating point values from {low:g} to {high:g}, and only those from 0 to "
            "1 have a meaning that is known: divide them by what white is, or save 16 bits"
        )
    return pixels.clip(0, 1).astype(np.float32, copy=False)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image | Any]:
    """Open a picture for a scope in which whatever Pillow raises is a `MediaError`.

    Yields
    ------
    PIL.Image.Image or ImageFileDirectory_v2
        The tags alone of TIFF files whose pixels Pillow cuts off or does not know.
    """
    try:
        if deep.is_tiff(path) and deep.is_deep_tiff(tags := deep.tiff_tags(path)):
            check_claim((tags[256], tags[257]), "TIFF", path)
            yield tags
            return
        with identified(path) as image:
            check_claim(image.size, str(image.format), path)
            yield image
    except ConfigError as error:
        raise MediaError(f"{path}: {error}") from error
    except Error:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"{path} cannot be read as a picture: {error} If you trust it, raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} cannot be read as a picture: {error}") from error
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # whatever Pillow's readers meet in a damaged file
        raise MediaError(
            f"{path} cannot be read as a picture: {type(error).__name__}: {error}"
        ) from error
