"""Cutting pictures into tiles that share context, and blending what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from vramx.errors import ConfigError


def round_up(n: int, multiple: int) -> int:
    """Return the least multiple that is not below `n`."""
    return -(-n // multiple) * multiple


def shared_pixels(overlap: int) -> int:
    """Tell how many pixels neighbouring tiles share: context on both sides, and a blend."""
    return 2 * overlap + overlap // 2


def smallest_tile(overlap: int, multiple: int) -> int:
    """Tell the least side of a tile that leaves something to keep."""
    return round_up(shared_pixels(overlap), multiple) + 2 * multiple


@dataclass(frozen=True)
class Cut:
    """How one side of a picture is cut.

    Attributes
    ----------
    length : int
        The side in pixels.
    size : int
        The side of each tile.
    starts : tuple of int
        Where the tiles begin, multiples of the network's stride; the last one may reach beyond the
        side by less than a stride.
    overlap : int
        The pixels at a tile's inner edges of which nothing is kept. Half as many again are blended.
    extended : int
        What the picture's side is extended to by reflection; a tile that reaches farther is cut
        off there.
    """

    length: int
    size: int
    starts: tuple[int, ...]
    overlap: int
    extended: int

    @property
    def padded(self) -> int:
        """Where the last tile ends, if it is not cut off."""
        return self.starts[-1] + self.size

    def weights(self, scale: int) -> list[torch.Tensor]:
        """Tell what each tile's pixels count, enlarged.

        Parameters
        ----------
        scale : int
            How much larger the tiles have become.

        Returns
        -------
        list of torch.Tensor
            Of shape ``(size * scale,)`` each. Those at one place sum to one, and what lies nearer
            than the overlap to an edge with a neighbour beyond it counts nothing.
        """
        ramp = self._ramp(scale)
        total = torch.zeros(self.padded * scale, dtype=torch.float64)
        raw = []
        for place, start in enumerate(self.starts):
            counts = torch.ones(self.size * scale, dtype=torch.float64)
            if place > 0:
                counts = counts.minimum(ramp)
            if place < len(self.starts) - 1:
                counts = counts.minimum(ramp.flip(0))
            raw.append(counts)
            total[start * scale : (start + self.size) * scale] += counts
        return [
            (counts / total[start * scale : (start + self.size) * scale]).float()
            for counts, start in zip(raw, self.starts)
        ]

    def _ramp(self, scale: int) -> torch.Tensor:
        distance = (torch.arange(self.size * scale, dtype=torch.float64) + 0.5) / scale
        blend = self.overlap // 2
        if blend == 0:
            return (distance > self.overlap).double()
        return ((distance - self.overlap) / blend).clamp(0, 1)


def cut(
    length: int,
    tile: int,
    overlap: int,
    multiple: int,
    *,
    stride: int | None = None,
    shifted: bool = False,
) -> Cut:
    """Cut one side of a picture.

    Parameters
    ----------
    length : int
        The side in pixels.
    tile : int
        The most that a tile may measure; a multiple of `stride`.
    overlap : int
        The context that is thrown away at each inner edge.
    multiple : int
        What sides of pictures are extended to multiples of.
    stride : int, optional
        What tiles begin at and measure multiples of, where that is more than `multiple`.
    shifted : bool
        Whether to put the seams where the tiles' middles are otherwise.

    Returns
    -------
    Cut
        The tiles; one where the side is no longer than a tile.

    Raises
    ------
    ConfigError
        If tiles of that size would be all overlap.
    """
    extended = round_up(length, multiple)
    if extended <= tile:
        return Cut(length, extended, (0,), overlap, extended)
    stride = stride or multiple
    least = smallest_tile(overlap, stride)
    if tile < least:
        raise ConfigError(
            f"tiles of {tile} pixels with an overlap of {overlap} have nothing left to keep: give "
            f"tile={least} or more, or a smaller overlap"
        )
    step = _step(tile, overlap, stride)
    half = step // 2 // stride * stride
    last = round_up(length, stride) - tile
    if shifted and last <= half:  # two tiles, which nothing can move
        tile = max(tile - max(half, stride), least)
        step, last = _step(tile, overlap, stride), round_up(length, stride) - tile
        half = 0
    starts = {0, *range(half if shifted else 0, last, step), last}
    return Cut(length, tile, tuple(sorted(starts)), overlap, extended)


def _step(tile: int, overlap: int, multiple: int) -> int:
    return (tile - shared_pixels(overlap)) // multiple * multiple


def tile_of_count(length: int, count: int, overlap: int, multiple: int) -> int:
    """Tell the least side of which `count` tiles cover a side of a picture.

    Parameters
    ----------
    length, overlap, multiple : int
        As `cut`.
    count : int
        How many tiles at most.

    Returns
    -------
    int
        At least `smallest_tile`, unless the picture is smaller.
    """
    padded = round_up(length, multiple)
    if count == 1:
        return padded
    even = -(-(padded + (count - 1) * shared_pixels(overlap)) // count)
    tile = max(round_up(even, multiple), smallest_tile(overlap, multiple))
    while (count - 1) * _step(tile, overlap, multiple) + tile < padded:
        tile += multiple
    return min(tile, padded)


def reflect(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Extend a picture below and to the right by reflection, of any length.

    Parameters
    ----------
    picture : torch.Tensor
        Of shape ``(..., h, w)``.
    height, width : int
        At least the picture's own.

    Returns
    -------
    torch.Tensor
        Of shape ``(..., height, width)``. A side of one pixel is repeated.
    """
    for axis, wanted in ((-2, height), (-1, width)):
        length = picture.shape[axis]
        if wanted > length:
            period = max(2 * length - 2, 1)
            index = torch.arange(wanted, device=picture.device) % period
            picture = picture.index_select(
                axis, index.minimum(period - index).clamp(max=length - 1)
            )
    return picture


