"""Pictures from files and to files."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from vramx.errors import Error, MediaError
from vramx.pipelines.images import JPEG_TABLES
from vramx.writing import written_whole

_BITS_PER_SAMPLE = 258  # a TIFF tag
_XMP_TAG = 700  # another one
_ORIENTATION = 274  # an EXIF tag
#: Its values of pictures that lie on their side.
_LYING = (5, 6, 7, 8)
#: Where formats lose something; Pillow's own are 75 to 80.
_QUALITY = {"quality": 95}
#: The most bytes of EXIF or XMP data in a JPEG file, and the largest resolution that is believed.
_SEGMENT, _MOST_DPI = 65_500, 65_536
#: Formats whose further frames are no pictures of a sequence.
_FIRST_IS_SHOWN = ("MPO", "PSD")
#: What Pillow knows of but has no pixels of by itself: data, videos, and programs for a printer.
_NOT_READ = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG")


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
        with _identified(path):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever Pillow's readers meet in other kinds of files
        return False


def is_named_as_picture(path: Path) -> bool:
    """Tell whether a file's suffix promises a picture that can be read."""
    return Image.registered_extensions().get(path.suffix.lower()) in _readable()


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
    with _opened(path) as image:
        width, height = image.size
        lies = image.getexif().get(_ORIENTATION) in _LYING
    return (height, width) if lies else (width, height)


def load_picture(path: Path) -> Image.Image:
    """Read a picture, pixels and all.

    Parameters
    ----------
    path : Path
        The file. Of several pictures in one file of which viewers show the first, such as a phone's
        photograph with its depth map (MPO) or the layers of a drawing (PSD), it is that one.

    Returns
    -------
    PIL.Image.Image
        As it is in the file.

    Raises
    ------
    MediaError
        If it is no picture, is truncated, has several frames, has more than 8 bits a colour, which
        Pillow would cut off, or is larger than Pillow's limit allows.
    """
    with _opened(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in _FIRST_IS_SHOWN:
            raise MediaError(f"{path} has {frames} frames; only single ones can be read")
        if _cuts_bits(image):
            raise MediaError(
                f"{path} has 16 bits for each of several channels, which Pillow reads as 8: "
                "read it as an array of uint16 with another library"
            )
        image.load()
        picture: Image.Image = image.copy()
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            picture.info[JPEG_TABLES] = image.quantization
        return picture


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture for a scope in which whatever Pillow raises is a `MediaError`."""
    try:
        with _identified(path) as image:
            yield image
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


def _identified(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # What is too large is an error; a warning about half of that helps nobody.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=_readable())


def _readable() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _NOT_READ]


def _cuts_bits(image: Image.Image) -> bool:
    if len(image.getbands()) == 1:
        return False
    if image.format == "TIFF":
        bits: Any = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        return any(each > 8 for each in bits)
    return any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture with what belongs to it, whole or not at all.

    Its ICC profile, EXIF and XMP data and resolution are kept where the format has a place for
    them. JPEG files have quality 95, and what was coded finer in the file that the picture was read
    from is as fine.

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

    Warns
    -----
    RuntimeWarning
        If data beside the pixels are left out, as they are more than JPEG takes.
    """
    name = writable_format(path)
    try:
        with written_whole(path) as file:
            image.save(file, name, **_coding(image, name), **_beside(image, name, path))
    except Exception as error:  # whatever Pillow's writers meet in data beside the pixels
        raise MediaError(
            f"{path} cannot be written as {name} with mode {image.mode}: {error}"
        ) from error


def _coding(image: Image.Image, name: str) -> dict[str, Any]:
    """Return how a picture is coded, as arguments for Pillow's writer of a format."""
    if name != "JPEG":
        return _QUALITY if name in ("AVIF", "WEBP") else {}
    source = image.info.get(JPEG_TABLES)
    if not source:
        return {**_QUALITY, "subsampling": 0}
    usual = _usual_tables()
    tables = [source.get(place, source[min(source)]) for place in usual]
    finer = [[*map(min, *each)] for each in zip(tables, usual.values(), strict=True)]
    return {"qtables": finer, "subsampling": 0}


@functools.cache
def _usual_tables() -> dict[int, list[int]]:
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "JPEG", **_QUALITY)
    with Image.open(file) as image:
        tables: dict[int, list[int]] = image.quantization
        return tables


def _beside(image: Image.Image, name: str, path: Path) -> dict[str, Any]:
    """Return what is kept beside the pixels, as arguments for Pillow's writer of a format."""
    kept = {key: image.info[key] for key in ("icc_profile", "exif", "xmp") if image.info.get(key)}
    if name == "JPEG":
        for key in ("exif", "xmp"):
            if len(kept.get(key, b"")) > _SEGMENT:
                warnings.warn(
                    f"{path}: its {key.upper()} data are {len(kept.pop(key))} bytes, more than "
                    "JPEG takes, and are left out",
                    RuntimeWarning,
                    stacklevel=3,
                )
    if "xmp" in kept and name == "TIFF":
        kept["tiffinfo"] = {_XMP_TAG: kept.pop("xmp")}
    elif "xmp" in kept and name == "PNG":
        kept["pnginfo"] = chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", kept.pop("xmp").decode("utf-8", "replace"))
    dpi = image.info.get("dpi")
    if dpi is not None and all(0 < each < _MOST_DPI for each in dpi):
        kept["dpi"] = tuple(map(float, dpi))
    return kept
