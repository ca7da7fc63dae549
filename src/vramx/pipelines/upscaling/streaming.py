"""Pictures of any common type through an engine, one after another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from vramx.errors import SessionClosedError
from vramx.pipelines.downloads import Downloads
from vramx.pipelines.images import Home, Planes, to_planes
from vramx.pipelines.options import UpscaleOptions
from vramx.pipelines.upscaling.engine import Engine
from vramx.pipelines.upscaling.reach import invisible
from vramx.pipelines.upscaling.resizing import RowResizer, resize, resized_rows
from vramx.pipelines.upscaling.ways import Count, Finish, Way

#: How many rows above and below bicubic interpolation looks at.
_BICUBIC = 2
NOT_OPEN = "super_resolution works inside its scope: `with … as sr:`"


class PictureStream:
    """Enlarges pictures while others are taken off the card.

    Parameters
    ----------
    engine : Engine
        What enlarges them.
    home : Home
        Where they are put together.
    options : UpscaleOptions
        What size the results have.

    Attributes
    ----------
    home : Home
        As given.
    count : callable
        Told of pixels that are done.
    """

    def __init__(self, engine: Engine, home: Home, options: UpscaleOptions) -> None:
        self.home = home
        self._options = options
        self.count: Count = nothing
        self._engine: Engine | None = engine
        self._downloads = Downloads()

    @property
    def engine(self) -> Engine:
        """What enlarges them.

        Raises
        ------
        SessionClosedError
            If it is closed.
        """
        if self._engine is None:
            raise SessionClosedError(NOT_OPEN)
        return self._engine

    def close(self) -> None:
        """Enlarge nothing more, in streams that are under way either."""
        self._engine = None

    def run(
        self, pictures: Iterable[Any], ways: dict[torch.Size, Way] | None = None
    ) -> Iterator[Any]:
        """Enlarge pictures.

        Parameters
        ----------
        pictures : iterable of PIL.Image.Image, numpy.ndarray or torch.Tensor
            Read at most two batches ahead: one is computed while another is taken off the card.
        ways : dict, optional
            By the shape of their colours, how pictures go through; filled.

        Yields
        ------
        same type
            In order.
        """
        ways = {} if ways is None else ways
        planes = (to_planes(each, self.home) for each in pictures)
        groups = self._groups(planes, ways)
        before: list[Callable[[], Any]] = []
        failure: Exception | None = None
        while failure is None:
            now: list[Callable[[], Any]] = []
            try:
                if (group := next(groups, None)) is not None:
                    now = self._begin(group, ways)
            except Exception as error:  # it comes after what was made before it
                failure = error
            while before:  # once the card has the next to do
                yield before.pop(0)()
            if not now and failure is None:
                return
            before = now
        raise failure

    def _begin(self, group: list[Planes], ways: dict[torch.Size, Way]) -> list[Callable[[], Any]]:
        """Have a group computed; return what waits for each of it."""
        made = self._enlarge(group[0], torch.cat([each.colour for each in group]), ways)
        waiting: list[Callable[[], Any]] = []
        for each in group:
            count = len(each.colour)
            steps = self._with_alpha(made[:count], each)
            on_host = each.device.type == "cpu"
            bring = self._downloads.begin(steps) if on_host else partial(_same, steps)
            waiting.append(partial(_restored, each, bring))
            made = made[count:]
        return waiting

    def write(self, picture: Any, put: Callable[[Any], None], ways: dict[torch.Size, Way]) -> None:
        """Enlarge a picture whose rows are taken as they are done.

        Parameters
        ----------
        picture : numpy.ndarray
            What `run` takes.
        put : callable
            Takes rows of the same type, from the top on.
        ways : dict
            As `run` has it.
        """
        planes = to_planes(picture, self.home)
        self._choose(planes, ways)
        height, width = planes.colour.shape[-2:]
        as_made = self._is_as_made(planes.colour)
        resizer = RowResizer(self._made_size(height, width)[0], self.target_size(height, width))
        come = done = 0

        def put_new(_: int, low: int, rows: torch.Tensor) -> None:
            nonlocal come, done
            high = low + rows.shape[2]
            if high <= come:  # it was put before memory ran out
                return
            new, come = rows[:, :, max(come - low, 0) :], high
            if not as_made:
                new = planes.steps(resizer.put(new))
            if new.shape[2]:
                put(planes.restore_steps(self._with_alpha(new, planes, done)))
                done += new.shape[2]

        self.engine.enlarge_into(put_new, planes.colour, *self._how(planes, as_made), ways)

    def _groups(
        self, pictures: Iterator[Planes], ways: dict[torch.Size, Way]
    ) -> Iterator[list[Planes]]:
        """Gather pictures of one size and kind that go through at once."""
        group: list[Planes] = []
        room = 0
        for planes in pictures:
            shape = planes.colour.shape[1:]
            if group and not (
                shape == group[0].colour.shape[1:]
                and planes.white == group[0].white
                and room >= len(planes.colour)
            ):
                yield group
                group = []
            if not group:
                room = self._choose(planes, ways).pictures
            group.append(planes)
            room -= len(planes.colour)
            if room <= 0:
                yield group
                group = []
        if group:
            yield group

    def _choose(self, planes: Planes, ways: dict[torch.Size, Way]) -> Way:
        """Choose how pictures of a size go through, and tell of it, once."""
        shape = planes.colour.shape[1:]
        if shape not in ways:
            ways[shape] = self.way(planes)
            self.engine.tell(ways[shape], planes.colour)
            self._tell_size(*shape[1:])
        return ways[shape]

    def way(self, planes: Planes) -> Way:
        """Choose how a picture goes through."""
        return self.engine.way(planes.colour, invisible(planes.white))

    def _enlarge(
        self, kind: Planes, pictures: torch.Tensor, ways: dict[torch.Size, Way]
    ) -> torch.Tensor:
        as_made = self._is_as_made(pictures)
        made = self.engine.enlarge(pictures, *self._how(kind, as_made), ways)
        if as_made:
            return made
        size = self.target_size(*pictures.shape[-2:])
        resized = [kind.steps(resize(each[None], size)) for each in made]
        return torch.cat(resized).contiguous(memory_format=torch.channels_last)

    def _how(self, kind: Planes, as_made: bool) -> tuple[float, Finish, Count]:
        return (
            invisible(kind.white),
            lambda values: kind.steps(values.clamp(0, 1)) if as_made else values.clamp(0, 1),
            self.count,
        )

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Tell the height and width of what becomes of a picture."""
        return self._options.size(height, width, self.engine.shape.scale)

    def _is_as_made(self, pictures: torch.Tensor) -> bool:
        height, width = pictures.shape[-2:]
        return self.target_size(height, width) == self._made_size(height, width)

    def _made_size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.engine.shape.scale, width * self.engine.shape.scale

    def _tell_size(self, height: int, width: int) -> None:
        size, made = self.target_size(height, width), self._made_size(height, width)
        if size[0] > made[0] or size[1] > made[1]:
            warnings.warn(
                f"{width}x{height} becomes {made[1]}x{made[0]} by the network, and from there "
                f"{size[1]}x{size[0]} by bicubic interpolation, which adds no detail",
                RuntimeWarning,
                stacklevel=5,
            )

    def _with_alpha(self, colour: torch.Tensor, planes: Planes, low: int = 0) -> torch.Tensor:
        """Put alpha beside rows of colours, which begin with a number."""
        if planes.alpha is None:
            return colour
        if self._is_as_made(planes.colour):
            scale = self.engine.shape.scale
            alpha = enlarged_rows(planes.alpha, scale, low, colour.shape[2])
        else:
            size = self.target_size(*planes.alpha.shape[-2:])
            alpha = resized_rows(planes.alpha, size, low, colour.shape[2])
        return torch.cat((colour, planes.steps(alpha)), dim=1)


def enlarged_rows(planes: torch.Tensor, scale: int, low: int, count: int) -> torch.Tensor:
    """Return rows of planes as bicubic interpolation enlarges them, from a number on."""
    if scale == 1:
        return planes[:, :, low : low + count]
    first = max(low // scale - _BICUBIC, 0)
    part = planes[:, :, first : -(-(low + count) // scale) + _BICUBIC]
    size = (part.shape[2] * scale, part.shape[3] * scale)
    made = functional.interpolate(part, size=size, mode="bicubic", align_corners=False)
    start = low - first * scale
    return made[:, :, start : start + count].clamp(0, 1)


def nothing(done: int, total: int) -> None:
    """Take no notice."""


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _restored(planes: Planes, bring: Callable[[], torch.Tensor]) -> Any:
    return planes.restore_steps(bring())
