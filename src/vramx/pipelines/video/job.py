"""A video through a function: decoding, computing and encoding at once, and going on after a stop.

A segment holds a fixed number of frames, counted from the first, which go through the function by
themselves, and has an encoder of its own. So its bytes depend on its own frames alone, and a job
that was stopped and goes on makes the same segments as one that was not: the finished ones are
kept, the one that was not is made anew.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from vramx.errors import MediaError, StoppedError
from vramx.pipelines.files import TargetSize, check_paths, check_room, claimed
from vramx.pipelines.options import VideoOptions
from vramx.pipelines.span import Span
from vramx.pipelines.video.clock import FrameTime
from vramx.pipelines.video.digests import SourceDigest
from vramx.pipelines.video.encoding import Encoding
from vramx.pipelines.video.joining import join
from vramx.pipelines.video.manifest import Segment
from vramx.pipelines.video.rehearsal import rehearse
from vramx.pipelines.video.running import Frame, Run, Stopped, Transform, check_stop
from vramx.pipelines.video.source import VideoSource
from vramx.pipelines.video.work_folder import WorkFolder, delete, finished
from vramx.progress import Meter, OnProgress
from vramx.stopping import Stop


class VideoChange(NamedTuple):
    """What becomes of a video's frames.

    Attributes
    ----------
    transform : callable
        What makes them, as of `transform_video`.
    identity : mapping of str to str
        What its results depend on.
    size : callable
        Tells what size frames become.
    """

    transform: Transform
    identity: Mapping[str, str]
    size: TargetSize


#: Makes the segments that a work folder lacks.
Maker = Callable[[WorkFolder, Encoding, Meter, Stop], object]


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

    def make(work: WorkFolder, encoding: Encoding, meter: Meter, stop: Stop) -> None:
        Run(
            work.path,
            encoding,
            options.segment,
            len(work.segments),
            lambda: _unfinished(work, encoding.source, stop),
            work.add,
            lambda: meter.add(1),
            stop,
        ).through(lambda compute: compute(transform))

    return make_video(
        Path(source),
        Path(target),
        make,
        identity=identity,
        options=options,
        size=size,
        overwrite=overwrite,
        on_progress=on_progress,
        stop=stop,
        in_order=True,
    )


def make_video(
    source: Path,
    target: Path,
    make: Maker,
    *,
    identity: Mapping[str, str],
    options: VideoOptions,
    size: TargetSize | None,
    overwrite: bool,
    on_progress: OnProgress | None,
    stop: Stop | None,
    in_order: bool = False,
) -> VideoResult:
    """Make a video of segments, however those are made; see `transform_video`.

    Parameters
    ----------
    make : callable
        Makes the segments that a work folder lacks and adds them to it, encoded as it is told; it
        counts frames, and raises `Stopped` if it was asked to stop.
    source, target, identity, options, size, overwrite, on_progress, stop
        As of `transform_video`.
    in_order : bool
        Whether it goes through all frames in order, so that segments which were finished ahead of
        others are made anew.

    Returns
    -------
    VideoResult
        As `transform_video`, which also says what is raised.
    """
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
        if in_order:
            work.ahead.clear()
        check_room(target, _least_bytes(video, work, larger))
        meter = Meter(on_progress, source.name, "frame", video.frame_count, work.frames)
        if not work.complete:
            try:
                make(work, encoding, meter, stop or Stop())
            except Stopped:
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


def _unfinished(work: WorkFolder, source: VideoSource, stop: Stop) -> Iterator[Frame]:
    """Pass by what is finished, counted, since only that is exact in every kind of file."""
    frames = source.frames()
    for segment in work.segments:
        last: FrameTime | None = None
        for _ in range(segment.frames):
            check_stop(stop)
            last = next(frames, (None, None))[0]
        if last is None or last.pts != segment.last:
            raise MediaError(
                f"{source.path} does not have the frames that {work.path / segment.file} was made "
                f"from: delete {work.path} to begin anew"
            )
    yield from frames


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
