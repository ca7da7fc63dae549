"""Pictures to files, rows by rows as they are made."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from vramx.errors import Error, MediaError
from vramx.pipelines.files import TargetSize, same_size
from vramx.pipelines.pictures.formats import (
    Layout,
    check_fits,
    check_quality,
    writable_format,
)
from vramx.pipelines.pictures.png import PngWriter
from vramx.pipelines.pictures.tiff import TiffWriter
from vramx.pipelines.pictures.types import Beside, Pixels
from vramx.writing import written_whole

#: Where formats lose something; Pillow's own are 75 to 80.
_QUALITY = 95
#: The most bytes of EXIF or XMP data in a JPEG file, and the largest resolution that is believed.
_SEGMENT, _MOST_DPI = 65_500, 65_536

#: Takes the next rows of a picture.
PutRows = Callable[[Pixels], None]


class _Writer(Protocol):
    def put(self, rows: Pixels) -> None: ...
    def finish(self) -> None: ...


@contextlib.contextmanager
def picture_target(
    path: Path, layout: Layout, beside: Beside, *, quality: int | None = None
) -> Iterator[PutRows]:
    """Write a picture with what belongs to it, whole or not at all.

    Its ICC profile, EXIF and XMP data and resolution are kept where the format has a place for
    them. Without a quality, files that lose something have 95; JPEG is as fine as the JPEG file
    that the picture is made from where that is finer, and WebP loses nothing where its source did
    not.

    Parameters
    ----------
    path : Path
        The file; its suffix chooses the format.
    layout : Layout
        The picture.
    beside : Beside
        What belongs to it.
    quality : int, optional
        From 1 to 100.

    Yields
    ------
    callable
        Takes the next rows, ``(rows, width)`` or ``(rows, width, channels)``, from the top on. The
        file is there when all have been put and the scope ends without an error.

    Raises
    ------
    MediaError
        If the format does not take such a picture, which is found first, or the file cannot be
        written.
    ConfigError
        If the quality is none, or the format has none.

    Warns
    -----
    RuntimeWarning
        If data beside the pixels are left out, as they are more than JPEG takes, or 16 bits become
        8 in a format that has no more.
    """
    name = writable_format(path)
    check_quality(quality, name)
    coding = coding_of(name, beside, quality)
    kept = check_fits(path, name, layout, coding)
    beside = _fitting(beside, name, path)
    with contextlib.ExitStack() as scope:
        with typed_errors(path, name):
            file = scope.enter_context(written_whole(path))
            writer = _writer(file, name, kept, beside, coding)

        def put(rows: Pixels) -> None:
            with typed_errors(path, name):
                writer.put(_as_bytes(rows) if layout.dtype != kept.dtype else rows)

        yield put
        with typed_errors(path, name):
            writer.finish()
            scope.close()


def layout_of(pixels: Pixels, size: TargetSize = same_size) -> Layout:
    """Tell the layout of an array, or of what it becomes."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    width, height = size(pixels.shape[1], pixels.shape[0])
    return Layout(height, width, channels, pixels.dtype)


@contextlib.contextmanager
def typed_errors(path: Path, name: str) -> Iterator[None]:
    """Turn whatever a writer meets in a scope into a `MediaError`."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise MediaError(f"{path} cannot be written as {name}: {error}") from error


def _as_bytes(rows: Pixels) -> Pixels:
    """Return 16 bits as the nearest 8."""
    return ((rows.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _writer(
    file: BinaryIO, name: str, layout: Layout, beside: Beside, coding: dict[str, Any]
) -> _Writer:
    if name == "PNG":
        return PngWriter(file, layout, beside)
    if name == "TIFF":
        writer = TiffWriter(file, layout.nbytes)
        writer.page(layout, beside)
        return writer
    return _PillowWriter(file, name, layout, {**coding, **pillow_arguments(beside)})


class _PillowWriter:
    """Gathers a picture, for formats of which Pillow takes nothing less."""

    def __init__(
        self, file: BinaryIO, name: str, layout: Layout, arguments: dict[str, Any]
    ) -> None:
        mode = "I;16" if layout.dtype.itemsize == 2 else layout.mode
        self._file, self._name, self._arguments = file, name, arguments
        self._image = Image.new(mode, (layout.width, layout.height))
        self._low = 0

    def put(self, rows: Pixels) -> None:
        self._image.paste(Image.fromarray(rows), (0, self._low))
        self._low += len(rows)

    def finish(self) -> None:
        self._image.save(self._file, self._name, **self._arguments)


def coding_of(name: str, beside: Beside, quality: int | None) -> dict[str, Any]:
    """Return how a picture is coded, as arguments for Pillow's writer of a format."""
    if name == "WEBP" and beside.lossless and quality is None:
        return {"lossless": True, "exact": True}
    if name in ("AVIF", "HEIF", "WEBP"):
        return {"quality": quality or _QUALITY}
    if name != "JPEG":
        return {}
    if quality is not None or not beside.jpeg_tables:
        return {"quality": quality or _QUALITY, "subsampling": 0}
    usual, source = _usual_tables(), beside.jpeg_tables
    tables = [source.get(place, source[min(source)]) for place in usual]
    finer = [[*map(min, *each)] for each in zip(tables, usual.values(), strict=True)]
    return {"qtables": finer, "subsampling": 0}


@functools.cache
def _usual_tables() -> dict[int, list[int]]:
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "JPEG", quality=_QUALITY)
    with Image.open(file) as image:
        tables: dict[int, list[int]] = getattr(image, "quantization")  # noqa: B009 - of JPEG files
        return tables


def _fitting(beside: Beside, name: str, path: Path) -> Beside:
    """Leave out what a format has no room for, and resolutions that cannot be."""
    left_out: dict[str, Any] = {}
    for key in ("exif", "xmp") if name == "JPEG" else ():
        if len(getattr(beside, key) or b"") > _SEGMENT:
            warnings.warn(
                f"{path}: its {key.upper()} data are {len(getattr(beside, key))} bytes, more than "
                "JPEG takes, and are left out",
                RuntimeWarning,
                stacklevel=4,
            )
            left_out[key] = None
    if beside.dpi is not None and not all(0 < each < _MOST_DPI for each in beside.dpi):
        left_out["dpi"] = None
    return dataclasses.replace(beside, **left_out)


def pillow_arguments(beside: Beside) -> dict[str, Any]:
    """Return what is kept beside the pixels, as arguments for Pillow's writers."""
    kept = {key: getattr(beside, key) for key in ("icc_profile", "exif", "xmp", "dpi")}
    return {key: value for key, value in kept.items() if value is not None}
