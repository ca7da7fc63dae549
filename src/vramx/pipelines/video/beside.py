"""What goes with a video's pictures from the source to the target as it is: sound, subtitles."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.error
from av.stream import Disposition

from vramx.pipelines.video.source import VideoSource

#: The container whose files hold others.
_HOLDS_FILES = "matroska"
#: Containers that show a picture for the file.
_HOLDS_COVERS = ("mp4",)


class Beside(NamedTuple):
    """What was added to a target.

    Attributes
    ----------
    streams : dict of int to av.stream.Stream
        The added streams, by the index of the source's.
    subtitles_left, left : list of str
        The subtitles that the container cannot hold, and what else, in words.
    """

    streams: dict[int, Any]
    subtitles_left: list[str]
    left: list[str]


class Cut(NamedTuple):
    """The part of a source that is kept, in seconds.

    Attributes
    ----------
    begin : Fraction or None
        What becomes zero, if not all is kept up to the end.
    end : Fraction or None
        Where it ends, if before the source does.
    """

    begin: Fraction | None = None
    end: Fraction | None = None

    def place(self, packet: Any) -> bool:
        """Give a packet its time in the target; tell whether it has one.

        Sound is kept in whole packets. A subtitle that is shown as the part begins is kept too.
        """
        time, lasts = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
        if self.end is not None and time >= self.end:
            return False
        begin = time if self.begin is None else self.begin
        late = max(begin - time, Fraction(0))
        if late > 0 and (packet.stream.type != "subtitle" or late >= lasts):
            return False
        shift = round(((self.begin or 0) - late) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        if packet.stream.type == "subtitle" and lasts:
            ends = time + lasts if self.end is None else min(time + lasts, self.end)
            packet.duration = round((ends - time - late) / packet.time_base)
        return True

    def chapters(self, chapters: list[Any]) -> list[Any]:
        """Return the chapters that the part has something of, at their times in it."""
        kept = []
        begin = self.begin or Fraction(0)
        for each in chapters:
            unit = each["time_base"]
            first, last = each["start"] * unit, each["end"] * unit
            if last <= begin or (self.end is not None and first >= self.end):
                continue
            last = last if self.end is None else min(last, self.end)
            start = round((max(first, begin) - begin) / unit)
            kept.append({**each, "start": start, "end": round((last - begin) / unit)})
        return kept


_WHOLE = Cut()


def add_beside(source: VideoSource, original: Any, container: Any, cut: Cut = _WHOLE) -> Beside:
    """Add all that a source has beside its pictures, as far as a container can hold it.

    Parameters
    ----------
    source : VideoSource
        The source.
    original : av.container.InputContainer
        The same, opened.
    container : av.container.OutputContainer
        Nothing is written to it yet.
    cut : Cut
        Which part of the source is kept.

    Returns
    -------
    Beside
        What was added, and what could not be.

    Raises
    ------
    ValueError
        If it cannot hold the sound.
    """
    streams = {each.index: _add(each, container) for each in original.streams.audio}
    subtitles_left = []
    for each in original.streams.subtitles:
        try:
            streams[each.index] = _add(each, container)
        except ValueError:
            kind = kind_of(each)
            subtitles_left.append(f"{each.language} in {kind}" if each.language else kind)
    left = []
    for each in original.streams:
        if each.type in ("audio", "subtitle") or each.index == source.index:
            continue
        name = container.format.name
        if is_timecode(each):
            continue  # it is written from what the pictures' stream says
        if each.type == "attachment" and name == _HOLDS_FILES:
            container.add_attachment(each.name or "file", each.mimetype or "", each.data or b"")
        elif is_cover(each) and name == _HOLDS_FILES:
            _attach_cover(source, each, container)
        elif (is_cover(each) and name in _HOLDS_COVERS) or (
            each.type == "data" and _takes(name, each)
        ):
            streams[each.index] = _add(each, container)
        else:
            left.append(_described(each))
    container.set_chapters(cut.chapters(original.chapters()))
    return Beside(streams, subtitles_left, left)


def is_cover(stream: Any) -> bool:
    """Tell whether a stream is a picture that stands for the file."""
    return bool(stream.type == "video" and stream.disposition & Disposition.attached_pic)


def is_timecode(stream: Any) -> bool:
    """Tell whether a stream is the timecode that the pictures' stream says too."""
    return stream.type == "data" and "timecode" in stream.metadata


def _takes(name: str, stream: Any) -> bool:
    """Tell whether a container takes a stream of data, which it says as its header is written."""
    try:
        with av.open(io.BytesIO(), "w", format=name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _attach_cover(source: VideoSource, stream: Any, container: Any) -> None:
    with source.opened() as again:
        picture = bytes(next(again.demux(again.streams[stream.index])))
    kind = kind_of(stream).replace("mjpeg", "jpeg")
    name = stream.metadata.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
    container.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), picture)


def _described(stream: Any) -> str:
    if stream.type == "attachment":
        return f"the attachment {stream.name}"
    if is_cover(stream):
        return "a cover picture"
    said = stream.metadata.get("handler_name") or stream.metadata.get("title")
    which = f"stream {stream.index} of {stream.type or 'an unknown kind'}"
    return f"{which} ({said})" if said else which


def _add(template: Any, container: Any) -> Any:
    stream = container.add_stream_from_template(template, opaque=True)
    stream.metadata.update(template.metadata)
    stream.disposition = template.disposition
    return stream


def kind_of(stream: Any) -> str:
    """Return the name of a stream's codec, if FFmpeg knows it."""
    return stream.codec_context.name if stream.codec_context else "an unknown codec"


def packets_beside(original: Any, streams: dict[int, Any], cut: Cut = _WHOLE) -> Iterator[Any]:
    """Read the packets of the streams that were added.

    Parameters
    ----------
    original : av.container.InputContainer
        The source.
    streams : dict of int to av.stream.Stream
        As `add_beside` gave them.
    cut : Cut
        Which part of the source is kept.

    Yields
    ------
    av.Packet
        As they are, each with its stream and its time in the target.
    """
    if not streams:
        return
    for packet in original.demux(*(original.streams[index] for index in streams)):
        if is_cover(packet.stream) and packet.size:
            packet.pts = packet.dts = 0
        elif packet.dts is None or (cut != _WHOLE and not cut.place(packet)):
            continue
        packet.stream = streams[packet.stream_index]
        yield packet
