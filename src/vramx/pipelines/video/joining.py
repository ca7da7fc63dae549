"""Joining segments and what the source has beside its pictures to one file, as they are."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error

from vramx.errors import MediaError
from vramx.pipelines.files import VIDEO_FORMATS
from vramx.pipelines.video.beside import add_beside, packets_beside
from vramx.pipelines.video.opening import ffmpeg_name, open_video
from vramx.pipelines.video.segments import read_packets
from vramx.pipelines.video.source import VideoSource
from vramx.pipelines.video.work_folder import WorkFolder
from vramx.writing import written_whole

#: Containers whose streams' kinds are told by tags.
_TAGS = ("mp4", "mov")


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


def add_pictures(template: Any, source: VideoSource, container: Any) -> Any:
    """Add a stream for encoded pictures.

    Parameters
    ----------
    template : av.container.InputContainer
        A segment.
    source : VideoSource
        Whose times and rate it has.
    container : av.container.OutputContainer
        Nothing is written to it yet.

    Returns
    -------
    av.VideoStream
        The stream.
    """
    # The decoder's name is taken, since not each codec has an encoder of that name.
    video = container.add_stream_from_template(template.streams.video[0], opaque=True)
    video.time_base = source.time_base
    video.codec_context.framerate = source.rate
    if container.format.name in _TAGS and template.streams.video[0].codec_context.name == "hevc":
        video.codec_context.codec_tag = "hvc1"  # Apple's players take no other
    return video


def join(work: WorkFolder, source: VideoSource, target: Path) -> None:
    """Put the segments behind each other and the source's sound and subtitles beside them.

    Parameters
    ----------
    work : WorkFolder
        The segments, all there.
    source : VideoSource
        Where sound, subtitles, chapters and the times' unit come from.
    target : Path
        The file; it is there whole or not at all.

    Raises
    ------
    MediaError
        If it cannot be written. The segments stay.
    """
    try:
        with written_whole(target) as file:
            _join(work, source, Path(file.name), container_format(target))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{target} cannot be written: {error}. All frames are kept in {work.path}; run again "
            "to join them"
        ) from error


def _join(work: WorkFolder, source: VideoSource, file: Path, name: str) -> None:
    first = work.path / work.segments[0].file
    front = {"movflags": "+faststart"} if name in _TAGS else {}
    with (
        open_video(first) as template,
        source.opened() as original,
        # By its name, since FFmpeg reads it again to put the index in front.
        av.open(ffmpeg_name(file), "w", format=name, container_options=front) as container,
    ):
        container.metadata.update(source.metadata)
        video = add_pictures(template, source, container)
        streams, _ = add_beside(original, container)
        pictures = _to(video, read_packets(work, source.time_base))
        beside = packets_beside(original, streams)
        for packet in heapq.merge(pictures, beside, key=_seconds):
            container.mux(packet)


def _to(stream: Any, packets: Iterator[Any]) -> Iterator[Any]:
    for packet in packets:
        packet.stream = stream
        yield packet


def _seconds(packet: Any) -> float:
    return float(packet.dts * packet.time_base)
