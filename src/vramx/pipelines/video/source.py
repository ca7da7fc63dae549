"""Reading a video: its frames as arrays with their times."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, VideoReformatter

from vramx.errors import MediaError
from vramx.pipelines.span import Span
from vramx.pipelines.video.clock import Clock, FrameTime, Timed, frame_rate
from vramx.pipelines.video.colours import Pixels, is_full, to_rgb
from vramx.pipelines.video.interlacing import Deinterlacer
from vramx.pipelines.video.light import left_of, light_of
from vramx.pipelines.video.opening import open_video, reason
from vramx.pipelines.video.pixel_formats import readable

#: Frame heights from which colours are those of high definition where a file does not say.
_HIGH_DEFINITION = 720
#: FFmpeg's numbers of what says nothing, and of the matrices that swscale knows.
_UNSPECIFIED, _RESERVED = 2, 3
_MATRICES = (1, 4, 5, 6, 7, 9)

#: What a stream says of its pictures, whatever its container.
_SAID = ("language", "title", "timecode")

_WHOLE = Span()


class UnindexedError(MediaError):
    """A part of a video cannot be decoded without all that is before it."""


class VideoSource:
    """A video file.

    Parameters
    ----------
    path : Path
        The file.
    deinterlace : str
        What becomes of frames that are marked as interlaced: ``"auto"`` makes each one picture,
        ``"off"`` leaves both fields in it.
    on_corrupt : str
        What becomes of frames that cannot be decoded: ``"error"`` ends there, ``"skip"`` leaves
        them out.
    span : Span
        Which frames are read.

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
    pixels : PixelFormat
        What its frames are stored in, once they are upright.
    colorspace : int
        The matrix between its colours and RGB.
    full_range : bool
        Whether black and white are the least and the largest value.
    begin : Fraction
        Where the file begins, in seconds.
    middle : Fraction or None
        A moment in the middle, in seconds from there, where the file says how long it lasts.
    lost : list of Fraction
        When frames that were left out would have been shown, in seconds from there; known once
        `frames` has ended.
    timecode_left : bool
        Whether it has time codes that are not kept, since they begin before the span.
    light : Light
        HDR10's static metadata.
    beside_frames : list of str
        What goes with its first frame and is not kept, in words.

    Raises
    ------
    MediaError
        If it cannot be read, has no video, or one with alpha, a palette or colours that cannot be
        converted.
    ConfigError
        If the video does not last as long as the span.
    """

    def __init__(
        self,
        path: Path,
        deinterlace: str = "auto",
        on_corrupt: str = "error",
        span: Span = _WHOLE,
    ) -> None:
        self.path = path
        self.span = span
        self.lost: list[Fraction] = []
        self._skips = on_corrupt == "skip"
        self.deinterlace = deinterlace
        with self.opened() as container:
            stream = self._stream(container)
            context = stream.codec_context
            if context is None:
                raise MediaError(f"{path}: its video is damaged or of an unknown kind")
            self.pixels = readable(path, context.format)
            if stream.time_base is None:
                raise MediaError(f"{path} does not say in what unit its frames' times are")
            self.time_base = stream.time_base
            self.rate = frame_rate(stream)
            self.height, self.width = context.height, context.width
            clock = Clock(path, container, stream)
            self.begin = clock.start
            self.frame_count = stream.frames or None
            self.middle: Fraction | None = None
            if clock.length is not None:
                length = clock.end - clock.start
                span.check(path, length, 1 / self.rate)
                self.middle = max(length / 2 - 1 / self.rate, Fraction(0))
                if span != _WHOLE or self.frame_count is None:
                    shown = min(span.end or length, length) - (span.start or 0)
                    self.frame_count = round(shown * self.rate)
            self.colorspace = self._matrix(context)
            self.color_primaries, self.color_trc = context.color_primaries, context.color_trc
            self.metadata = dict(container.metadata)
            self.index, self.disposition = stream.index, stream.disposition
            kept = _SAID if span.start is None else _SAID[:2]
            self.said = {key: stream.metadata[key] for key in kept if key in stream.metadata}
            first = self._first_frame(container, stream)
            self.full_range = is_full(first)
            self.light, self.beside_frames = light_of(first), left_of(first)
            self.timecode_left = "timecode" in stream.metadata and "timecode" not in kept
            self._turns = round(first.rotation / 90) % 4
            if self._turns % 2:
                self.pixels = self.pixels.turned()
            aspect = stream.sample_aspect_ratio
            self.aspect = 1 / aspect if aspect and self._turns % 2 else aspect

    @property
    def upright_size(self) -> tuple[int, int]:
        """The height and width of its frames as arrays."""
        size = (self.height, self.width)
        return size[::-1] if self._turns % 2 else size

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The type of its frames as arrays."""
        return np.uint16 if self.pixels.depth > 8 else np.uint8

    def _first_frame(self, container: Any, stream: Any) -> Any:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError) as error:
                if self._skips:
                    continue
                raise MediaError(f"{self.path} cannot be decoded: {reason(error)}") from error
            if frames:
                return frames[0]
        raise MediaError(f"{self.path} has no frame that can be decoded")

    def opened(self) -> Any:
        """Open the file once more; a context manager."""
        return open_video(self.path)

    def _stream(self, container: Any) -> Any:
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                return stream
        kinds = sorted({stream.type for stream in container.streams})
        raise MediaError(f"{self.path} has no video stream, but {', '.join(kinds) or 'nothing'}")

    def _matrix(self, context: Any) -> int:
        """Return the matrix that it names, or that of its size where it names none."""
        if self.pixels.rgb or context.colorspace in (0, _UNSPECIFIED, _RESERVED):
            high = context.height >= _HIGH_DEFINITION
            return int(Colorspace.ITU709 if high else Colorspace.SMPTE170M)
        if context.colorspace not in _MATRICES:
            raise MediaError(
                f"{self.path} has colours in FFmpeg's matrix {context.colorspace}, which cannot be "
                "converted: convert it to BT.709 or BT.2020 first"
            )
        matrix: int = context.colorspace
        return matrix

    def part(self, span: Span) -> VideoSource:
        """Return the same source, of which other frames are read."""
        other = copy.copy(self)
        other.span, other.lost = span, []
        return other

    def frames(
        self, *, seek: bool = False, at: int | None = None
    ) -> Iterator[tuple[FrameTime, Pixels]]:
        """Decode the frames of the span.

        Parameters
        ----------
        seek : bool
            Whether to begin near the span, which is fast, rather than with the file, which is exact
            in every kind of file.
        at : int, optional
            Where to begin instead, in units of the time base: at a key frame from which on the
            frames of the span can be decoded.

        Yields
        ------
        FrameTime
            When the frame is shown.
        numpy.ndarray
            RGB of shape ``(height, width, 3)``, upright; uint8, or uint16 with white at 65535 where
            the file has more than 8 bits a colour.

        Raises
        ------
        MediaError
            If it cannot be decoded, ends early, or its times do not increase. What was yielded is
            good.
        UnindexedError
            If it is to begin at a place, and a frame is deinterlaced, which takes those before.
        """
        with self.opened() as container:
            stream = self._stream(container)
            # Threads that decode several frames at once tell of a damaged one later than it comes.
            stream.thread_type = "SLICE" if self._skips else "AUTO"
            first = None
            if self.span.start is not None and (seek or at is not None):
                first = round((self.begin + self.span.start) / self.time_base)
            begin = None if at is None else first
            clock = Clock(self.path, container, stream, skips=self._skips, begin=begin)
            if at is not None:
                container.seek(at, stream=stream)
            elif first and clock.seekable:
                container.seek(first, stream=stream)
            reformatter = VideoReformatter()
            count = 0
            try:
                for frame, time in self._within(self._whole(clock.frames(), at)):
                    yield time, self._upright(frame, reformatter)
                    count += 1
            except (av.error.FFmpegError, OSError) as error:
                raise MediaError(
                    f"{self.path} cannot be decoded after {count} frames: {reason(error)}; "
                    "on_corrupt='skip' leaves out what is damaged"
                ) from error
            if self.span.end is None:
                clock.check_end()
            if count == 0:
                raise MediaError(
                    f"{self.path} has no frame between start {self.span.start_text} and end "
                    f"{self.span.end_text}"
                )
            lost = [time - self.begin for time in clock.lost]
            self.lost = sorted(time for time in lost if self._is_in(time))

    def _within(self, frames: Iterator[Timed]) -> Iterator[Timed]:
        """Pass by the frames before the span, and end with it."""
        for frame, time in frames:
            shown = time.pts * self.time_base - self.begin
            if self.span.end is not None and shown >= self.span.end:
                return
            if self._is_in(shown):
                yield frame, time

    def is_within(self, pts: int) -> bool:
        """Tell whether a frame that is shown then is one of the span."""
        return self._is_in(pts * self.time_base - self.begin)

    def _is_in(self, time: Fraction) -> bool:
        """Tell whether a time in seconds from where the file begins is in the span."""
        start, end = self.span.start, self.span.end
        return (start is None or time >= start) and (end is None or time < end)

    def _whole(self, frames: Iterator[Timed], at: int | None) -> Iterator[Timed]:
        """Deinterlace from the first frame on that asks for it."""
        filters: Deinterlacer[FrameTime] | None = None
        told = False
        for frame, time in frames:
            if frame.interlaced_frame and not told:
                if at is not None and self.deinterlace == "auto":
                    raise UnindexedError(f"{self.path} is interlaced")
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
        rgb = to_rgb(frame, self.pixels, self.colorspace, reformatter)
        return np.rot90(rgb, self._turns) if self._turns else rgb
