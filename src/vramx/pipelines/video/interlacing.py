"""Interlaced frames, which hold two fields of different moments, made whole pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import av.error
import av.filter

T = TypeVar("T")


class Deinterlacer(Generic[T]):
    """Passes frames through FFmpeg's bwdif, which changes those that are marked as interlaced.

    The filter sees a frame's neighbours, so a frame comes out after the next one went in. Each is
    given back with what it came with, since the filter has times of its own.

    Parameters
    ----------
    frame : av.VideoFrame
        The first of them, whose format all have.
    """

    def __init__(self, frame: Any) -> None:
        self._waiting: deque[T] = deque()
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(template=frame)
        filters = self._graph.add("bwdif", mode="send_frame", deint="interlaced")
        self._graph.link_nodes(source, filters, self._graph.add("buffersink")).configure()

    def put(self, frame: Any, beside: T) -> Iterator[tuple[Any, T]]:
        """Put a frame in, and take what is done."""
        self._waiting.append(beside)
        self._graph.vpush(frame)
        return self._take()

    def end(self) -> Iterator[tuple[Any, T]]:
        """Take what is left."""
        self._graph.vpush(None)
        return self._take()

    def _take(self) -> Iterator[tuple[Any, T]]:
        while True:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield frame, self._waiting.popleft()
