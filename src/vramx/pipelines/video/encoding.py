"""How frames of a video are encoded."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import av
from av.video.reformatter import ColorRange, VideoReformatter

from vramx.errors import ConfigError
from vramx.pipelines.video.colours import Pixels, from_rgb
from vramx.pipelines.video.pixel_formats import PixelFormat, choose, describe
from vramx.pipelines.video.scheduling import kept_scheduling
from vramx.pipelines.video.source import VideoSource

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
        Whose time base, rate, colours, their depth and aspect are kept.
    pix_fmt : str, optional
        The pixel format of the target; else the source's, or the nearest that loses nothing.
    keeps_range : bool
        Whether the full range of a source stays full.
    """

    codec: str
    options: Mapping[str, str]
    source: VideoSource
    pix_fmt: str | None = None
    keeps_range: bool = True
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

    def pixel_format(self, height: int, width: int) -> PixelFormat:
        """Return the format of frames of a size.

        Raises
        ------
        ConfigError
            If the encoder does not take the one that was asked for, or has none that loses nothing.
        """
        return choose(self.codec, self.source.pixels, height, width, asked=self.pix_fmt)

    def color_range(self, pixels: PixelFormat) -> ColorRange:
        """Return the range of frames in a format."""
        full = self.keeps_range and self.source.full_range and not pixels.rgb
        return ColorRange.JPEG if full or pixels.name.startswith("yuvj") else ColorRange.MPEG

    def add_stream(self, container: Any, height: int, width: int) -> Any:
        """Add a stream for frames of a size, and open its encoder.

        Without frames that refer to later ones, frames are stored in the order of their times, so
        that segments can be put behind each other whatever the times are.
        """
        source = self.source
        options = source.light.options(self.codec, self.options)
        pixels = self.pixel_format(height, width)
        stream = container.add_stream(self.codec, rate=source.rate, options=options)
        context = stream.codec_context
        stream.width, stream.height = width, height
        stream.pix_fmt = pixels.name
        stream.time_base = context.time_base = source.time_base
        context.max_b_frames = 0
        wanted = height // _ROWS_A_THREAD
        context.thread_count = min(max(wanted, _FEWEST_THREADS), _MOST_THREADS)
        context.colorspace = 0 if pixels.rgb else source.colorspace
        context.color_range = self.color_range(pixels)
        context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        if source.aspect:
            context.sample_aspect_ratio = source.aspect
        with kept_scheduling():
            context.open()
        return stream

    def frame(self, rgb: Pixels, stream: Any) -> Any:
        """Make a frame of RGB of shape ``(height, width, 3)``."""
        source = self.source
        pixels = describe(stream.format)
        full = self.color_range(pixels) == ColorRange.JPEG
        frame = from_rgb(rgb, pixels, source.colorspace, full, self._reformatter)
        if hasattr(frame, "color_trc"):  # PyAV has it since 17; a rehearsal tells what is lost
            # Some encoders write what frames say, and not what the stream says.
            frame.color_primaries, frame.color_trc = source.color_primaries, source.color_trc
        return frame


@cache
def _codecs_of(name: str) -> frozenset[str]:
    with av.open(io.BytesIO(), "w", format=name) as container:
        return frozenset(container.supported_codecs)
