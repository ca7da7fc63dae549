"""Segments of a video made: decoding, computing and encoding at once, each on a thread."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import av.error

from vramx.errors import MediaError
from vramx.pipelines.video.channel import Channel
from vramx.pipelines.video.clock import FrameTime
from vramx.pipelines.video.colours import Pixels
from vramx.pipelines.video.encoding import Encoding
from vramx.pipelines.video.manifest import Segment
from vramx.pipelines.video.segments import SegmentWriter
from vramx.stopping import Stop

Frame = tuple[FrameTime, Pixels]

#: Frames that wait on either side of the device.
_WAITING = 4


class Counted(NamedTuple):
    """A frame, and what is to be counted of it."""

    pixels: Pixels
    counts: Mapping[str, int]


class SegmentFrames:
    """The frames of a segment, as an iterator.

    Attributes
    ----------
    first : int
        The number of its first frame in the video, from 0.
    """

    def __init__(self, frames: Iterator[Frame], first: int) -> None:
        self.first = first
        self.times: deque[FrameTime] = deque()  # of frames that were read and did not come back
        self._frames = frames

    def __iter__(self) -> SegmentFrames:
        return self

    def __next__(self) -> Pixels:
        time, picture = next(self._frames)
        self.times.append(time)
        return picture


Transform = Callable[[SegmentFrames], Iterable[Pixels | Counted]]
#: Calls what it is given with the function that frames go through, where and when that may run.
Compute = Callable[[Callable[[Transform], None]], object]


class Stopped(Exception):  # noqa: N818 - it is no error
    """Ends the encoder, or the work, without a finished segment."""


def check_stop(stop: Stop) -> None:
    """Raise `Stopped` if it was asked to stop."""
    if stop.stopped:
        raise Stopped


class Run:
    """One go at consecutive segments of a video.

    Parameters
    ----------
    folder : Path
        Where segments are written.
    encoding : Encoding
        How.
    segment : int
        Frames a segment.
    number : int
        The first segment's number in the video, from 0.
    frames : callable
        Returns the frames from there on; called on the thread that decodes.
    on_segment, on_frame : callable
        Called with each finished `Segment`, and after each encoded frame, on the thread that
        encodes.
    stop : Stop
        Ends it between two frames.
    """

    def __init__(
        self,
        folder: Path,
        encoding: Encoding,
        segment: int,
        number: int,
        frames: Callable[[], Iterable[Frame]],
        on_segment: Callable[[Segment], object],
        on_frame: Callable[[], object],
        stop: Stop,
    ) -> None:
        self._folder = folder
        self._encoding = encoding
        self._segment = segment
        self._number = number
        self._frames = frames
        self._on_segment, self._on_frame = on_segment, on_frame
        self._stop = stop
        self._decoded: Channel[Frame] = Channel(_WAITING)
        self._made: Channel[tuple[FrameTime, Counted]] = Channel(_WAITING)
        self._failure: BaseException | None = None

    def through(self, compute: Compute) -> None:
        """Run the frames through a function.

        Parameters
        ----------
        compute : callable
            Brings the function, which is as of `transform_video`. The first frames are decoded
            before it does.

        Raises
        ------
        Stopped
            If it was asked to stop.
        MediaError
            If a segment cannot be written, or the function gives other frames than it should.
        """
        threads = [
            threading.Thread(target=self._decode, name="vramx decoder"),
            threading.Thread(target=self._encode, name="vramx encoder"),
        ]
        try:
            for thread in threads:
                thread.start()
            compute(self._compute)
            self._made.end()
        except BaseException:
            self._made.end(Stopped())
            raise
        finally:
            self._decoded.leave()
            for thread in threads:
                if thread.ident is not None:  # an interrupt may come before all are started
                    thread.join()
        if self._failure is not None:
            raise self._failure

    def _compute(self, transform: Transform) -> None:
        frames = iter(self._decoded)
        number = self._number * self._segment
        for first in frames:
            segment = SegmentFrames(chain([first], islice(frames, self._segment - 1)), number)
            if not self._compute_segment(transform, segment):
                return
            number += self._segment

    def _compute_segment(self, transform: Transform, frames: SegmentFrames) -> bool:
        """Tell whether the encoder is still there."""
        times = frames.times
        for result in transform(frames):
            if not times:
                raise MediaError("more frames came back than went in")
            made = result if isinstance(result, Counted) else Counted(result, {})
            if not self._made.put((times.popleft(), made)):
                return False
        if times:
            raise MediaError(f"{len(times)} frames fewer came back than went in")
        return True

    def _decode(self) -> None:
        try:
            for frame in self._frames():
                if not self._decoded.put(frame):
                    return
            self._decoded.end()
        except BaseException as error:  # it goes to the thread that takes the frames
            self._decoded.end(error)

    def _encode(self) -> None:
        writer: SegmentWriter | None = None
        try:
            counts: Counter[str] = Counter()
            for time, (picture, counted) in self._made:
                check_stop(self._stop)
                if writer is None:
                    height, width = picture.shape[:2]
                    writer = SegmentWriter(
                        self._folder, self._number, self._encoding, height, width
                    )
                    counts.clear()
                writer.add(time, picture)
                counts.update(counted)
                self._on_frame()
                if writer.frames == self._segment:
                    self._finish(writer, counts)
                    writer = None
            if writer is not None:
                self._finish(writer, counts)
                writer = None
        except Stopped as stopped:  # by the token, or because the calling thread has ended
            self._failure = stopped
        except (av.error.FFmpegError, OSError) as error:
            failure = MediaError(
                f"{self._folder} cannot be written: {error}. The segments before are "
                "finished there; run again to go on"
            )
            failure.__cause__ = error
            self._failure = failure
        except BaseException as error:  # it goes to the calling thread
            self._failure = error
        finally:
            self._made.leave()
            if writer is not None:
                writer.drop()

    def _finish(self, writer: SegmentWriter, counts: Counter[str]) -> None:
        self._on_segment(writer.finish(counts))
        self._number += 1
