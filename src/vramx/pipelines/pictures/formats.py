"""Which formats there are, what their files are named, and what fits into them."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from vramx.errors import ConfigError, MediaError
from vramx.pipelines.files import is_video

#: The most pixels a side.
_SIDES = {
    "AVIF": 32_768,
    "GIF": 65_535,
    "HEIF": 32_768,
    "ICO": 256,
    "JPEG": 65_500,
    "TGA": 65_535,
    "WEBP": 16_383,
}
#: The most pixels: what their encoders take and their readers believe.
_AREAS = {"AVIF": 2**28, "HEIF": 142_606_336}
#: Formats that lose something, by choice; what has 16 bits becomes 8 in them.
_LOSING = ("AVIF", "HEIF", "JPEG", "WEBP")
#: Formats of 16 bits a channel, and of them alone those of grey.
_DEEP, _DEEP_GREY = ("PNG", "TIFF"), ("JPEG2000", "PPM")
_WITH_ALPHA = "PNG, TIFF, WebP and AVIF have alpha"
#: What Pillow knows of but has no pixels of by itself: data, videos, and programs for a printer.
_NOT_READ = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
_AVIF_SUFFIXES = (".avif", ".avifs")
_NEEDS_HEIF = "HEIC needs pillow-heif: pip install 'vramx[heic]'"
_NEEDS_AVIF = "AVIF needs Pillow 11.3 or newer with it: pip install -U pillow"


class Layout(NamedTuple):
    """The size and kind of a picture's pixels."""

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]

    @property
    def mode(self) -> str:
        """Pillow's name of such a picture with 8 bits a channel."""
        return ("L", "LA", "RGB", "RGBA")[self.channels - 1]

    @property
    def samples(self) -> int:
        """How many values the pixels have."""
        return self.height * self.width * self.channels

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return self.samples * self.dtype.itemsize


@functools.cache
def _formats() -> dict[str, str]:
    """Return the formats of suffixes; HEIF's among them where its package is there."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image.registered_extensions()


def readable() -> list[str]:
    """Name the formats that are read."""
    _formats()
    return [name for name in Image.ID if name not in _NOT_READ]


def writable_format(path: Path, asked: str | None = None) -> str:
    """Tell which format a file is written in.

    Parameters
    ----------
    path : Path
        The file, whose suffix says it.
    asked : str, optional
        A format by a suffix that it has, such as ``"jpeg"``, which must be the same.

    Returns
    -------
    str
        Pillow's name of the format.

    Raises
    ------
    MediaError
        If the suffix names none that can be written, or another one than is asked for.
    ConfigError
        If what is asked for is none.
    """
    wanted = None if asked is None else format_named(asked)
    suffix = path.suffix.lower()
    name = _formats().get(suffix)
    if is_video(path):
        raise MediaError(
            f"{path} is named as a video, but what is read is a picture: try .png, or .gif and "
            ".webp for moving ones"
        )
    if (needed := _missing(suffix)) is not None:
        raise MediaError(f"{path} cannot be written: {needed}")
    if name is None or name not in Image.SAVE:
        raise MediaError(f"{path}: {path.suffix!r} is no picture format; try .png")
    if wanted is not None and name != wanted:
        raise MediaError(
            f"{path} is named as {name}, but {wanted} was asked for: name it "
            f"{path.with_suffix(suffix_of(str(asked))).name}"
        )
    return name


def format_named(asked: str) -> str:
    """Return Pillow's name of a format that can be written, by a suffix that it has."""
    suffix = suffix_of(asked)
    name = _formats().get(suffix)
    if (needed := _missing(suffix)) is not None:
        raise ConfigError(needed)
    if name is None or name not in Image.SAVE:
        raise ConfigError(
            f"{asked!r} is no picture format: png, tiff, jpeg, webp, avif and heic are some"
        )
    return name


def _missing(suffix: str) -> str | None:
    """Say what a format needs that is not installed, by a suffix of it."""
    if _formats().get(suffix) in Image.SAVE:
        return None
    if suffix in _HEIF_SUFFIXES:
        return _NEEDS_HEIF
    return _NEEDS_AVIF if suffix in _AVIF_SUFFIXES else None


def suffix_of(asked: str) -> str:
    """Return the suffix of files of a format that is asked for."""
    return f".{asked.lower().lstrip('.')}"


