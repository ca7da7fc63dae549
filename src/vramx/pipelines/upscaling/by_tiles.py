"""Pictures through a network whole, or in tiles that share context."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import torch

from vramx.pipelines.upscaling.footprint import OUT_OF_MEMORY, Shape
from vramx.pipelines.upscaling.reach import FARTHEST, measure_reach
from vramx.pipelines.upscaling.sizing import Rates, Sizes
from vramx.pipelines.upscaling.tiles import Canvas, round_up
from vramx.pipelines.upscaling.ways import Count, InTiles, Put, Runner

#: From here on it is told what would bring down what is computed twice.
WASTEFUL = 1.5
#: Where what is launched does not count.
_BY_PIXELS = Rates(0, 1)
#: The sides of the tiles that are timed.
_SMALL, _LARGE = 64, 512

#: A picture, a place in it, one of its planes, and what is there.
_Tile = tuple[int, int, int, torch.Tensor]


class Tiles:
    """Enlarges pictures in tiles.

    Parameters
    ----------
    runner : Runner
        Runs the network.
    shape : Shape
        What the network takes and gives.
    sizes : Sizes
        How large tiles may be.
    overlap : int, optional
        The context that they share; measured unless given.
    pixel_bytes : float
        What a pixel takes of torch's memory in the network.

    Attributes
    ----------
    sizes : Sizes
        How large tiles may be.
    overlap : int or None
        As given.
    """

    def __init__(
        self,
        runner: Runner,
        shape: Shape,
        sizes: Sizes,
        overlap: int | None,
        pixel_bytes: float,
    ) -> None:
        self._call = runner.placed_call
        self._arena = runner.arena
        self._pixel_bytes = pixel_bytes
        self._shape = shape
        self.sizes = sizes
        self.overlap = overlap
        self._rates: Rates | None = None
        sizes.side(overlap or 0)  # what was asked for is looked at before the work

    def whole(self, height: int, width: int, *, asked: bool = True) -> InTiles | None:
        """Tell how pictures of a size go through whole, if they do.

        Parameters
        ----------
        height, width : int
            The size.
        asked : bool
            Whether that is as asked for; otherwise it is if they fit.
        """
        sizes = self.sizes if asked else replace(self.sizes, tile=None)
        if not sizes.takes_whole(height, width):
            return None
        return InTiles(*sizes.plan(height, width, 0, _BY_PIXELS), overlap=0)

    def way(self, picture: torch.Tensor, tolerance: float, *, shifted: bool = False) -> InTiles:
        """Choose the tiles of a picture.

        Parameters
        ----------
        picture : torch.Tensor
            Of shape ``(channels, height, width)``; on it the context is measured.
        tolerance : float
            What change of a value is not seen.
        shifted : bool
            Whether to put the seams elsewhere.

        Returns
        -------
        InTiles
            Of those that fit, the fastest.
        """
        overlap, farther = self.overlap, False
        rates = _BY_PIXELS
        with self._holding(self.sizes.pixels):
            if overlap is None:
                most = self.sizes.most_overlap(FARTHEST)
                overlap = measure_reach(self._call, picture, self._shape, tolerance, most)
                farther = overlap >= most
            if self.sizes.tile is None:
                rates = self._measured_rates()
        height, width = picture.shape[-2:]
        grid, at_once = self.sizes.plan(height, width, overlap, rates, shifted=shifted)
        return InTiles(grid, at_once, overlap, farther)

    def _holding(self, pixels: int) -> AbstractContextManager[None]:
        return self._arena.holding(int(min(pixels, self.sizes.pixels) * self._pixel_bytes))

    def _measured_rates(self) -> Rates:
        if self._rates is None:
            small = round_up(_SMALL, self._shape.stride)
            side = min(_LARGE, int(self.sizes.pixels**0.5))
            large = max(side // self._shape.stride * self._shape.stride, small)
            least, most = self._seconds(small), None
            while most is None and large > small:
                try:
                    most = self._seconds(large)
                except OUT_OF_MEMORY:
                    self.sizes.shrink(large**2)
                    large = max(large // 2 // self._shape.stride * self._shape.stride, small)
            self._rates = Rates(least, (least if most is None else most) / large**2)
        return self._rates

    def _seconds(self, side: int) -> float:
        picture = torch.zeros(1, self._shape.channels, side, side)
        times = []
        for _ in range(2):  # the first finds kernels
            begun = time.perf_counter()
            self._call(picture).flatten()[:1].cpu()  # which waits for the card
            times.append(time.perf_counter() - begun)
        return min(times)

    def advice(self, way: InTiles) -> str:
        """Say what would bring down what is computed twice."""
        if self.sizes.fixed is not None:
            return (
                "The network takes tiles of no other size: one that takes pictures of any size "
                f"computes less twice, and so does at most overlap={way.overlap - 1} where that "
                "still covers what shows"
            )
        rows, columns = way.grid.rows, way.grid.columns
        pixels = area = way.at_once * way.grid.area
        share, grid = way.share, way.grid
        while share > WASTEFUL and grid.count > 1:
            pixels = int(1.1 * pixels) + 1
            larger = replace(self.sizes, tile=None, batch=1, pixels=pixels, shrunk=False)
            grid, _ = larger.plan(rows.length, columns.length, way.overlap, _BY_PIXELS)
            share = InTiles(grid, 1, way.overlap).share
        return (
            f"{pixels / area:.1f} times the room for activations would bring that to {share:.1f}, "
            f"or at most overlap={way.overlap - 1} where that still covers what shows"
        )

    def run(
        self, way: InTiles, planes: torch.Tensor, count: Count, put: Put, *, together: int
    ) -> None:
        """Enlarge pictures.

        Parameters
        ----------
        way : InTiles
            For pictures of their size.
        planes : torch.Tensor
            Of shape ``(n, channels, height, width)``.
        count : callable
            Told of the pixels that are done.
        put : callable
            Takes rows of what the network gave.
        together : int
            How many planes make a picture.
        """
        if way.grid.count == 1:
            self._run_whole(way, planes, count, put, together)
        else:
            self._run_tiles(way, planes, count, put, together)

    def _run_tiles(
        self, way: InTiles, planes: torch.Tensor, count: Count, put: Put, together: int
    ) -> None:
        grid, shape = way.grid, self._shape
        total = len(planes) * way.computed
        count(0, total)
        tiles = (
            (number, place, plane, tile)
            for number, picture in enumerate(planes.split(together))
            for place, group in enumerate(grid.tiles(picture))
            for plane, tile in enumerate(group)
        )
        canvas, shown = None, -1
        with self._holding(way.at_once * grid.area):
            for group in _of_one_size(tiles, way.at_once):
                made = self._call(torch.stack([tile for *_, tile in group]))
                for (number, place, plane, _), tile in zip(group, made):
                    if number != shown:
                        if canvas is not None:
                            canvas.finish()
                        emit, shown = partial(put, number), number
                        canvas = Canvas(
                            grid, shape.channels, shape.scale, emit, together, planes.device
                        )
                    assert canvas is not None
                    canvas.add(place, tile, plane)
                count(len(group) * grid.area, total)
        if canvas is not None:
            canvas.finish()

    def _run_whole(
        self, way: InTiles, planes: torch.Tensor, count: Count, put: Put, together: int
    ) -> None:
        height, width = (side * self._shape.scale for side in planes.shape[-2:])
        total = len(planes) * way.computed
        count(0, total)
        size = max(way.at_once // together, 1) * together
        with self._holding(min(way.at_once, len(planes)) * way.grid.area):
            for first in range(0, len(planes), size):
                group = next(way.grid.tiles(planes[first : first + size]))
                made = [self._call(each) for each in group.split(way.at_once)]
                joined = torch.cat(made) if len(made) > 1 else made[0]
                put(first // together, 0, joined[..., :height, :width])
                count(len(group) * way.grid.area, total)


def _of_one_size(tiles: Iterable[_Tile], at_once: int) -> Iterator[list[_Tile]]:
    """Gather tiles that go through at once: at a picture's edge some are smaller."""
    for _, alike in itertools.groupby(tiles, key=lambda each: each[-1].shape):
        while group := [*itertools.islice(alike, at_once)]:
            yield group
