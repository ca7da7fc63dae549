"""How large tiles and batches are, and how they shrink when memory runs out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vramx.errors import ConfigError
from vramx.pipelines.upscaling.tiles import Grid, cut, round_up, smallest_tile, tile_of_count

#: With more pixels in a tile than a frame of 1080p has, enlarged four times in 64 channels, kernels
#: begin to count beyond 31 bits.
LARGEST_TILE = 1448
#: The side of a tile that no picture is larger than, in strides.
WHOLE = 2**20
#: More small pictures at once gain little.
LARGEST_BATCH = 64
#: Pictures that go in bands are put together on the card where that takes no more than such a part
#: of the room, and on the host otherwise: low bands cost more than the way there.
PICTURES = 8
#: Bytes that a row of tiles may take once they are put together, as float32.
_HELD = 2**29
#: What torch takes for a picture that goes through whole, over the most that it holds at once.
UNEVEN = 1.6
#: Of a tile of the only size that a network takes, at most such a part at each edge is context.
_CONTEXT = 8
#: The part of the room that is planned with; what was measured was measured on small pictures.
_PLANNED = 0.9


def room_for_activations(budget: int, weights: int) -> int:
    """Tell what of a budget tiles or bands may take.

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


def bytes_beside_bands(scale: int) -> int:
    """Tell what a picture takes that goes through whole or in bands, beside those.

    Parameters
    ----------
    scale : int
        How much larger it becomes.

    Returns
    -------
    int
        Bytes for each pixel of the input: its four channels as float32, twice; and of the result
        four as bytes.
    """
    return 2 * 4 * 4 + 4 * scale**2


@dataclass(frozen=True)
class Rates:
    """How long pictures take in a network.

    Attributes
    ----------
    least : float
        Seconds that the smallest takes, for what is launched.
    pixel : float
        Seconds a pixel of large ones.
    """

    least: float
    pixel: float

    def seconds(self, pixels: int) -> float:
        """Predict how long so many pixels at once take."""
        return max(self.least, self.pixel * pixels)


