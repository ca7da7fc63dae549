"""Joining segments and the source's audio to one file, without encoding anything again."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error

from vramx.errors import MediaError
from vramx.pipelines.files import VIDEO_FORMATS, written_whole
from vramx.pipelines.video.opening import open_video
from vramx.pipelines.video.segments import Encoding, WorkFolder, read_packets
from vramx.pipelines.video.source import VideoSource


def container_format(target: Path) -> str:
    """Tell which container a file's suffix names.

    Parameters
    ----------
    target : Path
        The file.

    Returns
    -------
    str
        FFmpeg's name of the format.

    Raises
    ------
    MediaError
        If it names none of those that are written.
    """
    try:
        return VIDEO_FORMATS[target.suffix.lower()]
    except KeyError:
        known = ", ".join(VIDEO_FORMATS)
        raise MediaError(f"{target}: {target.suffix!r} is not one of {known}") from None


def check_container(target: Path, encoding: Encoding) -> None:
    """See that a target's format takes the video and the source's audio, before any work.

    Parameters
    ----------
    target : Path
        The file; it is not touched.
    encoding : Encoding
        How the video will be encoded.

    Raises
    ------
    MediaError
        If it does not.
    """
    name = container_format(target)
    with encoding.source.opened() as source:
        audio = source.streams.audio
        try:
            with av.open(io.BytesIO(), "w", format=name) as container:
                encoding.add_stream(container, 64, 64)
                for stream in audio:
                    container.add_stream_from_template(stream)
                container.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            kinds = ", ".join([encoding.codec, *(each.codec_context.name for each in audio)])
            raise MediaError(f"{target} cannot hold {kinds} ({error}): try .mkv") from error


def join(work: WorkFolder, source: VideoSource, target: Path) -> None:
    """Put the segments behind each other and the source's audio beside them.

    Parameters
    ----------
    work : WorkFolder
        The segments, all there.
    source : VideoSource
        Where the audio and the times' unit come from.
    target : Path
        The file; it is there whole or not at all.

    Raises
    ------
    MediaError
        If it cannot be written. The segments stay.
    """
    try:
        with written_whole(target) as file:
            _join(work, source, file, container_format(target))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{target} cannot be written: {error}. All frames are kept in {work.path}; run again "
            "to join them"
        ) from error


def _join(work: WorkFolder, source: VideoSource, file: BinaryIO, name: str) -> None:
    first = work.path / work.segments[0].file
    with (
        open_video(first) as template,
        source.opened() as original,
        av.open(file, "w", format=name) as container,
    ):
        container.metadata.update(source.metadata)
        # The template's decoder is taken, since not each codec's encoder has its name.
        video = container.add_stream_from_template(template.streams.video[0], opaque=True)
        video.time_base = source.time_base
        video.codec_context.framerate = source.rate
        audio = {
            stream.index: container.add_stream_from_template(stream)
            for stream in original.streams.audio
        }
        pictures = _to(video, read_packets(work, source.time_base))
        sounds = _sounds(original, audio)
        for packet in heapq.merge(pictures, sounds, key=_seconds):
            container.mux(packet)


def _to(stream: Any, packets: Iterator[Any]) -> Iterator[Any]:
    for packet in packets:
        packet.stream = stream
        yield packet


def _sounds(original: Any, streams: dict[int, Any]) -> Iterator[Any]:
    if not streams:
        return
    for packet in original.demux(*original.streams.audio):
        if packet.dts is not None:
            packet.stream = streams[packet.stream_index]
            yield packet


def _seconds(packet: Any) -> float:
    return float(packet.dts * packet.time_base)
