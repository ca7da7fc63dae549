"""Reading a video: its frames as arrays with their times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace

from vramx.errors import MediaError

Pixels = npt.NDArray[np.uint8]

#: What is hashed at each end of a file to know it again.
_SAMPLE = 2**20
#: Conversions between RGB and what codecs take round; otherwise each darkens a little.
#: swscale's flags bicubic, accurate rounding, full chroma both ways; PyAV names them since 17.
EXACT = 0x4 | 0x40000 | 0x2000 | 0x4000
#: Frame heights from which colours are those of high definition where a file does not say.
_HIGH_DEFINITION = 720
_UNSPECIFIED = 2
#: The part of a video's length, and the seconds, that its last frames may lack.
_MISSING_PART, _MISSING_SECONDS = 0.02, 0.25


class FrameTime(NamedTuple):
    """When a frame is shown, and for how long, in units of the stream's time base."""

    pts: int
    duration: int


class VideoSource:
    """A video file.

    Parameters
    ----------
    path : Path
        The file.

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
    colorspace : int
        The matrix between its colours and RGB.

    Raises
    ------
    MediaError
        If it cannot be read, has no video, or one with alpha or more than 8 bits a colour.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.opened() as container:
            stream = self._stream(container)
            context = stream.codec_context
            self._check_format(context.format)
            if stream.time_base is None:
                raise MediaError(f"{path} does not say in what unit its frames' times are")
            self.time_base = stream.time_base
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.height, self.width = context.height, context.width
            self.start = stream.start_time or 0
            self.duration = stream.duration or self._from_container(container)
            self.frame_count = stream.frames or (
                round(self.duration * self.time_base * self.rate) if self.duration else None
            )
            self.aspect = stream.sample_aspect_ratio
            high = context.height >= _HIGH_DEFINITION
            self.colorspace = (
                int(Colorspace.ITU709 if high else Colorspace.SMPTE170M)
                if context.colorspace in (0, _UNSPECIFIED)
                else context.colorspace
            )
            self.color_primaries, self.color_trc = context.color_primaries, context.color_trc
            self.metadata = dict(container.metadata)

    def _from_container(self, container: Any) -> int | None:
        if container.duration is None:
            return None
        return int(Fraction(container.duration, av.time_base) / self.time_base)

    def opened(self) -> Any:
        """Open the file once more; a context manager."""
        try:
            return av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"{self.path} cannot be read as a video: {_reason(error)}") from error

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

    def identity(self) -> str:
        """Return what tells this file from others: its size, and a hash of both its ends."""
        size = self.path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with self.path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(size - _SAMPLE, 0))
            digest.update(file.read(_SAMPLE))
        return digest.hexdigest()

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
        usual = max(1, round(1 / (self.rate * self.time_base)))
        last: FrameTime | None = None
        count = 0
        with self.opened() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            try:
                for frame in container.decode(stream):
                    pts = frame.pts
                    if pts is None:
                        pts = self.start if last is None else last.pts + last.duration
                    if last is not None and pts <= last.pts:
                        raise MediaError(
                            f"{self.path}: frame {count} is shown at {pts}, not after {last.pts}; "
                            "remux the file first"
                        )
                    last = FrameTime(pts, frame.duration or usual)
                    yield last, self._upright(frame)
                    count += 1
            except (av.error.FFmpegError, OSError) as error:
                raise MediaError(
                    f"{self.path} cannot be decoded after {count} frames: {_reason(error)}"
                ) from error
        if last is None:
            raise MediaError(f"{self.path} has no frame that can be decoded")
        self._check_end(last, count)

    def _check_end(self, last: FrameTime, count: int) -> None:
        if not self.duration:
            return
        missing = float((self.start + self.duration - last.pts - last.duration) * self.time_base)
        if missing > max(_MISSING_SECONDS, _MISSING_PART * float(self.duration * self.time_base)):
            raise MediaError(
                f"{self.path} ends after {count} frames, {missing:.2f} seconds before its length: "
                "it is truncated"
            )

    def _upright(self, frame: Any) -> Pixels:
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        pixels: Pixels = frame.to_ndarray(
            format="rgb24",
            src_colorspace=self.colorspace,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            interpolation=EXACT,
        )
        turns = round(frame.rotation / 90) % 4
        return np.rot90(pixels, turns) if turns else pixels


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
