"""Callable classes for `ray.data.Dataset.map_batches`, each with one session an actor."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from vramx.errors import ConfigError
from vramx.integrations.ray.seat import Seat
from vramx.pipelines.options import SwapOptions, UpscaleOptions
from vramx.session import Session
from vramx.session.options import SessionOptions
from vramx.tasks.faces import face_packages, opened
from vramx.tasks.models import FaceModels, UpscalerSpec

if TYPE_CHECKING:
    from torch import nn

    from vramx.pipelines.enlarger import SuperResolution
    from vramx.pipelines.swapping.swap import FaceSwap

W = TypeVar("W")
Batch = dict[str, Any]


class _Actor(ABC, Generic[W]):
    """What works on batches in one session, opened once.

    An error of the constructor is kept and raised by the first call: Ray tells of an actor that
    cannot be made in text alone, and of a call that fails with the error's type.
    """

    def __init__(self, session: SessionOptions) -> None:
        self._failure: Exception | None = None
        self._seat: Seat[W] | None = None
        try:
            self._seat = Seat(session, self._opened)
        except Exception as error:
            self._failure = error

    @abstractmethod
    def _opened(self, session: Session) -> contextlib.AbstractContextManager[W]:
        """Open what the work is done with."""

    @abstractmethod
    def _made(self, what: W, batch: Batch) -> Batch:
        """Work on one batch."""

    def __call__(self, batch: Batch) -> Batch:
        """Work on one batch.

        Parameters
        ----------
        batch : dict of str to numpy.ndarray
            Columns, as Ray gives them with ``batch_format="numpy"``, its default.

        Returns
        -------
        dict of str to numpy.ndarray
            The same columns, with what was made.

        Raises
        ------
        Error
            What opening or the work raised.
        """
        if self._failure is not None:
            raise self._failure
        assert self._seat is not None
        return self._seat.do(lambda what: self._made(what, batch))


class _PictureActor(_Actor[W]):
    """Makes a picture of each picture in a column."""

    def __init__(self, session: SessionOptions, column: str) -> None:
        self._column = column
        super().__init__(session)

    @abstractmethod
    def _pictures(self, what: W, pictures: Iterator[Any]) -> Iterator[Any]:
        """Make a picture of each."""

    def _made(self, what: W, batch: Batch) -> Batch:
        pictures = _column(batch, self._column)
        return {**batch, self._column: _as_column([*self._pictures(what, iter(pictures))])}


class Upscaler(_PictureActor["SuperResolution"]):
    """Enlarges the pictures of a column; for ``map_batches``.

    Parameters
    ----------
    model : str or UpscalerSpec
        The network: a trained one by its name, a file, or ``package.module:factory``.
    column : str
        The column of pictures: arrays ``(height, width, channels)`` of uint8, uint16, or floats
        from 0 to 1, of one size or several.
    options : UpscaleOptions
        The size of results, and how they are made.
    session : SessionOptions
        Of the actor's session. Its budget is by default the actor's fraction of the card less
        `reserve`.

    Examples
    --------
    >>> large = pictures.map_batches(
    ...     Upscaler,
    ...     fn_constructor_kwargs={"model": "realesrgan-x4plus"},
    ...     batch_size=8,
    ...     num_gpus=0.5,
    ...     compute=ray.data.ActorPoolStrategy(size=2),
    ... )
    """

    def __init__(
        self,
        model: str | UpscalerSpec,
        *,
        column: str = "image",
        options: UpscaleOptions = UpscaleOptions(),
        session: SessionOptions = SessionOptions(),
    ) -> None:
        self._model = model
        self._options = options
        super().__init__(session, column)

    @contextlib.contextmanager
    def _opened(self, session: Session) -> Iterator[SuperResolution]:
        import vramx.pipelines

        spec = UpscalerSpec(self._model) if isinstance(self._model, str) else self._model
        network = spec.load(session)
        asked = {name: value for name, value in vars(self._options).items() if value is not None}
        with vramx.pipelines.super_resolution(network, session=session, **asked) as enlarger:
            yield enlarger

    def _pictures(self, what: SuperResolution, pictures: Iterator[Any]) -> Iterator[Any]:
        return iter(what(pictures))


class FaceSwapper(_PictureActor["FaceSwap"]):
    """Puts a face into the pictures of a column; for ``map_batches``.

    Parameters
    ----------
    source : str, Path or numpy.ndarray, or a list of them
        A picture of the face, as in `vramx.face_swap`.
    models : FaceModels
        The models, with a swapper.
    column : str
        The column of pictures, as of `Upscaler`.
    references : sequence of str or Path
        Pictures: only faces that resemble the largest of one of them are swapped.
    options : SwapOptions
        Which faces are swapped, and how.
    session : SessionOptions
        As of `Upscaler`.
    """

    def __init__(
        self,
        source: Any,
        models: FaceModels,
        *,
        column: str = "image",
        references: Sequence[str | Path] = (),
        options: SwapOptions = SwapOptions(),
        session: SessionOptions = SessionOptions(),
    ) -> None:
        self._source = source
        self._models = models
        self._references = tuple(map(Path, references))
        self._options = options
        super().__init__(session, column)

    @contextlib.contextmanager
    def _opened(self, session: Session) -> Iterator[FaceSwap]:
        with (
            face_packages(),
            opened(self._models, session, self._options, self._references) as swap,
        ):
            yield swap

    def _pictures(self, what: FaceSwap, pictures: Iterator[Any]) -> Iterator[Any]:
        return iter(what(self._source, pictures))


class Predictor(_Actor["nn.Module"]):
    """Runs a torch module on columns; for ``map_batches``.

    Parameters
    ----------
    module : str or callable
        A TorchScript or torch.export file, ``package.module:factory``, or what makes the module
        when it is called in the actor: a function without arguments.
    inputs : sequence of str
        The columns that become its arguments, as tensors on the session's device.
    output : str
        The column for the tensor that it returns. If it returns a dict of tensors, those are
        columns by their names, and `output` is not used. The tensors' first axis is that of the
        batch. bfloat16, which numpy lacks, becomes float32.
    session : SessionOptions
        As of `Upscaler`.
    """

    def __init__(
        self,
        module: str | Callable[[], nn.Module],
        *,
        inputs: Sequence[str] = ("data",),
        output: str = "prediction",
        session: SessionOptions = SessionOptions(),
    ) -> None:
        self._module = module
        self._inputs = [inputs] if isinstance(inputs, str) else [*inputs]
        self._output = output
        super().__init__(session)

    @contextlib.contextmanager
    def _opened(self, session: Session) -> Iterator[nn.Module]:
        from torch import nn

        from vramx.integrations.torch.modelspec import load_model
        from vramx.pipelines.networks import device_of

        module = load_model(self._module) if isinstance(self._module, str) else self._module()
        if not isinstance(module, nn.Module):
            raise ConfigError(f"{self._module!r} made a {type(module).__name__}, no torch module")
        module.eval()
        session.manage(module)
        self._device = device_of(session)
        yield module

    def _made(self, what: nn.Module, batch: Batch) -> Batch:
        import torch

        columns = [_column(batch, name) for name in self._inputs]
        with torch.inference_mode():
            given = [torch.from_numpy(np.array(each)).to(self._device) for each in columns]
            made = what(*given)
        told = made if isinstance(made, Mapping) else {self._output: made}
        for name, tensor in told.items():
            if not isinstance(tensor, torch.Tensor) or tensor.shape[:1] != (len(columns[0]),):
                raise ConfigError(
                    f"the module made {_described(tensor)} for column {name!r}: it must return a "
                    f"tensor whose first axis is the batch's, {len(columns[0])}, or a dict of them"
                )
        return {**batch, **{name: _as_numpy(tensor) for name, tensor in told.items()}}


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


def _as_numpy(tensor: Any) -> Any:
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _column(batch: Batch, name: str) -> Any:
    try:
        return batch[name]
    except KeyError:
        there = ", ".join(batch)
        raise ConfigError(f"the batch has no column {name!r}, but {there}: name another") from None


def _as_column(pictures: list[Any]) -> Any:
    """Stack pictures of one size; others become an array of arrays, as Ray has them."""
    if len({(each.shape, each.dtype) for each in pictures}) == 1:
        return np.stack(pictures)
    column = np.empty(len(pictures), dtype=object)
    for number, each in enumerate(pictures):
        column[number] = each
    return column
