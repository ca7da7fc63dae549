"""Joining segments and what the source has beside its pictures to one file, as they are."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error

from vramx.errors import MediaError
from vramx.pipelines.files import VIDEO_FORMATS
from vramx.pipelines.video.beside import Cut, add_beside, packets_beside
from vramx.pipelines.video.encoding import Encoding
from vramx.pipelines.video.opening import ffmpeg_name, open_video
from vramx.pipelines.video.pixel_formats import describe
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


def open_target(file: Path | BinaryIO, name: str) -> Any:
    """Open a target; a context manager.

    Parameters
    ----------
    file : Path or file
        What it is, or where it is written for a trial.
    name : str
        FFmpeg's name of the format.

    Returns
    -------
    av.container.OutputContainer
        A file has its index in front, and a track of time codes if its pictures' stream says one.
    """
    options = {"write_tmcd": "1"} if name in _TAGS else {}
    if not isinstance(file, Path):
        return av.open(file, "w", format=name, container_options=options)
    if name in _TAGS:  # by the file's name, since FFmpeg reads it again to put the index in front
        options["movflags"] = "+faststart"
    return av.open(ffmpeg_name(file), "w", format=name, container_options=options)


def add_pictures(template: Any, encoding: Encoding, container: Any) -> Any:
    """Add a stream for encoded pictures.

    Parameters
    ----------
    template : av.container.InputContainer
        A segment.
    encoding : Encoding
        How they were encoded.
    container : av.container.OutputContainer
        Nothing is written to it yet.

    Returns
    -------
    av.VideoStream
        The stream.
    """
    # The decoder's name is taken, since not each codec has an encoder of that name.
    video = container.add_stream_from_template(template.streams.video[0], opaque=True)
    context, source = video.codec_context, encoding.source
    video.time_base = source.time_base
    context.framerate = source.rate
    # Said of the file, since not each codec says it of itself, and segments may have no place.
    pixels = describe(context.format)
    context.color_range = encoding.color_range(pixels)
    context.colorspace = 0 if pixels.rgb else source.colorspace
    context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
    video.metadata.update(source.said)
    video.disposition = source.disposition
    if container.format.name in _TAGS and template.streams.video[0].codec_context.name == "hevc":
        context.codec_tag = "hvc1"  # Apple's players take no other
    return video


def join(work: WorkFolder, encoding: Encoding, target: Path) -> None:
    """Put the segments behind each other and the source's sound and subtitles beside them.

    Parameters
    ----------
    work : WorkFolder
        The segments, all there.
    encoding : Encoding
        How they were encoded, and from what sound, subtitles and chapters come.
    target : Path
        The file; it is there whole or not at all.

    Raises
    ------
    MediaError
        If it cannot be written. The segments stay.
    """
    try:
        with written_whole(target) as file:
            _join(work, encoding, Path(file.name), container_format(target))
            work.note_target(Path(file.name))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{target} cannot be written: {error}. All frames are kept in {work.path}; run again "
            "to join them"
        ) from error


def _join(work: WorkFolder, encoding: Encoding, file: Path, name: str) -> None:
    source = encoding.source
    first = work.path / work.segments[0].file
    with (
        open_video(first) as template,
        source.opened() as original,
        open_target(file, name) as container,
    ):
        container.metadata.update(source.metadata)
        video = add_pictures(template, encoding, container)
        cut = _cut(work, source)
        streams = add_beside(source, original, container, cut).streams
        begin = round((cut.begin or 0) / source.time_base)
        pictures = _to(video, read_packets(work, source.time_base, begin))
        beside = packets_beside(original, streams, cut)
        for packet in heapq.merge(pictures, beside, key=_seconds):
            container.mux(packet)


def _cut(work: WorkFolder, source: VideoSource) -> Cut:
    """Return the part of the source that the pictures are of, from its first one on."""
    span = source.span
    begin = work.segments[0].first * source.time_base if span.start is not None else None
    return Cut(begin, None if span.end is None else source.begin + span.end)


def _to(stream: Any, packets: Iterator[Any]) -> Iterator[Any]:
    for packet in packets:
        packet.stream = stream
        yield packet


def _seconds(packet: Any) -> float:
    return float(packet.dts * packet.time_base)
