"""A video through a function: decoding, computing and encoding at once, and going on after a stop.

A segment holds a fixed number of frames, counted from the first, which go through the function by
themselves, and has an encoder of its own. So its bytes depend on its own frames alone, and a job
that was stopped and goes on makes the same segments as one that was not: the finished ones are
kept, the one that was not is made anew.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import av.error

from vramx.errors import MediaError, StoppedError
from vramx.pipelines.files import TargetSize, check_paths, check_room, claimed
from vramx.pipelines.options import VideoOptions
from vramx.pipelines.span import Span
from vramx.pipelines.video.channel import Channel
from vramx.pipelines.video.clock import FrameTime
from vramx.pipelines.video.colours import Pixels
from vramx.pipelines.video.digests import SourceDigest
from vramx.pipelines.video.encoding import Encoding
from vramx.pipelines.video.joining import join
from vramx.pipelines.video.manifest import Segment
from vramx.pipelines.video.rehearsal import rehearse
from vramx.pipelines.video.segments import SegmentWriter
from vramx.pipelines.video.source import VideoSource
from vramx.pipelines.video.work_folder import WorkFolder, delete, finished
from vramx.progress import Meter, OnProgress
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


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    Attributes
    ----------
    frames : int
        How many frames the target has.
    size : (int, int)
        Their width and height.
    counts : mapping of str to int
        The sums of what was counted of the frames, those from before a stop included.
    lost : tuple of float
        When the source's frames that are damaged and left out would have been shown, in seconds
        from where it begins.
    """

    frames: int
    size: tuple[int, int]
    counts: Mapping[str, int]
    lost: tuple[float, ...] = ()


class _Stopped(Exception):  # noqa: N818 - it is no error
    """Ends the encoder, or the work, without a finished segment."""


