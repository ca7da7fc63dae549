"""Encoded segments of a video, each a file by itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from vramx.errors import MediaError
from vramx.pipelines.video.clock import FrameTime
from vramx.pipelines.video.colours import Pixels
from vramx.pipelines.video.digests import digest_of_own
from vramx.pipelines.video.encoding import Encoding
from vramx.pipelines.video.manifest import Segment, segment_name
from vramx.pipelines.video.opening import open_video
from vramx.pipelines.video.work_folder import WorkFolder
from vramx.writing import written_whole


class SegmentWriter:
    """Encodes one segment; its file is there once `finish` has returned.

    Parameters
    ----------
    folder : Path
        Where to.
    number : int
        Its number in the video, from 0.
    encoding : Encoding
        How.
    height, width : int
        The frames' size.
    """

    def __init__(
        self, folder: Path, number: int, encoding: Encoding, height: int, width: int
    ) -> None:
        self._encoding = encoding
        self._path = folder / segment_name(number, encoding.segment_format)
        self._size = (height, width, 3)
        self._times: list[FrameTime] = []
        self._durations: dict[int, int] = {}
        scale = {"video_track_timescale": str(encoding.source.time_base.denominator)}
        with ExitStack() as scope:
            file = scope.enter_context(written_whole(self._path))
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
        if pixels.shape != self._size or pixels.dtype not in (np.uint8, np.uint16):
            raise MediaError(
                f"a frame became {pixels.dtype} of shape {pixels.shape} among {self._size} of "
                "uint8 or uint16"
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

    def finish(self, counts: Mapping[str, int]) -> Segment:
        """Flush the encoder, put the file in its place, and tell what is to be noted of it."""
        self._mux(self._stream.encode(None))
        if self._durations:
            raise MediaError(f"the encoder kept {len(self._durations)} frames to itself")
        self._scope.close()
        height, width, _ = self._size
        return Segment(
            self._path.name,
            frames=len(self._times),
            first=self._times[0].pts,
            last=self._times[-1].pts,
            width=width,
            height=height,
            digest=digest_of_own(self._path),
            counts=dict(counts),
        )

    def drop(self) -> None:
        """Give the unfinished segment up."""
        error = InterruptedError("given up")
        # Closing what cannot be written fails; it is deleted all the same.
        with suppress(av.error.FFmpegError, OSError, ValueError):
            self._scope.__exit__(type(error), error, None)


def read_packets(work: WorkFolder, time_base: Fraction, begin: int) -> Any:
    """Read the encoded frames of all segments, with the source's times.

    Parameters
    ----------
    work : WorkFolder
        The segments.
    time_base : Fraction
        The unit of times.
    begin : int
        What of the source's times is zero.

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
                packet.pts = packet.dts = segment.first - begin + round(packet.pts * to_source)
                packet.time_base = time_base
                count += 1
                yield packet
        if count != segment.frames:
            raise MediaError(f"{path} holds {count} frames instead of {segment.frames}")
