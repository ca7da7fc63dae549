"""Layers of a network that look at rows near by, and which rows each needs for which of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

#: Runs a layer on its sources' rows.
Run = Callable[[Sequence[torch.Tensor]], torch.Tensor]


class NotByRowsError(Exception):
    """A network does something that does not go row by row; the message says what."""


@dataclass(frozen=True)
class Rows:
    """Which rows of its sources a layer needs: those of the same numbers.

    Attributes
    ----------
    given, made : int
        How many rows the sources and the layer have.
    """

    given: int
    made: int

    def needed(self, low: int, high: int) -> tuple[int, int]:
        """Tell which rows are needed for those from `low` to `high`.

        Parameters
        ----------
        low, high : int
            A half-open interval of the layer's own rows.

        Returns
        -------
        (int, int)
            A half-open interval of its sources' rows, beyond which there may be padding.
        """
        return low, high

    def possible(self, given: int) -> int:
        """Tell how many rows can be made of the first `given` rows of the sources."""
        return given

    def whole(self, limit: int) -> int:
        """Tell how many rows are made where no more than a limit are wanted."""
        return limit


@dataclass(frozen=True)
class Window(Rows):
    """Rows of a convolution: some around each.

    Attributes
    ----------
    stride, padding : int
        The convolution's, vertically.
    span : int
        Rows from the first to the last that the kernel covers, less one.
    """

    stride: int
    padding: int
    span: int

    def needed(self, low: int, high: int) -> tuple[int, int]:
        """See `Rows.needed`; it may reach beyond the source, where the padding is."""
        first = low * self.stride - self.padding
        return first, (high - 1) * self.stride - self.padding + self.span + 1

    def possible(self, given: int) -> int:
        """See `Rows.possible`."""
        if given == self.given:
            return self.made
        return max(0, (given - 1 + self.padding - self.span) // self.stride + 1)


@dataclass(frozen=True)
class Resized(Rows):
    """Rows of an interpolation or a pixel shuffle.

    Attributes
    ----------
    factor, of : int
        How many rows are made of how many, again and again.
    context : int
        How many rows on each side bear upon them, a multiple of `of`.
    """

    factor: int
    of: int = 1
    context: int = 0

    def needed(self, low: int, high: int) -> tuple[int, int]:
        """See `Rows.needed`."""
        first = low // self.factor * self.of - self.context
        return max(0, first), min(self.given, -(-high // self.factor) * self.of + self.context)

    def possible(self, given: int) -> int:
        """See `Rows.possible`."""
        if given == self.given:
            return self.made
        return max(0, given - self.context) // self.of * self.factor

    def whole(self, limit: int) -> int:
        """See `Rows.whole`; those that are made of the same rows come together."""
        return limit - limit % self.factor

    def made_of(self, first: int) -> int:
        """Tell the number of the first row that is made of rows from a number on."""
        return first // self.of * self.factor


@dataclass(frozen=True)
class Folded(Rows):
    """Rows of a pixel unshuffle.

    Attributes
    ----------
    factor : int
        Of how many rows one is made.
    """

    factor: int

    def needed(self, low: int, high: int) -> tuple[int, int]:
        """See `Rows.needed`."""
        return low * self.factor, high * self.factor

    def possible(self, given: int) -> int:
        """See `Rows.possible`."""
        return given // self.factor


@dataclass(eq=False)
class Layer:
    """A layer of a network for pictures of one size.

    Attributes
    ----------
    name : str
        What the network calls it.
    rows : Rows
        Which rows it needs.
    sources : list of Layer
        What it reads.
    channels, width : int
        Of what it gives.
    run : callable, optional
        Makes rows of its sources' rows. None of what holds no memory of its own: the input, a
        concatenation or a part of the channels of another.
    module : torch.nn.Module, optional
        The convolution that it is.
    part : (int, int), optional
        Which channels of its source it is.
    in_place : bool
        Whether it changes what it is given.
    on_own : callable, optional
        As `run`, but may change what it is given.
    stage : int
        How many changes of the size come before it.
    users : list of Layer
        What reads its memory, through layers without any too.
    """

    name: str
    rows: Rows
    sources: list[Layer]
    channels: int
    width: int
    run: Run | None = None
    module: nn.Conv2d | None = None
    part: tuple[int, int] | None = None
    in_place: bool = False
    on_own: Run | None = None
    stage: int = 0
    users: list[Layer] = field(default_factory=list)

    @property
    def height(self) -> int:
        """How many rows it has."""
        return self.rows.made

    @property
    def least(self) -> int:
        """How few of its rows are made at once."""
        factor: int = getattr(self.rows, "factor", 1)
        return factor

    def holders(self) -> list[Layer]:
        """List the layers whose memory its own rows lie in."""
        if self.run is not None or not self.sources:
            return [self]
        return [holder for source in self.sources for holder in source.holders()]

    @cached_property
    def pieces(self) -> list[Layer]:
        """What it puts together, where it is a concatenation, also one of concatenations."""
        if self.run is not None or self.part is not None or not self.sources:
            return [self]
        return [piece for source in self.sources for piece in source.pieces]

    @property
    def row_elements(self) -> int:
        """How many values a row has."""
        return self.channels * self.width


@dataclass(eq=False)
class RowGraph:
    """A network as layers that need rows near by alone, for pictures of one size.

    Attributes
    ----------
    layers : list of Layer
        In an order in which they can run; the first is the picture.
    output : Layer
        What the network returns.
    constants : list of torch.Tensor
        Tensors of the network that layers use beside modules' own.
    """

    layers: list[Layer]
    output: Layer
    constants: list[Any]

    @property
    def stages(self) -> int:
        """How many sizes there are, one after another."""
        return self.output.stage + 1
