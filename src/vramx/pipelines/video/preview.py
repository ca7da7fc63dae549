"""One frame of a video, to see what will become of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vramx.errors import ConfigError
from vramx.pipelines.options import VideoOptions
from vramx.pipelines.span import Span
from vramx.pipelines.video.colours import Pixels
from vramx.pipelines.video.source import VideoSource


def read_frame(path: Path, options: VideoOptions) -> Pixels:
    """Read one frame of a video.

    Parameters
    ----------
    path : Path
        The video.
    options : VideoOptions
        It is the first that is shown at `start` or later; without a start one from the middle.

    Returns
    -------
    numpy.ndarray
        As `VideoSource.frames` gives it.

    Raises
    ------
    MediaError
        If it cannot be read.
    ConfigError
        If the video does not last so long, or an end is given.
    """
    if options.end is not None:
        raise ConfigError("a preview is of one frame, that at start=: leave out end=")
    span = options.span
    if span.start is None:
        span = Span(VideoSource(path, options.deinterlace).middle)
    return next(VideoSource(path, options.deinterlace, span=span).frames(seek=True))[1]


def write_preview(pixels: Any, target: Path) -> None:
    """Write a frame as a picture of 8 bits a colour."""
    from vramx.pipelines.pictures import Beside, layout_of, picture_target

    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    with picture_target(target, layout_of(pixels), Beside()) as put:
        put(pixels)
