"""When frames are shown, and whether a video goes on as long as its file says."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error

from vramx.errors import MediaError

#: Containers that store frames in the order of decoding and say nothing of when they are shown.
_WITHOUT_TIMES = frozenset({"avi"})
#: Containers that tell the length of the whole alone, counted from zero.
_WHOLE_LENGTH = "matroska"
#: Codecs whose decoders leave out what they cannot decode and say nothing.
_FAILS_SILENTLY = frozenset({"hevc"})
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
    skips : bool
        Whether frames that are damaged are passed by; else they are an error.
    begin : int, optional
        What is shown before counts for nothing: a decoder that begins in the middle of a file lacks
        what some of those frames refer to.

    Attributes
    ----------
    length : Fraction or None
        How many seconds the video lasts, or the whole file if it tells only that.
    start, end : Fraction
        Where the file begins, and where it says that the video ends, in seconds.
    lost : list of Fraction
        When frames that were passed by would have been shown, in seconds.
    """

    def __init__(
        self,
        path: Path,
        container: Any,
        stream: Any,
        *,
        skips: bool = False,
        begin: int | None = None,
    ) -> None:
        self._path = path
        self._container = container
        self._stream = stream
        self._usual = max(1, round(1 / (frame_rate(stream) * stream.time_base)))
        self._stored: list[int] | None = [] if container.format.name in _WITHOUT_TIMES else None
        self._last: FrameTime | None = None
        self._count = 0
        self._others_end = Fraction(0)
        self._skips = skips
        self._begin = begin
        self._awaited: list[int] = []
        self._failed = stream.codec_context.name in _FAILS_SILENTLY
        self.lost: list[Fraction] = []
        self._alone = bool(stream.duration) and _WHOLE_LENGTH not in container.format.name
        self.length: Fraction | None = None
        if self._alone:
            self.length = Fraction(stream.duration * stream.time_base)
        elif container.duration:
            self.length = Fraction(container.duration, av.time_base)
        begins = [
            each.start_time * each.time_base
            for each in container.streams
            if each.start_time is not None
        ]
        self.start = max(min(begins, default=Fraction(0)), Fraction(0))
        own = Fraction(0)
        if _WHOLE_LENGTH not in container.format.name:
            own = (stream.start_time or 0) * stream.time_base
        self.end = own + (self.length or 0)

    @property
    def seekable(self) -> bool:
        """Whether times of frames are known without those before."""
        return self._stored is None

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
        for packet in self._packets():
            if packet.stream is not self._stream:
                self._note_end(packet)
                continue
            self._await(packet)
            for frame in self._decoded(packet):
                time = self._shown(frame)
                if frame.pts is not None:
                    self._note_lost(before=frame.pts)
                if frame.is_corrupt:
                    self._lose(time.pts)
                else:
                    yield frame, time
        self._note_lost(before=None)

    def _packets(self) -> Iterator[Any]:
        streams = [self._stream] if self._alone else self._container.streams
        packets = self._container.demux(*streams)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                if not self._skips:
                    raise
                return
            if packet is None:
                return
            yield packet

    def _await(self, packet: Any) -> None:
        if not packet.size:
            return
        if self._stored is not None:
            heapq.heappush(self._stored, packet.dts)
        elif packet.pts is not None and not packet.is_discard:
            heapq.heappush(self._awaited, packet.pts)

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = packet.decode()
        except av.error.FFmpegError:
            if not self._skips:
                raise
            self._failed = True
            if self._stored and packet.dts in self._stored:
                self._stored.remove(packet.dts)
                heapq.heapify(self._stored)
                self._lose(packet.dts)
            return []
        return frames

    def _note_lost(self, before: int | None) -> None:
        """Note what did not come out, although what is shown after it did."""
        while self._awaited and (before is None or self._awaited[0] <= before):
            pts = heapq.heappop(self._awaited)
            if pts != before and self._failed and self._last is not None and self._count > 1:
                self._lose(pts)

    def _lose(self, pts: int) -> None:
        if self._begin is not None and pts < self._begin:
            return
        time = Fraction(pts * self._stream.time_base)
        if not self._skips:
            raise MediaError(
                f"{self._path}: the frame at {float(time):.3f} s is damaged; "
                "on_corrupt='skip' leaves such frames out"
            )
        self.lost.append(time)

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
        missing = float(self.end - max(end, self._others_end))
        if missing <= max(_MISSING_SECONDS, _MISSING_PART * float(self.length)):
            return
        if self._skips:
            usual = self._usual * self._stream.time_base
            self.lost += [end + n * usual for n in range(round(missing / usual))]
        else:
            raise MediaError(
                f"{self._path} ends after {self._count} frames, {missing:.2f} seconds before its "
                "length: it is truncated"
            )