def transform_video(
    source: str | Path,
    target: str | Path,
    transform: Transform,
    *,
    identity: Mapping[str, str],
    options: VideoOptions = VideoOptions(),
    size: TargetSize | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> VideoResult:
    """Run a video's frames through a function into another file.

    Frames are decoded and encoded on threads of their own while the calling thread computes; a few
    wait in between, so that memory does not grow with the video's length. Times of frames are kept;
    sound, subtitles and chapters are copied. Encoded segments gather in ``TARGET.parts`` and are
    joined at the end. When the job is stopped, the same call goes on with what is there.

    Parameters
    ----------
    source, target : str or Path
        What to read, and what to write: .mp4, .m4v, .mov, .mkv or .webm.
    transform : callable
        Takes an iterator of RGB frames, ``(height, width, 3)``, of dtype uint8, or of uint16 with
        white at 65535 where the source has more than 8 bits a colour, and yields one for each, in
        order, all of one size, as they are or `Counted`. It is called anew for each segment.
    identity : mapping of str to str
        What the function's results depend on; a job goes on only where that is the same.
    options : VideoOptions
        How the video is read and written.
    size : callable, optional
        Tells what size frames become, if that is known: a pixel format that cannot hold frames of
        that size is an error before the work, and so is a lack of room on the disk.
    overwrite : bool
        Whether the target may exist.
    on_progress : callable, optional
        Is told of the frames that are encoded, as a `vramx.Progress`, on a thread of the job's.
    stop : Stop, optional
        Ends the job between two frames.

    Returns
    -------
    VideoResult
        How many frames the target has, what was counted, and which frames were lost.

    Raises
    ------
    MediaError
        If a file cannot be read or written, there is no room for the target, or another process
        makes it. Finished segments stay.
    ConfigError
        If there is no such codec, option or pixel format, or the video does not last from `start`
        to `end`.
    StoppedError
        If it was asked to stop. Finished segments stay, and the same call goes on from them.
    """
    source, target = Path(source), Path(target)
    parts = target.with_name(target.name + ".parts")
    check_paths(source, target, overwrite=overwrite or finished(parts, target) is not None)
    video = VideoSource(source, options.deinterlace, options.on_corrupt, options.span)
    encoding = Encoding(options.codec, options.codec_options, video, options.pix_fmt)
    larger = 0.0
    if size is not None:
        rows, columns = video.upright_size
        width, height = size(columns, rows)
        larger = width * height / (columns * rows)
        encoding = replace(encoding, pix_fmt=encoding.pixel_format(height, width).name)
    encoding = rehearse(target, encoding)
    job = {
        **identity,
        "codec": options.codec,
        "options": str(sorted(options.codec_options.items())),
        "pix_fmt": options.pix_fmt or "the source's",
        "segment": str(options.segment),
        "deinterlace": options.deinterlace,
        "on_corrupt": options.on_corrupt,
        "start": video.span.start_text,
        "end": video.span.end_text,
    }
    with claimed(target), SourceDigest(source) as digest:
        if (left := finished(parts, target)) is not None:  # by a kill as it was deleted
            _delete(parts)
            if left.job == {**job, "source": digest.result()}:
                result = _result(left.segments, left.lost)
                Meter(on_progress, source.name, "frame", result.frames, result.frames)
                return _told(result, source, target)
        check_paths(source, target, overwrite=overwrite)  # another may just have made it
        work = WorkFolder(parts, job, digest.result)
        check_room(target, _least_bytes(video, work, larger))
        meter = Meter(on_progress, source.name, "frame", video.frame_count, work.frames)
        if not work.complete:
            try:
                _Run(work, encoding, options.segment, meter, stop or Stop()).through(transform)
            except _Stopped:
                raise _stopped(target, work) from None
            if digest.is_changed():
                delete(parts)
                raise MediaError(
                    f"{source} was changed while it was read, so that nothing of {target} is kept: "
                    "run again when it stays as it is"
                )
            work.finish(video.lost)
        join(work, encoding, target)
        result = _result(work.segments, work.lost)
        _delete(parts)
        meter.finish()
    return _told(result, source, target)


def _told(result: VideoResult, source: Path, target: Path) -> VideoResult:
    """Warn of what a result lacks."""
    if result.lost:
        warnings.warn(
            f"{target} lacks {len(result.lost)} frames of {source} that are damaged, the first at "
            f"{result.lost[0]:.3f} s",
            RuntimeWarning,
            stacklevel=3,
        )
    return result


def _least_bytes(video: VideoSource, work: WorkFolder, larger: float) -> int:
    """Tell what a target and its segments take, with a quarter of the source's bits a pixel.

    How much a part of a video has of its bytes is not known.
    """
    if video.span != Span():
        return 0
    enlarged = int(video.path.stat().st_size * larger / 4)
    return enlarged if work.complete else max(2 * enlarged - work.nbytes, 0)


def _stopped(target: Path, work: WorkFolder) -> StoppedError:
    done = work.frames
    kept = f"{done} frames are finished in {work.path}, from where the same call goes on"
    error = StoppedError(f"{target} was stopped: {kept if done else 'no segment was finished'}")
    error.done, error.kept = done, work.path if done else None
    return error


def _result(segments: Sequence[Segment], lost: Sequence[float]) -> VideoResult:
    size = segments[0].width, segments[0].height
    counts = sum((Counter(each.counts) for each in segments), Counter[str]())
    return VideoResult(sum(each.frames for each in segments), size, dict(counts), tuple(lost))


def _delete(parts: Path) -> None:
    try:
        delete(parts)
    except OSError as error:
        warnings.warn(
            f"{parts} cannot be deleted ({error}), which the finished video does not need",
            RuntimeWarning,
            stacklevel=3,
        )


class _Run:
    """One go at what is left of a video."""

    def __init__(
        self, work: WorkFolder, encoding: Encoding, segment: int, meter: Meter, stop: Stop
    ) -> None:
        self._work = work
        self._encoding = encoding
        self._segment = segment
        self._meter = meter
        self._stop = stop
        self._decoded: Channel[Frame] = Channel(_WAITING)
        self._made: Channel[tuple[FrameTime, Counted]] = Channel(_WAITING)
        self._failure: BaseException | None = None

    def through(self, transform: Transform) -> None:
        """Run the frames that no finished segment holds through a function."""
        threads = [
            threading.Thread(target=self._decode, name="vramx decoder"),
            threading.Thread(target=self._encode, name="vramx encoder"),
        ]
        try:
            for thread in threads:
                thread.start()
            self._compute(transform)
            self._made.end()
        except BaseException:
            self._made.end(_Stopped())
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
        number = self._work.frames
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

    def _check_stop(self) -> None:
        if self._stop.stopped:
            raise _Stopped

    def _decode(self) -> None:
        try:
            frames = self._encoding.source.frames()
            self._skip_finished(frames)
            for frame in frames:
                if not self._decoded.put(frame):
                    return
            self._decoded.end()
        except BaseException as error:  # it goes to the thread that takes the frames
            self._decoded.end(error)

    def _skip_finished(self, frames: Iterator[Frame]) -> None:
        """Pass by what is finished, counted, since only that is exact in every kind of file."""
        for segment in self._work.segments:
            last: FrameTime | None = None
            for _ in range(segment.frames):
                self._check_stop()
                last = next(frames, (None, None))[0]
            if last is None or last.pts != segment.last:
                raise MediaError(
                    f"{self._encoding.source.path} does not have the frames that "
                    f"{self._work.path / segment.file} was made from: delete {self._work.path} to "
                    "begin anew"
                )

    def _encode(self) -> None:
        writer: SegmentWriter | None = None
        try:
            counts: Counter[str] = Counter()
            for time, (picture, counted) in self._made:
                self._check_stop()
                if writer is None:
                    height, width = picture.shape[:2]
                    writer = SegmentWriter(self._work, self._encoding, height, width)
                    counts.clear()
                writer.add(time, picture)
                counts.update(counted)
                self._meter.add(1)
                if writer.frames == self._segment:
                    writer.finish(counts)
                    writer = None
            if writer is not None:
                writer.finish(counts)
                writer = None
        except _Stopped as stopped:  # by the token, or because the calling thread has ended
            self._failure = stopped
        except (av.error.FFmpegError, OSError) as error:
            failure = MediaError(
                f"{self._work.path} cannot be written: {error}. {self._work.frames} frames are "
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
