"""Enlarging pictures with one network, tile by tile, in a budget."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from vramx.errors import SessionClosedError
from vramx.pipelines.chain import Pipeline, as_count
from vramx.pipelines.files import check_paths
from vramx.pipelines.footprint import OUT_OF_MEMORY, Shape, find_shape, measure
from vramx.pipelines.images import ON_CPU, Home, Planes, is_picture, to_planes
from vramx.pipelines.networks import device_of, digest, dtype_of, evaluating
from vramx.pipelines.sizing import Sizes, bytes_beside_tiles, room_for_activations
from vramx.pipelines.stage import Stage
from vramx.pipelines.tiles import Canvas, Grid
from vramx.pipelines.upscalers import as_network
from vramx.session import Session
from vramx.units import format_size

#: What pictures may take where nothing is managed and so no budget is known.
_WITHOUT_BUDGET = 2**30
#: The side of a tile that no picture is larger than, in strides.
_WHOLE = 2**20


class SuperResolution:
    """Enlarges pictures with a network. Made by `vramx.super_resolution`; a context manager.

    Attributes
    ----------
    scale : int
        How much larger pictures become.
    overlap : int
        The context in pixels that is thrown away at the inner edges of tiles.
    """

    def __init__(
        self,
        model: Any,
        *,
        scale: int | None,
        tile: int | str,
        overlap: int | str,
        batch: int | str,
        multiple: int | None,
        session: Session | None,
        options: Mapping[str, Any],
    ) -> None:
        network = as_network(model)
        self._scale = network.scale if scale is None else as_count(scale, "scale")
        self._multiple = network.multiple if multiple is None else as_count(multiple, "multiple")
        self._tile = None if tile == "auto" else as_count(tile, "tile")
        self._batch = network.batch if batch == "auto" else as_count(batch, "batch")
        self._whole = network.whole and self._tile is None
        self._overlap = None if overlap == "auto" else overlap
        if self._overlap != 0 and self._overlap is not None:
            as_count(self._overlap, "overlap")
        self._model = network.module
        self._scope = contextlib.ExitStack()
        stage = Stage(network.call, () if network.call is network.module else [network.module])
        self._chain = Pipeline({"enlarge": stage}, session=session, batch=1, options=options)
        self._count_tiles: Callable[[int, int], None] = _nothing
        self._device = torch.device("cpu")
        self._dtype = torch.float32
        self._shape: Shape | None = None
        self._sizes: Sizes | None = None
        self._home = ON_CPU

    @property
    def session(self) -> Session:
        """The session in which the network is."""
        return self._chain.session

    @property
    def scale(self) -> int:
        """How much larger pictures become."""
        return self._ready[0].scale

    @property
    def overlap(self) -> int:
        """The context in pixels that is thrown away at the inner edges of tiles."""
        return self._ready[1].overlap

    @property
    def tile(self) -> int:
        """The side of tiles now, in pixels of the input; smaller pictures are one tile.

        Where vramx chooses, tiles are rectangles of at most that square's pixels.
        """
        return self._ready[1].side

    @property
    def _ready(self) -> tuple[Shape, Sizes]:
        if self._shape is None or self._sizes is None:
            raise SessionClosedError("super_resolution works inside its scope: `with … as sr:`")
        return self._shape, self._sizes

    def __enter__(self) -> SuperResolution:
        self._chain.__enter__()
        try:
            self._scope.enter_context(evaluating(self._model))
            self._device = device_of(self._chain.session)
            self._dtype = dtype_of(self._model)
            self._shape = find_shape(
                self._chain, self._place, scale=self._scale, multiple=self._multiple
            )
            self._sizes = self._choose_sizes(self._shape)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shape = self._sizes = None
        self._scope.close()
        self._chain.__exit__(kind, error, trace)

    def _place(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._device, self._dtype)

    def _choose_sizes(self, shape: Shape) -> Sizes:
        overlap, pixels = self._overlap, 0
        budget = self._chain.session.stats().budget or _WITHOUT_BUDGET
        room = room_for_activations(budget, _weight_bytes(self._model))
        self._home = Home(self._device, room // (2 * bytes_beside_tiles(shape.scale)))
        if overlap is None or self._tile is None or self._batch is None:
            footprint = measure(self._chain, self._place, shape)
            overlap = footprint.reach if overlap is None else overlap
            pixels = int(room / max(footprint.bytes_per_pixel, 1))
        assert isinstance(overlap, int)
        tile = _WHOLE * shape.multiple if self._whole else self._tile
        return Sizes(tile, self._batch, overlap, shape.multiple, pixels)

    def __call__(self, x: Any) -> Any:
        """Enlarge a picture, or an iterable of them.

        Parameters
        ----------
        x : PIL.Image.Image, numpy.ndarray, torch.Tensor, or iterable of them
            See `vramx.super_resolution`.

        Returns
        -------
        same type, or iterator
            What is given an iterable is an iterator that reads as it is read, at most a batch
            ahead.

        Raises
        ------
        ConfigError
            If it is not such a picture.
        OutOfMemoryError
            If the smallest tile does not fit.
        """
        self._ready  # noqa: B018 - outside the scope it raises
        if not is_picture(x) and isinstance(x, Iterable) and not isinstance(x, (str, bytes)):
            return self._stream(x)
        return next(self._stream([x]))

    def _stream(self, pictures: Iterable[Any]) -> Iterator[Any]:
        for group in self._groups(to_planes(each, self._home) for each in pictures):
            colours = self._enlarge(torch.cat([each.colour for each in group])).clamp_(0, 1)
            while group:
                planes = group.pop(0)
                count = len(planes.colour)
                yield planes.restore(self._with_alpha(colours[:count], planes.alpha))
                colours = colours[count:]

    def _groups(self, pictures: Iterator[Planes]) -> Iterator[list[Planes]]:
        """Gather pictures of one size that fit a batch."""
        group: list[Planes] = []
        room = 0
        for planes in pictures:
            size = planes.colour.shape[1:]
            if group and (size != group[0].colour.shape[1:] or room < len(planes.colour)):
                yield group
                group = []
            if not group:
                grid, batch = self._ready[1].plan(*size[1:])
                room = batch // grid.count
            group.append(planes)
            room -= len(planes.colour)
            if room <= 0:
                yield group
                group = []
        if group:
            yield group

    def _with_alpha(self, colour: torch.Tensor, alpha: torch.Tensor | None) -> torch.Tensor:
        if alpha is None:
            return colour
        if self.scale != 1:
            alpha = nn.functional.interpolate(
                alpha, size=colour.shape[-2:], mode="bicubic", align_corners=False
            ).clamp(0, 1)
        return torch.cat((colour, alpha), dim=1)

    def _enlarge(self, pictures: torch.Tensor) -> torch.Tensor:
        """Enlarge ``(n, 1 or 3, height, width)``, with less at once when memory runs out."""
        shape, sizes = self._ready
        planes = len(pictures) * (pictures.shape[1] if shape.channels == 1 else 1)
        while True:
            grid, batch = sizes.plan(*pictures.shape[-2:])
            batch = min(batch, planes * grid.count)
            try:
                return self._enlarge_tiles(pictures, grid, batch)
            except OUT_OF_MEMORY as error:
                if not sizes.shrink(grid, batch):
                    raise
                why = str(error).splitlines()[0]
            smaller, fewer = sizes.plan(*pictures.shape[-2:])
            warnings.warn(
                f"{batch} tiles of {_size(grid)} at once did not fit: going on with {fewer} of "
                f"{_size(smaller)} ({why})",
                RuntimeWarning,
                stacklevel=4,
            )

    def _enlarge_tiles(self, pictures: torch.Tensor, grid: Grid, batch: int) -> torch.Tensor:
        """Enlarge ``(n, 1 or 3, height, width)`` in tiles."""
        shape, _ = self._ready
        count, colours = pictures.shape[:2]
        # A network of one channel sees colours as pictures; one of three sees grey as colours.
        planes = pictures.flatten(0, 1)[:, None] if shape.channels == 1 else pictures
        planes = planes.expand(-1, shape.channels, -1, -1)
        canvas = Canvas(grid, shape.channels, shape.scale, len(planes), pictures.device)
        tiles = (
            (number, place, tile)
            for number, picture in enumerate(planes)
            for place, tile in enumerate(grid.tiles(picture))
        )
        total = len(planes) * grid.count
        self._count_tiles(0, total)
        while group := [*itertools.islice(tiles, batch)]:
            made = self._chain(self._place(torch.stack([tile for _, _, tile in group])))
            for (number, place, _), tile in zip(group, made):
                canvas.add(place, tile, number)
            self._count_tiles(len(group), total)
        result = canvas.pictures()
        if shape.channels == 1:
            return result.view(count, colours, *result.shape[-2:])
        return result if colours == shape.channels else result.mean(1, keepdim=True)

    def seam_error(self, picture: Any) -> float:
        """Measure how much the tiles' edges show in a picture.

        It is enlarged twice, with the seams of one where the other's tiles have their middles.

        Parameters
        ----------
        picture : PIL.Image.Image, numpy.ndarray or torch.Tensor
            What `vramx.super_resolution` takes.

        Returns
        -------
        float
            The largest difference of a value, where white is 1. Zero where one tile is enough;
            about 1e-6, from rounding, where the overlap covers what the network looks at.
        """
        _, sizes = self._ready
        colour = to_planes(picture, self._home).colour
        once = self._enlarge(colour)
        grid, batch = sizes.plan(*colour.shape[-2:], shifted=True)
        if grid.count == 1:
            return 0.0
        again = self._enlarge_tiles(colour, grid, batch)
        return (once.clamp(0, 1) - again.clamp(0, 1)).abs().max().item()

    def enlarge_picture(
        self,
        source: str | Path,
        target: str | Path,
        *,
        overwrite: bool = False,
        progress: bool = False,
    ) -> None:
        """Enlarge a picture in a file.

        Parameters
        ----------
        source : str or Path
            What to read: anything that Pillow reads, of one frame.
        target : str or Path
            What to write; the suffix chooses the format. It is there whole or not at all. The ICC
            profile and EXIF data are kept, and the EXIF orientation is applied.
        overwrite : bool
            Whether the target may exist.
        progress : bool
            Whether to show a bar on standard error.

        Raises
        ------
        MediaError
            If a file cannot be read or written, or the format has no place for what the picture
            has, such as alpha in JPEG.
        ConfigError
            If it is a picture of a mode that is not supported.
        """
        from vramx.pipelines.pictures import load_picture, save_picture, writable_format

        source, target = Path(source), Path(target)
        check_paths(source, target, overwrite=overwrite)
        writable_format(target)
        picture = load_picture(source)
        with self._tile_bar(progress, source.name):
            enlarged = self(picture)
        save_picture(enlarged, target)

    @contextlib.contextmanager
    def _tile_bar(self, shown: bool, name: str) -> Iterator[None]:
        if not shown:
            yield
            return
        from tqdm import tqdm

        with tqdm(unit="tile", desc=name) as bar:

            def count(done: int, total: int) -> None:
                if done == 0:
                    bar.reset(total)
                bar.update(done)

            self._count_tiles = count
            try:
                yield
            finally:
                self._count_tiles = _nothing

    def enlarge_video(
        self,
        source: str | Path,
        target: str | Path,
        *,
        codec: str = "libx264",
        options: Mapping[str, str] | None = None,
        segment: int = 240,
        overwrite: bool = False,
        progress: bool = False,
    ) -> int:
        """Enlarge a video in a file; see `vramx.pipelines.video.transform_video`.

        Times of frames are kept and audio is copied; subtitles and chapters are not. When the job
        is stopped, by an interrupt or a full disk, the same call goes on with what is finished, and
        the result is the same as without the stop.

        Parameters
        ----------
        source, target : str or Path
            What to read, and what to write: .mp4, .m4v, .mov, or .mkv and .webm, which keep times
            to the millisecond. Finished segments gather in ``TARGET.parts``.
        codec : str
            FFmpeg's name of the encoder.
        options : mapping of str to str, optional
            The encoder's options, such as ``{"crf": "18"}``.
        segment : int
            Frames a segment: the most that a stop loses.
        overwrite : bool
            Whether the target may exist.
        progress : bool
            Whether to show a bar on standard error.

        Returns
        -------
        int
            How many frames the target has.

        Raises
        ------
        MediaError
            If a file cannot be read or written, is truncated or has no video, or the work folder
            holds another job. Finished segments stay.
        ConfigError
            If there is no such codec.
        """
        from vramx.pipelines.video import VideoSource, transform_video

        shape, sizes = self._ready
        video = VideoSource(Path(source))
        grid, batch = sizes.plan(video.height, video.width)
        identity = {
            "model": f"{type(self._model).__name__} {digest(self.session, self._model)}",
            "scale": str(shape.scale),
            "tile": f"{_size(grid)}, overlap {sizes.overlap}",
            "batch": str(batch),
            "put together on": self._home.of(video.height * video.width).type,
        }
        return transform_video(
            source,
            target,
            self._stream,
            identity=identity,
            codec=codec,
            options=options,
            segment=segment,
            overwrite=overwrite,
            progress=progress,
        ).frames

    def report(self) -> str:
        """Describe the session and the sizes for people.

        Returns
        -------
        str
            The session's report, then the scale and the tiles.
        """
        shape, sizes = self._ready
        tiles = f"in tiles of {sizes.side} pixels with {sizes.overlap} of context"
        if self._whole and not sizes.shrunk:
            tiles = "pictures whole"
        return (
            f"{self._chain.report()}\n  {shape.scale} times as large, {tiles}; weights of "
            f"{format_size(_weight_bytes(self._model))}"
        )


def _nothing(done: int, total: int) -> None:
    """Take no notice."""


def _size(grid: Grid) -> str:
    return f"{grid.columns.size}x{grid.rows.size}"


def _weight_bytes(model: nn.Module) -> int:
    tensors = itertools.chain(model.parameters(), model.buffers())
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
