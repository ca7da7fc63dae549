"""When frames are shown, and whether a video goes on as long as its file says."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from vramx.errors import MediaError

#: Containers that store frames in the order of decoding and say nothing of when they are shown.
_WITHOUT_TIMES = frozenset({"avi"})
#: Containers that tell the length of the whole alone, counted from zero.
_WHOLE_LENGTH = "matroska"
#: The part of a video's length, and the seconds, that its last frames may lack.
_MISSING_PART, _MISSING_SECONDS = 0.02, 0.25


class FrameTime(NamedTuple):
    """When a frame is shown, and for how long, in units of the stream's time base."""

    pts: int
    duration: int


Timed = tuple[Any, FrameTime]


def frame_rate(stream: Any) -> Fraction:
    """Return a video stream's frames a second, on average; no more than its clock can tell."""
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    return min(rate, 1 / stream.time_base) if stream.time_base else rate


class Clock:
    """Decodes a video stream and tells when each frame is shown.

    Parameters
    ----------
    path : Path
        What messages name.
    container : av.container.InputContainer
        At its start.
    stream : av.VideoStream
        Which of its streams.

    Attributes
    ----------
    length : Fraction or None
        How many seconds the video lasts, or the whole file if it tells only that.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self._path = path
        self._container = container
        self._stream = stream
        self._usual = max(1, round(1 / (frame_rate(stream) * stream.time_base)))
        self._stored: list[int] | None = [] if container.format.name in _WITHOUT_TIMES else None
        self._last: FrameTime | None = None
        self._count = 0
        self._others_end = Fraction(0)
        self._alone = bool(stream.duration) and _WHOLE_LENGTH not in container.format.name
        self.length: Fraction | None = None
        if self._alone:
            self.length = Fraction(stream.duration * stream.time_base)
        elif container.duration:
            self.length = Fraction(container.duration, av.time_base)

    def frames(self) -> Iterator[Timed]:
        """Decode from the start.

        Yields
        ------
        av.VideoFrame
            A frame.
        FrameTime
            When it is shown.

        Raises
        ------
        MediaError
            If times do not increase.
        """
        streams = [self._stream] if self._alone else self._container.streams
        for packet in self._container.demux(*streams):
            if packet.stream is not self._stream:
                self._note_end(packet)
                continue
            if self._stored is not None and packet.size:
                heapq.heappush(self._stored, packet.dts)
            for frame in packet.decode():
                yield frame, self._shown(frame)

    def _note_end(self, packet: Any) -> None:
        if packet.pts is not None:
            end = Fraction((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._others_end = max(self._others_end, end)

    def _shown(self, frame: Any) -> FrameTime:
        last = self._last
        pts = heapq.heappop(self._stored) if self._stored else frame.pts
        if pts is None:
            pts = (self._stream.start_time or 0) if last is None else last.pts + last.duration
        if last is not None and pts <= last.pts:
            raise MediaError(
                f"{self._path}: frame {self._count} is shown at {pts}, not after {last.pts}; "
                "remux the file first"
            )
        self._last = FrameTime(pts, frame.duration or self._usual)
        self._count += 1
        return self._last

    def check_end(self) -> None:
        """See that the file went on as long as it says.

        Raises
        ------
        MediaError
            If it ended before, or had no frame.
        """
        if self._last is None:
            raise MediaError(f"{self._path} has no frame that can be decoded")
        if self.length is None:
            return
        end = (self._last.pts + self._last.duration) * self._stream.time_base
        start = Fraction(0)
        if _WHOLE_LENGTH not in self._container.format.name:
            start = (self._stream.start_time or 0) * self._stream.time_base
        missing = float(start + self.length - max(end, self._others_end))
        if missing > max(_MISSING_SECONDS, _MISSING_PART * float(self.length)):
            raise MediaError(
                f"{self._path} ends after {self._count} frames, {missing:.2f} seconds before its "
                "length: it is truncated"
            )
