"""Pictures through a network band by band, where its layers look at rows near by alone."""

from __future__ import annotations

import torch
from torch import nn

from vramx.pipelines.upscaling import bands, tracing
from vramx.pipelines.upscaling.fitting import fitting_bands
from vramx.pipelines.upscaling.footprint import OUT_OF_MEMORY, Shape, peak_bytes, precision_of
from vramx.pipelines.upscaling.layers import NotByRowsError, RowGraph
from vramx.pipelines.upscaling.schedule import order
from vramx.pipelines.upscaling.tiles import reflect, round_up
from vramx.pipelines.upscaling.ways import Count, InBands, Put, Runner

#: The height and width of the picture on which it is tried.
_TRIED = (32, 512)
#: What operations take beside what they give, and what lies between that, at least.
_SCRATCH = 1.35
#: Results may differ in the mean by so many times the precision.
_ALIKE = 8


class Bands:
    """Enlarges pictures band by band, if the network allows that.

    Parameters
    ----------
    module : torch.nn.Module
        The network, managed and in evaluation mode.
    runner : Runner
        Runs it: what bands give must equal what its call gives.
    shape : Shape
        What the network takes and gives.

    Attributes
    ----------
    refusal : str or None
        Why the network does not go band by band.
    """

    def __init__(
        self,
        module: nn.Module,
        runner: Runner,
        shape: Shape,
    ) -> None:
        self._module = module
        self._runner = runner
        self._shape = shape
        self._graphs: dict[tuple[int, int], RowGraph] = {}
        self._element_bytes = 0.0
        self._known: tuple[object, InBands | None] | None = None
        self.refusal: str | None = None
        try:
            self._try()
        except NotByRowsError as error:
            self.refusal = str(error)
        except OUT_OF_MEMORY:
            self.refusal = "a small picture does not fit"

    def _try(self) -> None:
        """See whether it gives the same on a small picture, and what that takes."""
        graph = self._graph(*_TRIED)
        noise = torch.rand(
            (1, self._shape.channels, graph.layers[0].height, graph.layers[0].width),
            generator=torch.Generator().manual_seed(0),
        )
        picture = self._runner.place(noise)
        later = 8 * max(layer.least for layer in graph.layers)
        low = order(graph, [_TRIED[0] // 4] + [later] * (graph.stages - 1))
        found: list[torch.Tensor] = []

        def run(picture: torch.Tensor) -> torch.Tensor:
            self._runner.within(
                lambda: bands.run(graph, low, picture, lambda _, rows: found.append(rows))
            )
            return torch.cat(found, dim=2)

        wanted = self._runner.call(picture)
        taken, made = peak_bytes(run, picture)
        if made.shape != wanted.shape or not _alike(made, wanted):
            raise NotByRowsError("layer by layer it gives something else than at once")
        beside = 2 * made.numel() * made.element_size()
        measured = (taken - beside) / low.load.elements
        self._element_bytes = max(measured, _SCRATCH * made.element_size())

    def _graph(self, height: int, width: int) -> RowGraph:
        multiple = self._shape.multiple
        size = round_up(height, multiple), round_up(width, multiple)
        if size not in self._graphs:
            self._graphs = {size: tracing.trace(self._module, self._shape.channels, *size)}
        return self._graphs[size]

    def way(self, height: int, width: int, planes: int, room: int) -> InBands | None:
        """Choose the bands of pictures of a size.

        Parameters
        ----------
        height, width : int
            The size.
        planes : int
            How many times a picture goes through, all of them together.
        room : int
            Bytes that its bands may take.

        Returns
        -------
        InBands or None
            None where the network does not go by rows, or nothing fits.
        """
        if self.refusal is not None:
            return None
        try:
            graph = self._graph(height, width)
        except NotByRowsError as error:
            self.refusal = str(error)
            return None
        asked = (graph, int(room / self._element_bytes / planes) - _picture_elements(graph))
        if self._known is None or self._known[0] != asked:
            chosen = fitting_bands(*asked)
            way = None if chosen is None else InBands(graph, order(graph, chosen))
            self._known = (asked, way)
        return self._known[1]

    def run(self, way: InBands, pictures: torch.Tensor, count: Count, put: Put) -> None:
        """Enlarge a picture.

        Parameters
        ----------
        way : InBands
            For pictures of its size.
        pictures : torch.Tensor
            Of shape ``(planes, channels, height, width)``.
        count : callable
            Told of the pixels that are done.
        put : callable
            Takes rows of what the network gave.
        """
        height, width = pictures.shape[-2:]
        scale, total = self._shape.scale, height * width
        given = way.graph.layers[0]
        padded = reflect(pictures, given.height, given.width)
        count(0, total)

        def emit(low: int, rows: torch.Tensor) -> None:
            high = min(low + rows.shape[2], height * scale)
            if high > low:
                put(0, low, rows[:, :, : high - low, : width * scale])
            count((high - low) * width // scale, total)

        elements = _picture_elements(way.graph) + way.order.load.elements
        nbytes = int(len(pictures) * elements * self._element_bytes)
        with self._runner.arena.holding(nbytes), self._runner.hold(way.graph.constants):
            placed = self._runner.place(padded)
            self._runner.within(lambda: bands.run(way.graph, way.order, placed, emit))


def _picture_elements(graph: RowGraph) -> int:
    given = graph.layers[0]
    return given.height * given.row_elements


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    off = (one.float().clamp(0, 1) - other.float().clamp(0, 1)).abs().mean().item()
    return off <= _ALIKE * precision_of(one)
