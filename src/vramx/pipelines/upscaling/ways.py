"""How pictures of one size go through a network: band by band, or whole and in tiles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from vramx.pipelines.upscaling.arena import Arena
from vramx.pipelines.upscaling.layers import RowGraph
from vramx.pipelines.upscaling.schedule import Order
from vramx.pipelines.upscaling.tiles import Grid

#: Makes of rows ``(n, channels, rows, width)``, as the network gave them, what they become.
Finish = Callable[[torch.Tensor], torch.Tensor]
#: Takes the number of the first picture and row, and rows of them: as the network gave them, or
#: what they have become. The rows of a picture come from the top on.
Put = Callable[[int, int, torch.Tensor], None]
#: Told of pixels of the input that were computed, and how many will be.
Count = Callable[[int, int], None]


@dataclass(frozen=True)
class Runner:
    """What runs a network where a session has it.

    Attributes
    ----------
    call : callable
        Calls the network; takes and gives ``(n, channels, height, width)``.
    within : callable
        Calls a function of no arguments in the way that the network is called.
    place : callable
        Puts a tensor where the network computes, in its dtype.
    hold : callable
        Keeps tensors of the network on the card for a scope.
    arena : Arena
        Where what is computed lies.
    """

    call: Callable[[torch.Tensor], torch.Tensor]
    within: Callable[[Callable[[], None]], None]
    place: Callable[[torch.Tensor], torch.Tensor]
    hold: Callable[[list[torch.Tensor]], AbstractContextManager[object]]
    arena: Arena

    def placed_call(self, x: torch.Tensor) -> torch.Tensor:
        """Call the network with what may lie elsewhere."""
        return self.call(self.place(x))


@dataclass(frozen=True)
class InTiles:
    """Pictures that go through in tiles, or as one tile each.

    Attributes
    ----------
    grid : Grid
        The tiles of a picture.
    at_once : int
        How many tiles go through at once, of several pictures too.
    overlap : int
        Pixels of context that are thrown away at inner edges.
    farther : bool
        Whether the network looks farther than that, as far as was measured.
    """

    grid: Grid
    at_once: int
    overlap: int
    farther: bool = False

    @property
    def computed(self) -> int:
        """How many pixels of a picture are computed, some of them twice."""
        return self.grid.count * self.grid.area

    @property
    def share(self) -> float:
        """How much that is over the picture's pixels."""
        return self.computed / (self.grid.rows.length * self.grid.columns.length)

    @property
    def pictures(self) -> int:
        """How many pictures go through at once."""
        return max(1, self.at_once // self.grid.count)

    def describe(self) -> str:
        """Describe it for people, in a few words."""
        if self.grid.count == 1:
            return "whole"
        return (
            f"in {self.grid.count} tiles of {self.grid.columns.size}x{self.grid.rows.size} with "
            f"{self.overlap} pixels of context, {self.at_once} at once, which computes "
            f"{self.share:.2f} times its pixels"
        )

    def figures(self) -> dict[str, Any]:
        """Return it for machines."""
        if self.grid.count == 1:
            return {"way": "whole", "share": self.share}
        return {
            "way": "tiles",
            "tiles": self.grid.count,
            "tile": [self.grid.columns.size, self.grid.rows.size],
            "overlap": self.overlap,
            "share": self.share,
        }


@dataclass(frozen=True)
class InBands:
    """Pictures that go through one by one, band by band.

    Attributes
    ----------
    graph : RowGraph
        The network, for pictures of that size.
    order : Order
        Its bands, and what is done one after another.
    share : float
        How many pixels are computed over the picture's: each once.
    pictures : int
        How many pictures go through at once.
    """

    graph: RowGraph
    order: Order

    share: ClassVar[float] = 1.0
    pictures: ClassVar[int] = 1

    def describe(self) -> str:
        """Describe it for people, in a few words."""
        return f"in bands of {self.order.bands[0]} rows, each computed once"

    def figures(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"way": "bands", "rows": list(self.order.bands), "share": self.share}


Way = InTiles | InBands
