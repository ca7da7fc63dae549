"""Reading a video: its frames as arrays with their times."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from vramx.errors import ConfigError, MediaError
from vramx.pipelines.video.clock import Clock, FrameTime, Timed, frame_rate
from vramx.pipelines.video.interlacing import Deinterlacer
from vramx.pipelines.video.opening import open_video, reason

Pixels = npt.NDArray[np.uint8]

#: Conversions between RGB and what codecs take round; otherwise each darkens a little.
#: swscale's flags bicubic, accurate rounding, full chroma both ways; PyAV names them since 17.
EXACT = 0x4 | 0x40000 | 0x2000 | 0x4000
#: Frame heights from which colours are those of high definition where a file does not say.
_HIGH_DEFINITION = 720
_UNSPECIFIED = 2

Deinterlace = Literal["auto", "off"]


class VideoSource:
    """A video file.

    Parameters
    ----------
    path : Path
        The file.
    deinterlace : str
        What becomes of frames that are marked as interlaced: ``"auto"`` makes each one picture,
        ``"off"`` leaves both fields in it.

    Attributes
    ----------
    time_base : Fraction
        The unit of times in seconds.
    rate : Fraction
        Frames a second, on average.
    height, width : int
        Before frames are turned upright.
    frame_count : int or None
        About how many frames there are, where the file says.
    aspect : Fraction or None
        A pixel's width by its height, once frames are upright.
    colorspace : int
        The matrix between its colours and RGB.

    Raises
    ------
    MediaError
        If it cannot be read, has no video, or one with alpha or more than 8 bits a colour.
    ConfigError
        If `deinterlace` is neither.
    """

    def __init__(self, path: Path, deinterlace: str = "auto") -> None:
        if deinterlace not in get_args(Deinterlace):
            raise ConfigError(f"deinterlace {deinterlace!r} is not one of 'auto', 'off'")
        self.path = path
        self.deinterlace = deinterlace
        with self.opened() as container:
            stream = self._stream(container)
            context = stream.codec_context
            if context is None:
                raise MediaError(f"{path}: its video is damaged or of an unknown kind")
            self._check_format(context.format)
            if stream.time_base is None:
                raise MediaError(f"{path} does not say in what unit its frames' times are")
            self.time_base = stream.time_base
            self.rate = frame_rate(stream)
            self.height, self.width = context.height, context.width
            length = Clock(path, container, stream).length
            self.frame_count = stream.frames or (round(length * self.rate) if length else None)
            high = context.height >= _HIGH_DEFINITION
            self.colorspace = (
                int(Colorspace.ITU709 if high else Colorspace.SMPTE170M)
                if context.colorspace in (0, _UNSPECIFIED)
                else context.colorspace
            )
            self.color_primaries, self.color_trc = context.color_primaries, context.color_trc
            self.metadata = dict(container.metadata)
            self._turns = round(self._first_frame(container, stream).rotation / 90) % 4
            aspect = stream.sample_aspect_ratio
            self.aspect = 1 / aspect if aspect and self._turns % 2 else aspect

    def _first_frame(self, container: Any, stream: Any) -> Any:
        try:
            first = next(container.decode(stream), None)
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"{self.path} cannot be decoded: {reason(error)}") from error
        if first is None:
            raise MediaError(f"{self.path} has no frame that can be decoded")
        return first

    def opened(self) -> Any:
        """Open the file once more; a context manager."""
        return open_video(self.path)

    def _stream(self, container: Any) -> Any:
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                return stream
        kinds = sorted({stream.type for stream in container.streams})
        raise MediaError(f"{self.path} has no video stream, but {', '.join(kinds) or 'nothing'}")

    def _check_format(self, pixels: Any) -> None:
        if pixels is None:
            raise MediaError(f"{self.path}: its video is damaged or of an unknown kind")
        if any(each.is_alpha for each in pixels.components) or pixels.has_palette:
            raise MediaError(
                f"{self.path} is in {pixels.name}, with alpha or a palette: convert it"
            )
        if any(each.bits > 8 for each in pixels.components):
            raise MediaError(
                f"{self.path} is in {pixels.name}, with more than 8 bits a colour, which would be "
                "lost: convert it to 8 bits first"
            )

    def frames(self) -> Iterator[tuple[FrameTime, Pixels]]:
        """Decode from the start.

        Yields
        ------
        FrameTime
            When the frame is shown.
        numpy.ndarray
            RGB of shape ``(height, width, 3)``, upright.

        Raises
        ------
        MediaError
            If it cannot be decoded, ends early, or its times do not increase. What was yielded is
            good.
        """
        with self.opened() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            clock = Clock(self.path, container, stream)
            reformatter = VideoReformatter()
            count = 0
            try:
                for frame, time in self._whole(clock.frames()):
                    yield time, self._upright(frame, reformatter)
                    count += 1
            except (av.error.FFmpegError, OSError) as error:
                raise MediaError(
                    f"{self.path} cannot be decoded after {count} frames: {reason(error)}"
                ) from error
            clock.check_end()

    def _whole(self, frames: Iterator[Timed]) -> Iterator[Timed]:
        """Deinterlace from the first frame on that asks for it."""
        filters: Deinterlacer[FrameTime] | None = None
        told = False
        for frame, time in frames:
            if frame.interlaced_frame and not told:
                told = True
                self._tell_interlaced()
                if self.deinterlace == "auto":
                    filters = Deinterlacer(frame)
            if filters is None:
                yield frame, time
            else:
                yield from filters.put(frame, time)
        if filters is not None:
            yield from filters.end()

    def _tell_interlaced(self) -> None:
        done = (
            "each frame becomes one picture of its moment (deinterlace='off' leaves it as it is)"
            if self.deinterlace == "auto"
            else "moving edges stay combs, since deinterlace='off'"
        )
        warnings.warn(f"{self.path} is interlaced: {done}", RuntimeWarning, stacklevel=2)

    def _upright(self, frame: Any, reformatter: VideoReformatter) -> Pixels:
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        converted: Any = reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=self.colorspace,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            interpolation=EXACT,
        )
        pixels: Pixels = converted.to_ndarray()
        return np.rot90(pixels, self._turns) if self._turns else pixels
