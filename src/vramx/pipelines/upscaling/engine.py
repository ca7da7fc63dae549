"""Pictures through a network by the way that a budget allows."""

from __future__ import annotations

import warnings

import torch

from vramx.pipelines.upscaling.arena import Arena
from vramx.pipelines.upscaling.by_bands import Bands
from vramx.pipelines.upscaling.by_tiles import WASTEFUL, Tiles
from vramx.pipelines.upscaling.footprint import OUT_OF_MEMORY, Shape
from vramx.pipelines.upscaling.sizing import PICTURES, WHOLE, Sizes
from vramx.pipelines.upscaling.ways import Count, Finish, InBands, InTiles, Put, Runner, Way

#: Values that are finished at once: copies of them are made.
_AT_ONCE = 2**21


class Engine:
    """Enlarges pictures whole where they fit, else band by band, else in tiles.

    Parameters
    ----------
    runner : Runner
        Runs the network.
    shape : Shape
        What it takes and gives.
    sizes : Sizes
        How large tiles may be.
    overlap : int, optional
        The context that tiles share; measured unless given.
    bands : Bands, optional
        What enlarges them band by band; unless given they go in tiles.
    room : int
        Bytes that what is computed may take.
    pixel_bytes : float
        What a pixel takes of torch's memory in the network.
    """

    def __init__(
        self,
        runner: Runner,
        shape: Shape,
        sizes: Sizes,
        overlap: int | None,
        bands: Bands | None,
        room: int,
        pixel_bytes: float,
    ) -> None:
        self._arena = runner.arena
        self.shape = shape
        self.sizes = sizes
        self._room = room
        self._tiles = Tiles(runner, shape, sizes, overlap, pixel_bytes)
        self._bands = bands

    @property
    def in_tiles(self) -> bool:
        """Whether pictures that do not fit go in tiles."""
        return self._bands is None or self._bands.refusal is not None

    def describe(self) -> str:
        """Say what pictures go through by, whatever their size."""
        sizes = self.sizes
        if sizes.tile is not None and sizes.tile >= WHOLE and not sizes.shrunk:
            return "pictures whole"
        if not self.in_tiles:
            return f"whole up to {sizes.pixels} pixels, else band by band"
        overlap = "as many as are seen" if self._tiles.overlap is None else self._tiles.overlap
        tile = f"at most {sizes.pixels}" if sizes.tile is None else sizes.tile
        return f"in tiles of {tile} pixels with {overlap} of context"

    def _planes(self, pictures: torch.Tensor) -> torch.Tensor:
        """Turn pictures ``(n, 1 or 3, h, w)`` into as many as the network takes, one by one.

        A network of one channel sees colours as pictures; one of three sees grey as colours.
        """
        planes = pictures.flatten(0, 1)[:, None] if self.shape.channels == 1 else pictures
        return planes.expand(-1, self.shape.channels, -1, -1)

    def way(self, pictures: torch.Tensor, tolerance: float, *, shifted: bool = False) -> Way:
        """Choose how pictures go through.

        Parameters
        ----------
        pictures : torch.Tensor
            Of shape ``(n, 1 or 3, height, width)``. On the first of them the context is measured
            that tiles need.
        tolerance : float
            What change of a value is not seen.
        shifted : bool
            Whether to put the seams elsewhere.

        Returns
        -------
        InTiles or InBands
            The way.
        """
        planes = self._planes(pictures[:1])
        height, width = planes.shape[-2:]
        whole = self._tiles.whole(height, width)
        if whole is not None:
            return whole
        if self._bands is not None:
            room = self._room // 2 if shifted else self._room
            if pictures.is_cuda:  # the card holds what becomes of them, too
                room -= room // PICTURES
            banded = self._bands.way(height, width, len(planes), room)
            if banded is not None:
                return banded
        return self._tiles.way(planes[0], tolerance, shifted=shifted)

    def other_way(self, pictures: torch.Tensor, tolerance: float) -> Way:
        """Choose a way by which pictures show no seams, or show them elsewhere; see `way`."""
        whole = self._tiles.whole(*pictures.shape[-2:], asked=False)
        return self.way(pictures, tolerance, shifted=True) if whole is None else whole

    def enlarge(
        self,
        pictures: torch.Tensor,
        tolerance: float,
        finish: Finish,
        count: Count,
        ways: dict[torch.Size, Way],
    ) -> torch.Tensor:
        """Enlarge pictures; see `enlarge_into`.

        Returns
        -------
        torch.Tensor
            ``(n, 1 or 3, height * scale, width * scale)``, where the pictures are.
        """
        canvas = self._canvas(pictures)
        self.enlarge_into(canvas.put, pictures, tolerance, finish, count, ways)
        return canvas.pictures

    def enlarge_into(
        self,
        put: Put,
        pictures: torch.Tensor,
        tolerance: float,
        finish: Finish,
        count: Count,
        ways: dict[torch.Size, Way],
    ) -> None:
        """Enlarge pictures, with less at once when memory runs out.

        Parameters
        ----------
        put : callable
            Takes what rows have become, from the top on; from the top again after memory ran out.
        pictures : torch.Tensor
            Of shape ``(n, 1 or 3, height, width)``.
        tolerance : float
            What change of a value is not seen.
        finish : callable
            Takes values ``(n, 1 or 3, rows, width)`` and returns what becomes of them.
        count : callable
            Told of the pixels that are done.
        ways : dict
            How pictures of their shape go, and what becomes of that.

        Raises
        ------
        OutOfMemoryError
            If the least does not fit.
        """
        shape = pictures.shape[1:]
        while True:
            try:
                return self._run(ways[shape], pictures, finish, count, put)
            except OUT_OF_MEMORY as error:
                smaller = self._smaller(ways[shape], pictures, tolerance)
                if smaller is None:
                    raise
                why = str(error).splitlines()[0]
            warnings.warn(
                f"a picture did not fit {ways[shape].describe()}: going on {smaller.describe()} "
                f"({why})",
                RuntimeWarning,
                stacklevel=5,
            )
            ways[shape] = smaller

    def tell(self, way: Way, pictures: torch.Tensor) -> None:
        """Warn of what the way of some pictures costs or may show."""
        if isinstance(way, InBands) or way.grid.count == 1:
            return
        height, width = pictures.shape[-2:]
        refusal = "" if self._bands is None else f", not band by band: {self._why_no_bands}"
        told = f"{width}x{height} goes {way.describe()}{refusal}"
        if way.farther:
            warnings.warn(
                f"{told}. The network looks farther than {way.overlap} pixels, perhaps at the "
                "whole picture, so that seams may show: seam_error() measures them",
                RuntimeWarning,
                stacklevel=5,
            )
        if way.share > WASTEFUL:
            warnings.warn(f"{told}. {self._tiles.advice(way)}", RuntimeWarning, stacklevel=5)

    @property
    def _why_no_bands(self) -> str:
        assert self._bands is not None
        return self._bands.refusal or "the rows that it looks at do not fit"

    def _smaller(self, way: Way, pictures: torch.Tensor, tolerance: float) -> Way | None:
        """Choose a way with half at once, if there is one."""
        if isinstance(way, InBands):
            self._room //= 2
            return self.way(pictures, tolerance)
        planes = len(self._planes(pictures))
        at_once = min(way.at_once, planes * way.grid.count)
        self.sizes.shrink(at_once * way.grid.area)
        smaller = self.way(pictures, tolerance)
        is_less = (
            isinstance(smaller, InBands)
            or smaller.at_once * smaller.grid.area < at_once * way.grid.area
        )
        return smaller if is_less else None

    def run(self, way: Way, pictures: torch.Tensor, finish: Finish, count: Count) -> torch.Tensor:
        """Enlarge pictures in a way; see `enlarge`."""
        canvas = self._canvas(pictures)
        self._run(way, pictures, finish, count, canvas.put)
        return canvas.pictures

    def _canvas(self, pictures: torch.Tensor) -> _Canvas:
        height = pictures.shape[-2] * self.shape.scale
        return _Canvas(len(pictures), height, pictures.device, self._arena)

    def _run(
        self, way: Way, pictures: torch.Tensor, finish: Finish, count: Count, put: Put
    ) -> None:
        colours = pictures.shape[1]

        def put_finished(first: int, low: int, rows: torch.Tensor) -> None:
            values = rows[:, :, :1].numel()
            for strip in rows.split(max(_AT_ONCE // values, 1), dim=2):
                put(first, low, finish(self._as_given(strip, colours)))
                low += strip.shape[2]

        if isinstance(way, InTiles):
            together = colours if self.shape.channels == 1 else 1
            self._tiles.run(way, self._planes(pictures), count, put_finished, together=together)
            return
        assert self._bands is not None
        for place, picture in enumerate(pictures):

            def put_of(_: int, low: int, rows: torch.Tensor, place: int = place) -> None:
                put_finished(place, low, rows)

            self._bands.run(way, self._planes(picture[None]), count, put_of)

    def _as_given(self, rows: torch.Tensor, colours: int) -> torch.Tensor:
        """Turn what the network gave into as many colours as the pictures have; see `_planes`."""
        rows = rows.float()
        if self.shape.channels == 1:
            return rows.reshape(-1, colours, *rows.shape[-2:])
        return rows.mean(1, keepdim=True) if colours != self.shape.channels else rows


class _Canvas:
    """Pictures that grow row by row; their memory is taken when their kind is known."""

    def __init__(self, count: int, height: int, device: torch.device, arena: Arena) -> None:
        self._count = count
        self._height = height
        self._device = device
        self._arena = arena
        self._made: torch.Tensor | None = None

    def put(self, first: int, low: int, rows: torch.Tensor) -> None:
        """Put rows of pictures, from a number on, where they belong."""
        if self._made is None:
            # Of the caller's memory and not of inference, since the caller keeps and may change it.
            with self._arena.outside(), torch.inference_mode(False):
                self._made = torch.empty(
                    (self._count, rows.shape[1], self._height, rows.shape[3]),
                    dtype=rows.dtype,
                    device=self._device,
                    memory_format=torch.channels_last,  # as pictures in files are
                )
        rows = rows.contiguous(memory_format=torch.channels_last)
        self._made[first : first + len(rows), :, low : low + rows.shape[2]] = rows

    @property
    def pictures(self) -> torch.Tensor:
        """The pictures, of which all rows have been put."""
        assert self._made is not None
        return self._made
