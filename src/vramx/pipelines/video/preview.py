"""One frame of a video, to see what will become of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vramx.pipelines.video.colours import Pixels
from vramx.pipelines.video.source import VideoSource
from vramx.pipelines.video.span import Span, Time


def read_frame(path: Path, start: Time = None, deinterlace: str = "auto") -> Pixels:
    """Read one frame of a video.

    Parameters
    ----------
    path : Path
        The video.
    start : float, Fraction, str or None
        It is the first that is shown then or later; None takes one from the middle.
    deinterlace : str
        As of `VideoSource`.

    Returns
    -------
    numpy.ndarray
        As `VideoSource.frames` gives it.

    Raises
    ------
    MediaError
        If it cannot be read.
    ConfigError
        If the video does not last so long.
    """
    span = Span.of(start, None)
    if start is None:
        span = Span(VideoSource(path, deinterlace).middle)
    return next(VideoSource(path, deinterlace, span=span).frames(seek=True))[1]


def write_preview(pixels: Any, target: Path) -> None:
    """Write a frame as a picture of 8 bits a colour."""
    from vramx.pipelines.pictures import Beside, layout_of, picture_target

    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    with picture_target(target, layout_of(pixels), Beside()) as put:
        put(pixels)
