"""How large tiles and batches are, and how they shrink when memory runs out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vramx.errors import ConfigError
from vramx.pipelines.tiles import Grid, cut, smallest_tile

#: Tiles larger than this gain little, and kernels begin to count pixels beyond 31 bits.
LARGEST_TILE = 1024
#: More small pictures at once gain little.
LARGEST_BATCH = 64
#: The part of the room that is planned with; what was measured was measured on small pictures.
_PLANNED = 0.9


def room_for_activations(budget: int, weights: int) -> int:
    """Tell what of a budget tiles may take.

    Weights that fit half of the budget stay on the card; larger ones stream through that half, for
    a larger tile makes more of each time that they stream.

    Parameters
    ----------
    budget, weights : int
        Bytes.

    Returns
    -------
    int
        Bytes.
    """
    return int(_PLANNED * (budget - min(weights, budget // 2)))


@dataclass
class Sizes:
    """Sizes of tiles and batches, in pixels of the input.

    Attributes
    ----------
    tile : int or None
        The side asked for; None chooses.
    batch : int or None
        The tiles at once asked for; None chooses.
    overlap, multiple : int
        What is thrown away at inner edges; what sides are multiples of.
    pixels : int
        The most that may be in the network at once: from a measurement, and from where memory ran
        out.
    shrunk : bool
        Whether memory ran out, so that `pixels` binds what was asked for too.
    """

    tile: int | None
    batch: int | None
    overlap: int
    multiple: int
    pixels: int
    shrunk: bool = False

    def __post_init__(self) -> None:
        if self.tile is None:
            return
        least = smallest_tile(self.overlap, self.multiple)
        if self.tile % self.multiple or self.tile < least:
            raise ConfigError(
                f"tile {self.tile} is not a multiple of {self.multiple} from {least}, which an "
                f"overlap of {self.overlap} needs: give one, or 'auto'"
            )

    @property
    def side(self) -> int:
        """The present side of a tile."""
        side = self.tile
        if side is None:
            side = min(LARGEST_TILE, math.isqrt(self.pixels // (self.batch or 1)))
        if self.shrunk:
            side = min(side, math.isqrt(self.pixels))
        side -= side % self.multiple
        return max(side, smallest_tile(self.overlap, self.multiple))

    def plan(self, height: int, width: int, *, shifted: bool = False) -> tuple[Grid, int]:
        """Cut pictures of a size.

        Parameters
        ----------
        height, width : int
            The size.
        shifted : bool
            Whether to put the seams elsewhere.

        Returns
        -------
        Grid
            The tiles of each picture.
        int
            How many tiles go at once.
        """
        side = self.side
        rows, columns = (
            cut(length, side, self.overlap, self.multiple, shifted=shifted)
            for length in (height, width)
        )
        grid = Grid(rows, columns)
        fitting = max(1, self.pixels // grid.area)
        batch = self.batch or min(LARGEST_BATCH, fitting)
        return grid, min(batch, fitting) if self.shrunk else batch

    def shrink(self, grid: Grid, batch: int) -> bool:
        """Halve what goes at once, after memory ran out.

        Parameters
        ----------
        grid : Grid
            What was tried.
        batch : int
            How many tiles were tried at once.

        Returns
        -------
        bool
            Whether there is less to try.
        """
        rows, columns = grid.rows, grid.columns
        self.pixels = batch * grid.area // 2
        self.shrunk = True
        smaller, fewer = self.plan(rows.length, columns.length)
        return fewer * smaller.area < batch * grid.area