def is_picture_file(path: Path) -> bool:
    """Tell by its first bytes whether a file is a picture of a format that is known."""
    from vramx.pipelines.pictures.deep import is_tiff

    try:
        with identified(path):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever Pillow's readers meet in other kinds of files
        try:
            return _of_brand(path) is not None or is_tiff(path)
        except OSError:
            return False


def is_named_as_picture(path: Path) -> bool:
    """Tell whether a file's suffix promises a picture that can be read."""
    suffix = path.suffix.lower()
    return _formats().get(suffix) in readable() or _missing(suffix) is not None


def _of_brand(path: Path) -> str | None:
    """Say by a file's first bytes what reads it, if it is HEIC or AVIF."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] != b"ftyp":
        return None
    if head[8:] in _AVIF_BRANDS:
        return _NEEDS_AVIF
    return _NEEDS_HEIF if head[8:] in _HEIF_BRANDS else None


def identified(path: Path) -> Image.Image:
    """Open a file as a picture of a format that is read; no pixels yet."""
    with warnings.catch_warnings():
        # What is too large is an error; a warning about half of that helps nobody.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(path, formats=readable())
        except UnidentifiedImageError:
            needed = _of_brand(path)
            name = "HEIF" if needed == _NEEDS_HEIF else "AVIF"
            if needed is not None and name not in Image.OPEN:
                raise MediaError(f"{path} cannot be read: {needed}") from None
            raise


def has_quality(path: Path) -> bool:
    """Tell by its suffix whether a file's format has qualities."""
    return _formats().get(path.suffix.lower()) in _LOSING


def check_quality(quality: int | None, name: str | None) -> None:
    """Refuse a quality that a format does not have.

    Parameters
    ----------
    quality : int, optional
        As of `PictureOptions`.
    name : str, optional
        Pillow's name of the format; None if there are several.

    Raises
    ------
    ConfigError
        If it is not allowed.
    """
    if quality is not None and name is not None and name not in _LOSING:
        raise ConfigError(
            f"{name} files have no quality, since they lose nothing or leave no choice: "
            f"{', '.join(_LOSING)} have one"
        )


def check_fits(path: Path, name: str, layout: Layout, coding: dict[str, Any]) -> Layout:
    """Refuse a picture that a format does not take, before it is made.

    Parameters
    ----------
    path : Path
        What will be written.
    name : str
        Pillow's name of its format.
    layout : Layout
        The picture.
    coding : dict
        Arguments for Pillow's writer.

    Returns
    -------
    Layout
        What is written: of bytes, where the format has no more.

    Raises
    ------
    MediaError
        If it is too large, or has more bits or alpha that the format does not have.

    Warns
    -----
    RuntimeWarning
        If 16 bits become 8.
    """
    most = _SIDES.get(name)
    if most is not None and max(layout.height, layout.width) > most:
        raise MediaError(
            f"{path} cannot be written as {name}: it would be {layout.width}x{layout.height} "
            f"pixels, and {name} has at most {most} a side; PNG and TIFF have more"
        )
    area = _AREAS.get(name)
    if area is not None and layout.height * layout.width > area:
        raise MediaError(
            f"{path} cannot be written as {name}: it would be {layout.width}x{layout.height} "
            f"pixels, and {name} has at most {area} together; PNG, TIFF and JPEG have more"
        )
    if layout.dtype.kind == "f" and name != "TIFF":
        raise MediaError(
            f"{path} cannot be written as {name}: the picture has floating point values, which "
            "only TIFF keeps: name a .tif file"
        )
    if name in _DEEP or (name in _DEEP_GREY and layout.channels == 1):
        return layout
    if layout.dtype.itemsize > 1:
        if name not in _LOSING:
            raise MediaError(
                f"{path} cannot be written as {name}: the picture has 16 bits a channel, which PNG "
                "and TIFF keep"
            )
        warnings.warn(
            f"{path}: the picture has 16 bits a channel, and {name} keeps 8; PNG and TIFF keep all",
            RuntimeWarning,
            stacklevel=2,
        )
        layout = layout._replace(dtype=np.dtype(np.uint8))
    try:
        Image.new(layout.mode, (16, 16)).save(io.BytesIO(), name, **coding)
    except Exception as error:  # whatever Pillow's writers say
        raise MediaError(
            f"{path} cannot be written as {name} with mode {layout.mode}: {error}"
            + (f" ({_WITH_ALPHA})" if layout.channels in (2, 4) else "")
        ) from error
    return layout
