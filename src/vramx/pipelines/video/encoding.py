"""How frames of a video are encoded."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from vramx.errors import ConfigError
from vramx.pipelines.video.source import EXACT, Pixels, VideoSource

#: An encoder's output depends on how many threads it has: as many for frames of a height, whatever
#: the machine.
_FEWEST_THREADS, _MOST_THREADS, _ROWS_A_THREAD = 4, 24, 90


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes
    ----------
    codec : str
        A video encoder's name, as FFmpeg has it.
    options : mapping of str to str
        Its options.
    source : VideoSource
        Whose time base, rate, colours and aspect are kept.
    """

    codec: str
    options: Mapping[str, str]
    source: VideoSource
    _reformatter: VideoReformatter = field(
        default_factory=VideoReformatter, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        try:
            kind = av.Codec(self.codec, "w").type
        except ValueError:
            kind = "unknown"
        if kind != "video":
            raise ConfigError(f"codec {self.codec!r} is no video encoder here; one is 'libx264'")

    @property
    def segment_format(self) -> str:
        """The container of segments: MP4, or QuickTime for what that has no place for."""
        return "mp4" if self.codec in _codecs_of("mp4") else "mov"

    def _pixel_format(self, wanted: str) -> str:
        """Return a format, or the first that the encoder has in its place."""
        known = av.Codec(self.codec, "w").video_formats
        if not known:
            return wanted
        usable = [each.name for each in known if len(each.components) == 3 and not each.is_rgb]
        if not usable:
            raise ConfigError(
                f"codec {self.codec!r} takes no YUV frames; one that does is 'libx264'"
            )
        return wanted if wanted in usable else usable[0]

    def add_stream(self, container: Any, height: int, width: int) -> Any:
        """Add a stream for frames of a size.

        Without frames that refer to later ones, frames are stored in the order of their times, so
        that segments can be put behind each other whatever the times are.
        """
        source = self.source
        stream = container.add_stream(self.codec, rate=source.rate, options=dict(self.options))
        context = stream.codec_context
        stream.width, stream.height = width, height
        stream.pix_fmt = self._pixel_format("yuv444p" if width % 2 or height % 2 else "yuv420p")
        stream.time_base = context.time_base = source.time_base
        context.max_b_frames = 0
        wanted = height // _ROWS_A_THREAD
        context.thread_count = min(max(wanted, _FEWEST_THREADS), _MOST_THREADS)
        context.colorspace, context.color_range = source.colorspace, ColorRange.MPEG
        context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        if source.aspect:
            context.sample_aspect_ratio = source.aspect
        return stream

    def frame(self, pixels: Pixels, stream: Any) -> Any:
        """Make a frame of RGB of shape ``(height, width, 3)``."""
        given = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), format="rgb24")
        return self._reformatter.reformat(
            given,
            format=stream.pix_fmt,
            dst_colorspace=self.source.colorspace,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=EXACT,
        )


@cache
def _codecs_of(name: str) -> frozenset[str]:
    with av.open(io.BytesIO(), "w", format=name) as container:
        return frozenset(container.supported_codecs)
