"""How large tiles and batches are, and how they shrink when memory runs out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vramx.errors import ConfigError
from vramx.pipelines.tiles import Grid, cut, round_up, smallest_tile, tile_of_count

#: With more pixels in a tile than a frame of 1080p has, enlarged four times in 64 channels, kernels
#: begin to count beyond 31 bits.
LARGEST_TILE = 1448
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


def bytes_beside_tiles(scale: int) -> int:
    """Tell what a picture takes where its tiles are put together.

    Parameters
    ----------
    scale : int
        How much larger it becomes.

    Returns
    -------
    int
        Bytes for each pixel of the input: its four channels as float32; and of the result three as
        float32, which are blended, cut out and rounded one after another, and as bytes twice.
    """
    return 4 * 4 + (3 * 3 * 4 + 2 * 3) * scale**2


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
        """The present side of a tile; where it was not asked for, of a square of as many pixels."""
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
        sides = self._least_work(height, width) if self.tile is None else (self.side, self.side)
        grid = self._grid((height, width), sides, shifted=shifted)
        fitting = max(1, self.pixels // grid.area)
        batch = self.batch or min(LARGEST_BATCH, fitting)
        return grid, min(batch, fitting) if self.shrunk else batch

    def _least_work(self, height: int, width: int) -> tuple[int, int]:
        """Choose the sides of tiles of at most a square's area that together have least pixels.

        Heights from about half the square's side to twice it are tried.
        """
        side = self.side
        smallest = smallest_tile(self.overlap, self.multiple)
        choices = [(side, side)]
        fewest = self._count(height, 2 * side)
        most = self._count(height, (side + smallest) // 2)
        for count in range(fewest, most + 1):
            tall = tile_of_count(height, count, self.overlap, self.multiple)
            longest = side**2 // tall // self.multiple * self.multiple
            if longest >= min(smallest, round_up(width, self.multiple)):
                across = self._count(width, longest)
                wide = tile_of_count(width, across, self.overlap, self.multiple)
                choices.append((tall, wide))

        def work(sides: tuple[int, int]) -> tuple[int, int]:
            grid = self._grid((height, width), sides)
            return grid.count * grid.area, grid.count

        return min(choices, key=work)

    def _grid(
        self, lengths: tuple[int, int], sides: tuple[int, int], *, shifted: bool = False
    ) -> Grid:
        rows, columns = (
            cut(length, side, self.overlap, self.multiple, shifted=shifted)
            for length, side in zip(lengths, sides)
        )
        return Grid(rows, columns)

    def _count(self, length: int, tile: int) -> int:
        return len(cut(length, tile, self.overlap, self.multiple).starts)

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