@dataclass
class Sizes:
    """Sizes of tiles and batches, in pixels of the input.

    Attributes
    ----------
    tile : int or None
        The side asked for; None chooses.
    batch : int or None
        The tiles at once asked for; None chooses.
    multiple : int
        What sides are multiples of.
    pixels : int
        The most that may be in the network at once: from a measurement, and from where memory ran
        out.
    shrunk : bool
        Whether memory ran out, so that `pixels` binds what was asked for too.
    stride : int
        What tiles begin at and measure multiples of, where that is more than `multiple`.
    scale : int
        How much larger tiles become.
    fixed : (int, int) or None
        Height and width of the only tiles that the network takes, to which smaller ones are
        extended.
    """

    tile: int | None
    batch: int | None
    multiple: int
    pixels: int
    shrunk: bool = False
    stride: int = 1
    scale: int = 1
    fixed: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.stride = max(self.stride, self.multiple)
        if self.fixed is not None:
            least = min(self.fixed)
            if self.tile not in (None, least):
                height, width = self.fixed
                raise ConfigError(
                    f"tile {self.tile} was given, but the network takes tiles of {width}x{height} "
                    "alone: leave it out"
                )
            self.tile = least

    def most_overlap(self, farthest: int) -> int:
        """Tell how far it is looked at most, of so many pixels, lest tiles become all overlap."""
        return farthest if self.fixed is None else min(farthest, min(self.fixed) // _CONTEXT)

    def side(self, overlap: int) -> int:
        """Tell the side of a tile; where it was not asked for, of a square of as many pixels.

        Parameters
        ----------
        overlap : int
            What is thrown away at inner edges.

        Returns
        -------
        int
            Pixels.

        Raises
        ------
        ConfigError
            If tiles of the side that was asked for have nothing left to keep.
        """
        least = self._least(overlap)
        side = self.tile
        if side is None:
            side = min(LARGEST_TILE, math.isqrt(self.pixels // (self.batch or 1)))
        elif self.fixed is not None and side < least:
            raise ConfigError(
                f"an overlap of {overlap} needs tiles of {least} pixels or more, but the network "
                f"takes {side} alone: give a smaller one, or 'auto'"
            )
        elif side % self.stride or side < least:
            raise ConfigError(
                f"tile {side} is not a multiple of {self.stride} from {least}, which an overlap "
                f"of {overlap} needs: give one, or 'auto'"
            )
        if self.shrunk and self.fixed is None:
            side = min(side, math.isqrt(self.pixels))
        side -= side % self.stride
        return max(side, least)

    def _least(self, overlap: int) -> int:
        """Tell the least side of a tile.

        Chosen ones keep no less than they share with one neighbour, unless nothing else is left:
        where what fits is all overlap, a picture would be computed thousands of times.
        """
        least = smallest_tile(overlap, self.stride)
        if self.tile is not None or self.shrunk:
            return least
        return least + round_up(overlap, self.stride)

    def takes_whole(self, height: int, width: int) -> bool:
        """Tell whether a picture goes through whole."""
        grid = self._grid((height, width), (height, width), 0)
        if self.fixed is not None:
            return grid.rows.size <= self.fixed[0] and grid.columns.size <= self.fixed[1]
        if self.tile is not None and not self.shrunk:
            return max(grid.rows.size, grid.columns.size) <= self.tile
        most = min(LARGEST_TILE**2, self.pixels // (self.batch or 1))
        return grid.area <= most

    def plan(
        self,
        height: int,
        width: int,
        overlap: int,
        rates: Rates,
        *,
        shifted: bool = False,
    ) -> tuple[Grid, int]:
        """Cut pictures of a size.

        Parameters
        ----------
        height, width : int
            The size.
        overlap : int
            What is thrown away at inner edges.
        rates : Rates
            By which the fastest of those that fit is chosen.
        shifted : bool
            Whether to put the seams elsewhere.

        Returns
        -------
        Grid
            The tiles of each picture.
        int
            How many tiles go at once.
        """
        if self.takes_whole(height, width):
            sides = (height, width)
        elif self.tile is None:
            sides = self._fastest(height, width, overlap, rates)
        else:
            sides = self.fixed or (self.side(overlap), self.side(overlap))
        grid = self._grid((height, width), sides, overlap, shifted=shifted)
        return grid, self._at_once(grid)

    def _at_once(self, grid: Grid) -> int:
        area = grid.area if self.fixed is None else math.prod(self.fixed)
        fitting = max(1, self.pixels // area)
        batch = self.batch or min(LARGEST_BATCH, fitting)
        return min(batch, fitting) if self.shrunk else batch

    def _fastest(self, height: int, width: int, overlap: int, rates: Rates) -> tuple[int, int]:
        """Choose the sides of the tiles that together take least time, of those that fit.

        A row of tiles must not become much of a large picture.
        """
        most = self.side(overlap) ** 2
        highest = max(_HELD // (3 * 4 * self.scale**2 * width), self._least(overlap))
        choices = []
        for down in range(1, height + 1):
            tall = tile_of_count(height, down, overlap, self.stride)
            wide = self._widest(width, overlap, most // tall)
            if wide is not None and tall <= highest:
                choices.append((tall, wide))
            if tall <= self._least(overlap):
                break

        def cost(sides: tuple[int, int]) -> tuple[float, int, int]:
            grid = self._grid((height, width), sides, overlap)
            at_once = min(self._at_once(grid), grid.count)
            passes, rest = divmod(grid.count, at_once)
            time = passes * rates.seconds(at_once * grid.area)
            time += rates.seconds(rest * grid.area) if rest else 0
            return time, grid.count * grid.area, sides[0]

        side = self.side(overlap)
        return min(choices, key=cost, default=(side, side))

    def _widest(self, width: int, overlap: int, most: int) -> int | None:
        """Tell the width of the fewest tiles across that are no wider than some pixels."""
        padded = round_up(width, self.stride)
        most -= most % self.stride
        if most >= padded:
            return padded
        if most < self._least(overlap):
            return None
        across = len(cut(width, most, overlap, self.multiple, stride=self.stride).starts)
        return tile_of_count(width, across, overlap, self.stride)

    def _grid(
        self,
        lengths: tuple[int, int],
        sides: tuple[int, int],
        overlap: int,
        *,
        shifted: bool = False,
    ) -> Grid:
        rows, columns = (
            cut(
                length,
                round_up(side, self.stride),
                overlap,
                self.multiple,
                stride=self.stride,
                shifted=shifted,
            )
            for length, side in zip(lengths, sides)
        )
        return Grid(rows, columns)

    def shrink(self, pixels: int) -> None:
        """Let half of what was too many pixels go at once from now on."""
        self.pixels = pixels // 2
        self.shrunk = True
