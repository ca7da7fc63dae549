"""Enlarging pictures in memory with one network in a budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import torch

from vramx.errors import SessionClosedError
from vramx.pipelines.chain import Pipeline
from vramx.pipelines.images import is_picture, to_planes
from vramx.pipelines.models import Upscaler
from vramx.pipelines.networks import (
    channels_last,
    device_of,
    dtype_of,
    evaluating,
    has_tensor_cores_for,
)
from vramx.pipelines.options import UpscaleOptions
from vramx.pipelines.stage import Stage
from vramx.pipelines.upscalers import as_network
from vramx.pipelines.upscaling.arena import Arena
from vramx.pipelines.upscaling.assembly import assemble
from vramx.pipelines.upscaling.reach import invisible
from vramx.pipelines.upscaling.streaming import NOT_OPEN, PictureStream, nothing
from vramx.pipelines.upscaling.ways import Runner, Way
from vramx.session import Session
from vramx.units import format_size

#: What pictures may take where nothing is managed and so no budget is known.
_WITHOUT_BUDGET = 2**30

E = TypeVar("E", bound="Enlarger")
T = TypeVar("T")


class Enlarger:
    """Enlarges pictures that are in memory with a network; a context manager."""

    def __init__(
        self,
        model: Upscaler,
        *,
        options: UpscaleOptions,
        session: Session | None,
        session_options: Mapping[str, Any],
    ) -> None:
        self._network = network = as_network(model)
        self._options = options
        self._scope = contextlib.ExitStack()
        self._given = session
        self._backend = session_options.get("backend")
        stage = Stage(_do, network.modules)
        self._chain = Pipeline(
            {"enlarge": stage}, session=session, batch=1, options=session_options
        )
        self._device = torch.device("cpu")
        self._dtype = torch.float32
        self._channels_last = False
        self._pictures: PictureStream | None = None

    @property
    def session(self) -> Session:
        """The session in which the network is."""
        return self._chain.session

    @property
    def scale(self) -> int:
        """How much larger the network makes pictures."""
        return self._ready.engine.shape.scale

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """Tell the width and height of what a picture becomes."""
        size = self._ready.target_size(height, width)
        return size[1], size[0]

    @property
    def _ready(self) -> PictureStream:
        if self._pictures is None:
            raise SessionClosedError(NOT_OPEN)
        return self._pictures

    def __enter__(self: E) -> E:
        with contextlib.ExitStack() as scope:
            scope.enter_context(evaluating(*self._network.modules))
            self._dtype = dtype_of(*self._network.modules)
            self._channels_last = self._network.file is None and (
                self._dtype.itemsize < 4
                or (self._will_be_on_card() and has_tensor_cores_for(self._dtype))
            )
            for module in self._network.modules if self._channels_last else ():
                scope.enter_context(channels_last(module, self._given))
            scope.enter_context(self._chain)
            scope.enter_context(self._network.within(self._chain.session))
            self._device = device_of(self._chain.session)
            self._pictures = self._build()
            self._scope = scope.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None
        self._scope.__exit__(kind, error, trace)

    def _will_be_on_card(self) -> bool:
        if self._given is not None:
            return device_of(self._given).type == "cuda"
        return torch.cuda.is_available() and self._backend != "simulated"

    def _place(self, x: torch.Tensor) -> torch.Tensor:
        turned = self._channels_last and self._device.type == "cuda"
        layout = torch.channels_last if turned else torch.contiguous_format
        return x.to(self._device, self._dtype).contiguous(memory_format=layout)

    def _call(self, x: torch.Tensor) -> Any:
        return self._chain(partial(self._network.call, x))

    def _build(self) -> PictureStream:
        runner = Runner(
            call=self._call,
            within=self._chain,
            place=self._place,
            hold=self.session.pin,
            arena=Arena(self._device, self.session),
        )
        budget = self._chain.session.stats().budget or _WITHOUT_BUDGET
        stream = assemble(self._network, runner, budget, self._device, self._options)
        self.session.empty_cache()  # of what trying has left
        return stream

    def __call__(self, x: Any) -> Any:
        """Enlarge a picture, or an iterable of them.

        Parameters
        ----------
        x : PIL.Image.Image, numpy.ndarray, torch.Tensor, or iterable of them
            See `vramx.super_resolution`.

        Returns
        -------
        same type, or iterator
            What is given an iterable is an iterator that reads as it is read, at most two batches
            ahead: one is computed while another is taken off the card.

        Raises
        ------
        ConfigError
            If it is not such a picture.
        OutOfMemoryError
            If the smallest tile does not fit.
        """
        ready = self._ready
        if not is_picture(x) and isinstance(x, Iterable) and not isinstance(x, (str, bytes)):
            return ready.run(x)
        return next(ready.run([x]))

    def forecast(self, picture: Any) -> Way:
        """Tell how a picture would go through.

        Parameters
        ----------
        picture : PIL.Image.Image, numpy.ndarray or torch.Tensor
            What `vramx.super_resolution` takes.

        Returns
        -------
        InTiles or InBands
            Its ``describe()`` says it in words, its ``share`` how many pixels are computed over the
            picture's own.
        """
        return self._ready.way(to_planes(picture, self._ready.home))

    def seam_error(self, picture: Any) -> float:
        """Measure how much the edges of tiles or bands show in a picture.

        It is enlarged a second time: whole, where that fits, as it may where tiles were asked for;
        otherwise with its seams where the others have their middles. Of a network that looks at the
        whole picture, that shows a part of what the seams change.

        Parameters
        ----------
        picture : PIL.Image.Image, numpy.ndarray or torch.Tensor
            What `vramx.super_resolution` takes.

        Returns
        -------
        float
            The largest difference of a value, where white is 1. Zero where the picture goes through
            whole; from rounding about 1e-6 in float32 and some steps of 255 in half precision where
            the overlap covers what the network looks at.
        """
        engine, planes = self._ready.engine, to_planes(picture, self._ready.home)
        tolerance = invisible(planes.white)
        made = [
            engine.run(way, planes.colour, lambda values: values.clamp(0, 1), nothing)
            for way in (
                engine.way(planes.colour, tolerance),
                engine.other_way(planes.colour, tolerance),
            )
        ]
        return (made[0] - made[1]).abs().max().item()

    def report(self) -> str:
        """Describe the session and the sizes for people.

        Returns
        -------
        str
            The session's report, then the scale and the tiles.
        """
        engine = self._ready.engine
        return (
            f"{self._chain.report()}\n  {engine.shape.scale} times as large, "
            f"{engine.describe()}; weights of {format_size(self._network.weight_bytes)}"
        )


def _do(job: Callable[[], T]) -> T:
    return job()
