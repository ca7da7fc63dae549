"""What goes with a video's pictures from the source to the target as it is: sound, subtitles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def add_beside(original: Any, container: Any) -> tuple[dict[int, Any], list[str]]:
    """Add streams for a source's sound and subtitles, and its chapters.

    Parameters
    ----------
    original : av.container.InputContainer
        The source.
    container : av.container.OutputContainer
        Nothing is written to it yet.

    Returns
    -------
    dict of int to av.stream.Stream
        The added streams, by the index of the source's.
    list of str
        The subtitles that the container cannot hold, in words.

    Raises
    ------
    ValueError
        If it cannot hold the sound.
    """
    added = {each.index: _add(each, container) for each in original.streams.audio}
    left = []
    for each in original.streams.subtitles:
        try:
            added[each.index] = _add(each, container)
        except ValueError:
            kind = kind_of(each)
            left.append(f"{each.language} in {kind}" if each.language else kind)
    container.set_chapters(original.chapters())
    return added, left


def _add(template: Any, container: Any) -> Any:
    stream = container.add_stream_from_template(template)
    stream.metadata.update(template.metadata)
    stream.disposition = template.disposition
    return stream


def kind_of(stream: Any) -> str:
    """Return the name of a stream's codec, if FFmpeg knows it."""
    return stream.codec_context.name if stream.codec_context else "an unknown codec"


def packets_beside(original: Any, streams: dict[int, Any]) -> Iterator[Any]:
    """Read the packets of the streams that were added.

    Parameters
    ----------
    original : av.container.InputContainer
        The source.
    streams : dict of int to av.stream.Stream
        As `add_beside` gave them.

    Yields
    ------
    av.Packet
        As they are, each with its stream in the target.
    """
    if not streams:
        return
    for packet in original.demux(*(original.streams[index] for index in streams)):
        if packet.dts is not None:
            packet.stream = streams[packet.stream_index]
            yield packet
