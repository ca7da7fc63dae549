"""Between frames of a video and arrays of RGB, in the source's own transfer, without a bias."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, VideoReformatter

from vramx.pipelines.video.pixel_formats import PixelFormat

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

#: Conversions between RGB and what codecs take round; otherwise each darkens a little.
#: swscale's flags bicubic, accurate rounding, full chroma both ways; PyAV names them since 17.
_EXACT = 0x4 | 0x40000 | 0x2000 | 0x4000
#: Formats of 16 bits, by how many pixels share a chroma sample.
_DEEPER = {(1, 1): "yuv444p16le", (2, 1): "yuv422p16le", (2, 2): "yuv420p16le"}
_GREY = re.compile(r"gray(\d+le)?")


def is_full(frame: Any) -> bool:
    """Tell whether black and white are a frame's least and largest values."""
    return bool(frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj"))


def to_rgb(
    frame: Any, pixels: PixelFormat, colorspace: int, reformatter: VideoReformatter
) -> Pixels:
    """Convert a decoded frame.

    Parameters
    ----------
    frame : av.VideoFrame
        The frame.
    pixels : PixelFormat
        Its format.
    colorspace : int
        The matrix between its colours and RGB.
    reformatter : VideoReformatter
        That of the stream.

    Returns
    -------
    numpy.ndarray
        RGB of shape ``(height, width, 3)``: uint8 of 8 bits and fewer, else uint16 with white at
        65535.
    """
    full = is_full(frame)
    deep = pixels.depth > 8
    if _GREY.fullmatch(frame.format.name):
        return _grey(frame, pixels.depth, limited=frame.color_range == ColorRange.MPEG)
    converted: Any = reformatter.reformat(
        frame,
        format="rgb48le" if deep else "rgb24",
        src_colorspace=colorspace,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        interpolation=_EXACT,
    )
    rgb: Pixels = converted.to_ndarray()
    if not deep or pixels.rgb:
        return rgb
    # swscale shifts white, of 8 bits in limited range, to the left and fills up with zeros.
    bits = pixels.depth if full else 8
    np.minimum(rgb, 2**16 - 2 ** (16 - bits), out=rgb)
    return rgb + (rgb >> bits)


def _grey(frame: Any, depth: int, *, limited: bool) -> Pixels:
    """Convert a frame of one plane, for which swscale passes over the range."""
    white = 65535 if depth > 8 else 255
    values = _samples(frame.planes[0], np.uint16 if depth > 8 else np.uint8).astype(np.float32)
    step = 2.0 ** (depth - 8)
    parts = (values / step - 16) / 219 if limited else values / (2**depth - 1)
    grey = np.rint(parts.clip(0, 1) * white).astype(np.uint16 if depth > 8 else np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _samples(plane: Any, dtype: Any) -> npt.NDArray[Any]:
    rows = np.frombuffer(plane, dtype)
    return rows.reshape(plane.height, -1)[:, : plane.width]


def from_rgb(
    rgb: Pixels, pixels: PixelFormat, colorspace: int, full: bool, reformatter: VideoReformatter
) -> Any:
    """Convert to a frame for an encoder; the inverse of `to_rgb`.

    Parameters
    ----------
    rgb : numpy.ndarray
        RGB of shape ``(height, width, 3)``, uint8 or uint16.
    pixels : PixelFormat
        The encoder's.
    colorspace : int
        The matrix between its colours and RGB.
    full : bool
        Whether its range is full.
    reformatter : VideoReformatter
        That of the stream.

    Returns
    -------
    av.VideoFrame
        The frame.
    """
    deep = rgb.dtype == np.uint16
    if deep and not pixels.rgb:
        rgb = rgb - (rgb >> 8)
    rows: Any = np.ascontiguousarray(rgb)
    given = av.VideoFrame.from_numpy_buffer(rows, format="rgb48le" if deep else "rgb24")
    # swscale widens to full range in 15 bits and does not round: it is done here, from 16 bits.
    deeper = _DEEPER.get((pixels.across, pixels.down)) if pixels.name.startswith("yuv") else None
    widened = full and deeper is not None
    converted: Any = reformatter.reformat(
        given,
        format=deeper if widened else pixels.name,
        dst_colorspace=colorspace,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG if full and not widened else ColorRange.MPEG,
        interpolation=_EXACT,
    )
    return _widened(converted, pixels) if widened else converted


def _widened(frame: Any, pixels: PixelFormat) -> Any:
    made = av.VideoFrame(frame.width, frame.height, pixels.name)
    for number, (before, after) in enumerate(zip(frame.planes, made.planes, strict=True)):
        samples = _samples(before, np.uint16)
        table = _full_range(pixels.depth, number > 0)
        rows = np.zeros((after.height, after.line_size // table.itemsize), table.dtype)
        rows[:, : after.width] = table[samples]
        after.update(rows.tobytes())
    made.color_range = ColorRange.JPEG
    made.colorspace = frame.colorspace
    return made


@cache
def _full_range(depth: int, chroma: bool) -> npt.NDArray[Any]:
    """Return what each value of limited range in 16 bits is in full range."""
    values, largest = np.arange(2**16), 2**depth - 1
    if chroma:
        wide = (values - 128 * 256) / (224 * 256) * largest + 2 ** (depth - 1)
    else:
        wide = (values - 16 * 256) / (219 * 256) * largest
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    table: npt.NDArray[Any] = np.clip(np.rint(wide), 0, largest).astype(dtype)
    return table
