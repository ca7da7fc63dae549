"""The work folder of a video: finished segments, and a manifest that says what they hold."""

from __future__ import annotations

import fcntl
import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from vramx.errors import ConfigError, MediaError
from vramx.pipelines.files import written_whole
from vramx.pipelines.video.clock import FrameTime
from vramx.pipelines.video.opening import open_video
from vramx.pipelines.video.source import EXACT, Pixels, VideoSource

#: An encoder's output depends on how many threads it has: as many for frames of a height, whatever
#: the machine.
_FEWEST_THREADS, _MOST_THREADS, _ROWS_A_THREAD = 4, 24, 90


@dataclass(frozen=True)
class Segment:
    """A finished segment.

    Attributes
    ----------
    file : str
        Its name in the work folder.
    frames : int
        How many frames it holds.
    first, last : int
        When its first and last frames are shown, in units of the source's time base. In the file
        the first is shown at zero.
    counts : mapping of str to int
        Sums of what was counted of its frames.
    """

    file: str
    frames: int
    first: int
    last: int
    counts: Mapping[str, int] = field(default_factory=dict)


class WorkFolder:
    """A folder beside a target in which a job's segments gather. One process may use it at a time.

    Parameters
    ----------
    path : Path
        The folder; made if it is not there.
    job : mapping of str to str
        What the segments depend on.

    Raises
    ------
    MediaError
        If another process uses it, or it is another job's or damaged.
    """

    def __init__(self, path: Path, job: Mapping[str, str]) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.complete = False
        self._job = dict(job)
        self._manifest = path / "manifest.json"
        self._scope = ExitStack()

    def __enter__(self) -> WorkFolder:
        try:
            self.path.mkdir(exist_ok=True)
            self._lock()
            if self._manifest.exists():
                self._load()
            else:
                self._save()
        except OSError as error:
            self._scope.close()
            raise MediaError(f"{self.path} cannot be used as a work folder: {error}") from error
        except BaseException:
            self._scope.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope.close()

    def _lock(self) -> None:
        file = self._scope.enter_context((self.path / "lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MediaError(f"{self.path} is in use by another process") from None

    def _load(self) -> None:
        remedy = f"delete {self.path} to begin anew"
        try:
            content = json.loads(self._manifest.read_text(encoding="utf-8"))
            job, self.complete = content["job"], bool(content["complete"])
            self.segments = [Segment(**each) for each in content["segments"]]
        except (ValueError, KeyError, TypeError) as error:
            raise MediaError(f"{self._manifest} is damaged ({error}): {remedy}") from error
        differing = sorted(
            f"{key}: {job.get(key)} there, {self._job.get(key)} now"
            for key in {*job, *self._job}
            if job.get(key) != self._job.get(key)
        )
        if differing:
            raise MediaError(
                f"{self.path} holds part of another job ({'; '.join(differing)}): ask for the same "
                f"to go on with it, or {remedy}"
            )
        lost = [each.file for each in self.segments if not (self.path / each.file).is_file()]
        if lost:
            raise MediaError(f"{self.path} lacks {', '.join(lost)}: {remedy}")

    def _save(self) -> None:
        content = {
            "job": self._job,
            "complete": self.complete,
            "segments": [asdict(each) for each in self.segments],
        }
        with written_whole(self._manifest) as file:
            file.write(json.dumps(content, indent=1).encode())

    @property
    def frames(self) -> int:
        """How many frames the finished segments hold."""
        return sum(each.frames for each in self.segments)

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted of those frames, summed."""
        return dict(sum((Counter(each.counts) for each in self.segments), Counter()))

    def add(self, segment: Segment) -> None:
        """Note that a segment's file is finished."""
        self.segments.append(segment)
        self._save()

    def finish(self) -> None:
        """Note that there is no more to come."""
        self.complete = True
        self._save()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path)


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


class SegmentWriter:
    """Encodes one segment; its file is there once `finish` has returned.

    Parameters
    ----------
    work : WorkFolder
        Where to.
    encoding : Encoding
        How.
    height, width : int
        The frames' size.
    """

    def __init__(self, work: WorkFolder, encoding: Encoding, height: int, width: int) -> None:
        self._work = work
        self._encoding = encoding
        self._name = f"{len(work.segments):06}.{encoding.segment_format}"
        self._size = (height, width, 3)
        self._times: list[FrameTime] = []
        self._durations: dict[int, int] = {}
        scale = {"video_track_timescale": str(encoding.source.time_base.denominator)}
        with ExitStack() as scope:
            file = scope.enter_context(written_whole(work.path / self._name))
            self._container = scope.enter_context(
                av.open(file, "w", format=encoding.segment_format, container_options=scale)
            )
            self._stream = encoding.add_stream(self._container, height, width)
            self._scope = scope.pop_all()

    @property
    def frames(self) -> int:
        """How many frames it has been given."""
        return len(self._times)

    def add(self, time: FrameTime, pixels: Pixels) -> None:
        """Encode a frame."""
        if pixels.shape != self._size or pixels.dtype != np.uint8:
            raise MediaError(
                f"a frame became {pixels.dtype} of shape {pixels.shape} among {self._size} of uint8"
            )
        frame = self._encoding.frame(pixels, self._stream)
        frame.time_base = self._encoding.source.time_base
        self._times.append(time)
        frame.pts = time.pts - self._times[0].pts
        self._durations[frame.pts] = time.duration
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)

    def finish(self, counts: Mapping[str, int]) -> None:
        """Flush the encoder, put the file in its place and note it in the manifest."""
        self._mux(self._stream.encode(None))
        if self._durations:
            raise MediaError(f"the encoder kept {len(self._durations)} frames to itself")
        self._scope.close()
        first, last = self._times[0].pts, self._times[-1].pts
        self._work.add(Segment(self._name, len(self._times), first, last, dict(counts)))

    def drop(self) -> None:
        """Give the unfinished segment up."""
        error = InterruptedError("given up")
        # Closing what cannot be written fails; it is deleted all the same.
        with suppress(av.error.FFmpegError, OSError, ValueError):
            self._scope.__exit__(type(error), error, None)


def read_packets(work: WorkFolder, time_base: Fraction) -> Any:
    """Read the encoded frames of all segments, with the source's times.

    Parameters
    ----------
    work : WorkFolder
        The segments.
    time_base : Fraction
        The unit of times.

    Yields
    ------
    av.Packet
        In order.

    Raises
    ------
    MediaError
        If a segment does not hold what the manifest says, or differs in kind from the first.
    """
    header: bytes | None = None
    for segment in work.segments:
        path = work.path / segment.file
        count = 0
        with open_video(path) as container:
            stream = container.streams.video[0]
            header = header if header is not None else stream.codec_context.extradata
            if stream.codec_context.extradata != header:
                raise MediaError(f"{path} was encoded in another way than the segments before it")
            for packet in container.demux(stream):
                if packet.pts is None:
                    continue
                to_source = packet.time_base / time_base
                packet.duration = round(packet.duration * to_source)
                packet.pts = packet.dts = segment.first + round(packet.pts * to_source)
                packet.time_base = time_base
                count += 1
                yield packet
        if count != segment.frames:
            raise MediaError(f"{path} holds {count} frames instead of {segment.frames}")
