"""Running a network band by band, each row of each layer once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from vramx.pipelines.upscaling.layers import Layer, Resized, RowGraph
from vramx.pipelines.upscaling.schedule import Order, Step, is_tail

#: Takes the first row's number and rows ``(n, channels, rows, width)`` of what the network gives.
Emit = Callable[[int, torch.Tensor], None]


class _NoPaddingAbove(TorchFunctionMode):
    """Has convolutions pad sideways alone: rows above and below are given."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            x, weight, bias, stride, padding, *rest = args
            args = (x, weight, bias, stride, (0, padding[1]), *rest)
        return func(*args, **(kwargs or {}))


class _Memory:
    """Rows of a layer that are kept: from a number on, without gaps.

    Parameters
    ----------
    tail : torch.Tensor, optional
        Where few last rows go. They stay from band to band; among what comes and goes meanwhile
        they would keep large pieces of memory from being used again.
    """

    def __init__(self, tail: torch.Tensor | None = None) -> None:
        self._tail = tail
        self._rows: torch.Tensor | None = None
        self._start = 0  # the number of its first row
        self._first = 0  # and of the first that is needed
        self._in_tail = False

    def add(self, low: int, rows: torch.Tensor) -> None:
        if self._rows is not None:
            rows = torch.cat((self.part(self._first, low), rows), dim=2)
            low = self._first
        self._rows, self._start, self._first, self._in_tail = rows, low, low, False

    def keep(self, first: int) -> None:
        assert self._rows is not None
        count = self._rows.shape[2]
        left = self._start + count - first
        if left == 0:
            self._rows = None
        elif not self._in_tail and is_tail(left, count):
            assert self._tail is not None
            tail = self._tail[:, :, :left]
            tail.copy_(self._rows[:, :, count - left :])
            self._rows, self._start, self._in_tail = tail, first, True
        self._first = first

    def part(self, low: int, high: int) -> torch.Tensor:
        assert self._rows is not None
        if low == self._start and high - low == self._rows.shape[2]:
            return self._rows
        return self._rows[:, :, low - self._start : high - self._start]


class _Given(_Memory):
    """The picture, which is there from the beginning to the end."""

    def __init__(self, picture: torch.Tensor) -> None:
        super().__init__()
        self._rows = picture

    def keep(self, first: int) -> None:
        """Keep all."""


def _tails(tails: Mapping[Layer, int], like: torch.Tensor) -> dict[Layer, torch.Tensor]:
    """Make room for tails, in one piece of memory."""
    count = like.shape[0]
    sizes = [count * rows * layer.row_elements for layer, rows in tails.items()]
    pieces = like.new_empty(sum(sizes)).split(sizes)
    if like.is_contiguous():
        return {
            layer: piece.view(count, layer.channels, rows, layer.width)
            for piece, (layer, rows) in zip(pieces, tails.items())
        }
    return {
        layer: piece.view(count, rows, layer.width, layer.channels).movedim(-1, 1)
        for piece, (layer, rows) in zip(pieces, tails.items())
    }


class _Run:
    def __init__(self, graph: RowGraph, tails: Mapping[Layer, int], picture: torch.Tensor) -> None:
        self._memory: dict[Layer, _Memory] = {graph.layers[0]: _Given(picture)}
        self._tails = _tails(tails, picture)
        self._padding = _NoPaddingAbove()
        channels_last = not picture.is_contiguous()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    def take(self, step: Step) -> torch.Tensor:
        """Do a step; return its rows."""
        layer = step.layer
        made = self._make(layer, step.low, step.high)
        if layer.users:
            memory = self._memory.get(layer)
            if memory is None:
                memory = self._memory[layer] = _Memory(self._tails.get(layer))
            memory.add(step.low, made)
        for holder, first in step.kept:
            self._memory[holder].keep(first)
        return made

    def _make(self, layer: Layer, low: int, high: int) -> torch.Tensor:
        if layer.run is None:
            return self._read(layer, low, high)
        first, end = layer.rows.needed(low, high)
        given = layer.rows.given
        a, b = max(first, 0), min(end, given)
        if layer.module is not None and (low, high) != (0, layer.height):
            whole = (a, b) == (first, end)
            window = self._read(layer.sources[0], a, b) if whole else self._padded(layer, low, high)
            with self._padding:
                return layer.run([window])
        read = [self._read(source, a, b) for source in layer.sources]
        if layer.in_place and self._is_shared(layer.sources[0]):
            read[0] = read[0].clone()
        made = layer.run(read)
        return _cut(layer, made, low, high, a)

    def _read(self, layer: Layer, low: int, high: int) -> torch.Tensor:
        if layer in self._memory:
            return self._memory[layer].part(low, high)
        if layer.part is not None:
            return self._read(layer.sources[0], low, high)[:, layer.part[0] : layer.part[1]]
        return torch.cat([self._read(piece, low, high) for piece in layer.pieces], dim=1)

    def _padded(self, layer: Layer, low: int, high: int) -> torch.Tensor:
        """Put rows together with the padding above or below them."""
        source, given = layer.sources[0], layer.rows.given
        first, end = layer.rows.needed(low, high)
        a, b = max(first, 0), min(end, given)
        pieces = [self._read(piece, a, b) for piece in source.pieces]
        like = pieces[0]
        size = (like.shape[0], source.channels, end - first, like.shape[3])
        window = torch.empty(size, dtype=like.dtype, device=like.device, memory_format=self._layout)
        window[:, :, : a - first] = 0
        window[:, :, b - first :] = 0
        inside = window[:, :, a - first : b - first]
        for part, piece in zip(inside.split([each.shape[1] for each in pieces], dim=1), pieces):
            part.copy_(piece)
        return window

    @staticmethod
    def _is_shared(layer: Layer) -> bool:
        return any(len(holder.users) > 1 or not holder.sources for holder in layer.holders())


def _cut(layer: Layer, made: torch.Tensor, low: int, high: int, first: int) -> torch.Tensor:
    """Cut off what was made of context alone."""
    if not isinstance(layer.rows, Resized) or layer.rows.context == 0:
        return made
    extra = low - layer.rows.made_of(first)
    return made[:, :, extra : extra + high - low]


def run(graph: RowGraph, order: Order, picture: torch.Tensor, emit: Emit) -> None:
    """Run a network on pictures.

    Parameters
    ----------
    graph : RowGraph
        The network, for pictures of that size.
    order : Order
        What is done one after another.
    picture : torch.Tensor
        Of shape ``(n, channels, height, width)``, where the network computes and in its dtype.
    emit : callable
        Given the rows of the result one band after another, from the top.
    """
    state = _Run(graph, order.load.tails, picture)
    for step in order.steps:
        rows = state.take(step)
        if step.layer is graph.output:
            emit(step.low, rows)
        del rows