@dataclass(frozen=True)
class Grid:
    """How a picture is cut into tiles of one size."""

    rows: Cut
    columns: Cut

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def area(self) -> int:
        """Pixels of a tile."""
        return self.rows.size * self.columns.size

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Row and column at which each tile begins."""
        return [(top, left) for top in self.rows.starts for left in self.columns.starts]

    def tiles(self, picture: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut a picture.

        Parameters
        ----------
        picture : torch.Tensor
            Of shape ``(..., rows.length, columns.length)``.

        Yields
        ------
        torch.Tensor
            Of shape ``(..., rows.size, columns.size)``, row by row; less where the extended
            picture ends.
        """
        padded = reflect(picture, self.rows.extended, self.columns.extended)
        for top, left in self.corners:
            yield padded[..., top : top + self.rows.size, left : left + self.columns.size]


class Canvas:
    """An enlarged picture that tiles are blended into, of which finished rows are given away.

    It holds as many rows as a tile has.

    Parameters
    ----------
    grid : Grid
        How the picture was cut.
    channels, scale : int
        The enlarged tiles' channels, and how much larger they are.
    emit : callable
        Takes the number of the first row, and rows ``(count, channels, rows, width)`` without what
        was reflected, in memory that is used again; from the top on.
    count : int
        How many planes.
    device : torch.device or str
        Where they are put together.
    """

    def __init__(
        self,
        grid: Grid,
        channels: int,
        scale: int,
        emit: Callable[[int, torch.Tensor], None],
        count: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self._grid = grid
        self._scale = scale
        self._emit = emit
        self._rows, self._columns = (
            [counts.to(device) for counts in side.weights(scale)]
            for side in (grid.rows, grid.columns)
        )
        self._row = 0  # of tiles: the one whose pixels it holds
        self._pixels = torch.zeros(
            (count, channels, grid.rows.size * scale, grid.columns.padded * scale),
            dtype=torch.float32,
            device=device,
        )

    def add(self, place: int, tile: torch.Tensor, plane: int = 0) -> None:
        """Blend an enlarged tile in.

        Parameters
        ----------
        place : int
            Its number in the order of `Grid.tiles`, in which they come.
        tile : torch.Tensor
            Of shape ``(channels, rows.size * scale, columns.size * scale)``, or of what is not cut
            off of it; anywhere.
        plane : int
            The number of the plane that it is of.
        """
        row, column = divmod(place, len(self._columns))
        if row != self._row:
            self._go_on(row)
        counts = self._rows[row][:, None] * self._columns[column][None, :]
        left = self._scale * self._grid.columns.starts[column]
        height, width = tile.shape[-2:]
        area = self._pixels[plane, :, :height, left : left + width]
        counts = counts[:height, :width]
        area += tile.to(counts) * counts  # in one operation cards round otherwise than processors

    def finish(self) -> None:
        """Give the last rows away."""
        self._give(self._grid.rows.length)

    def _go_on(self, row: int) -> None:
        """Give away what no tile of the next row is blended into."""
        starts = self._grid.rows.starts
        self._give(starts[row])
        step = (starts[row] - starts[self._row]) * self._scale
        kept = self._pixels[:, :, step:].clone()
        self._pixels[:, :, : kept.shape[2]] = kept
        self._pixels[:, :, kept.shape[2] :] = 0
        self._row = row

    def _give(self, end: int) -> None:
        start, width = self._grid.rows.starts[self._row], self._grid.columns.length * self._scale
        rows = self._pixels[:, :, : (end - start) * self._scale, :width]
        self._emit(start * self._scale, rows)
