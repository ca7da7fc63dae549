"""When a video's frames are shown and where each can be decoded from, without decoding any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import av.error

from vramx.errors import MediaError
from vramx.pipelines.video.clock import Clock
from vramx.pipelines.video.opening import reason
from vramx.pipelines.video.source import UnindexedError, VideoSource


class IndexedFrame(NamedTuple):
    """A frame by what its file says of it.

    Attributes
    ----------
    pts : int
        When it is shown, in units of the stream's time base.
    key : int
        The place of a key frame from which on it can be decoded, and all that is shown after it.
    """

    pts: int
    key: int


class Stored(NamedTuple):
    """A frame as it is stored.

    Attributes
    ----------
    pts : int
        When it is shown.
    place : int
        What leads to it when seeking: its time of decoding.
    is_key : bool
        Whether it refers to no other.
    """

    pts: int
    place: int
    is_key: bool


def read_index(source: VideoSource) -> list[IndexedFrame]:
    """Read which frames the span of a video has.

    Parameters
    ----------
    source : VideoSource
        The video.

    Returns
    -------
    list of IndexedFrame
        In the order in which they are shown.

    Raises
    ------
    UnindexedError
        If the file does not say when each frame is shown.
    MediaError
        If it cannot be read.
    """
    stored: list[Stored] = []
    unknown = UnindexedError(f"{source.path} does not say when each of its frames is shown")
    with source.opened() as container:
        stream = container.streams[source.index]
        if not Clock(source.path, container, stream).seekable:
            raise unknown
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    raise unknown
                place = packet.pts if packet.dts is None else packet.dts
                stored.append(Stored(packet.pts, place, packet.is_keyframe))
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"{source.path} cannot be read: {reason(error)}") from error
    frames = [each for each in indexed(stored) if source.is_within(each.pts)]
    if len({each.pts for each in frames}) < len(frames):
        raise unknown
    return frames


def indexed(stored: Sequence[Stored]) -> list[IndexedFrame]:
    """Find for each frame the last key frame that it, and all shown after it, can do with.

    That key frame is stored before all of them, and is not shown after any: frames that are stored
    behind a key frame and shown before it may refer to what is before it.

    Parameters
    ----------
    stored : sequence of Stored
        In the order in which they are stored.

    Returns
    -------
    list of IndexedFrame
        In the order in which they are shown; those before the first key frame are left out.
    """
    keys = [(number, each) for number, each in enumerate(stored) if each.is_key]
    order = sorted(range(len(stored)), key=lambda number: stored[number].pts)
    found: list[IndexedFrame] = []
    earliest = len(stored)  # where the first is stored of those that are shown from here on
    for number in reversed(order):
        earliest = min(earliest, number)
        pts = stored[number].pts
        while keys and (keys[-1][0] > earliest or keys[-1][1].pts > pts):
            keys.pop()
        if not keys:
            break
        found.append(IndexedFrame(pts, keys[-1][1].place))
    return found[::-1]
