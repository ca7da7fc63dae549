"""The models of the chain: what each is given, and what it must give back."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from torch import nn

from vramx.errors import ConfigError
from vramx.pipelines.faces import Alignment, align, template
from vramx.pipelines.networks import device_of, digest, dtype_of
from vramx.pipelines.onnx.faces import FaceFile
from vramx.pipelines.onnx.roles import detector_in, model_in
from vramx.pipelines.swapping.face_model import FaceModel
from vramx.pipelines.swapping.found import Embedding, Face, normalised
from vramx.pipelines.upscaling.footprint import OUT_OF_MEMORY
from vramx.session import Session

Pixels = torch.Tensor  # (3, height, width), RGB, float32 from 0 to 1
Masked = tuple[Pixels, torch.Tensor | None]  # a crop, and how much of each of its pixels is taken
#: What the user gives as one.
Given: TypeAlias = "Callable[..., object] | FaceModel | str | os.PathLike[str]"
T = TypeVar("T")
R = TypeVar("R")

#: Of a face: left, top, right, bottom, score, and x and y of five landmarks.
_ROW = 15


class FaceNetwork:
    """One of the user's models.

    Parameters
    ----------
    given : FaceModel, torch.nn.Module, callable, str or path
        The model; a path is of an ONNX file.
    batch : int
        How many pictures it is called with at once, at the most.

    Attributes
    ----------
    modules : list of torch.nn.Module
        Whose weights it uses.
    at_once : int
        How many pictures it is called with now; less than at first where memory ran out.
    """

    role: ClassVar[str]
    _usual_size: ClassVar[int | None]

    def __init__(self, given: Given, batch: int) -> None:
        self._file: FaceFile | None = None
        try:
            model = given if isinstance(given, FaceModel) else FaceModel(given)
            if model.path is not None:
                self._file = self._in_file(model.path)
                model = self._file.said(model)
            self.size = model.size or self._usual_size
            self.kind = self._template(model)
            if model.classes and not isinstance(self, Masker):
                raise ConfigError("classes are of a mask, which it does not make")
        except ConfigError as error:
            raise ConfigError(f"{self.role}: {error}") from None
        self._model = model
        self._call_model: Callable[..., Any] = model.model  # type: ignore[assignment]
        self._range = model.value_range or (0.0, 1.0)
        self._order = model.order or "RGB"
        self.modules: list[nn.Module] = [*model.modules]
        self.at_once = batch
        self._device = torch.device("cpu")
        self._dtype = torch.float32

    def _in_file(self, path: Path) -> FaceFile:
        """Recognise the model in an ONNX file."""
        return model_in(path, self.role)

    def _template(self, model: FaceModel) -> int | None:
        if self._usual_size is None:
            if model.template is not None:
                raise ConfigError("it sees whole pictures, so there is no template for it")
            return None
        if model.template is not None:
            template(model.template)
            return model.template
        try:
            template(self.size or 0)
        except ConfigError:
            return self._usual_size
        return self.size

    @contextlib.contextmanager
    def within(self, session: Session) -> Iterator[None]:
        """Have the model compute in a session, where its modules are managed, for a scope."""
        self._device = device_of(session)
        self._dtype = dtype_of(*self.modules)
        with contextlib.nullcontext() if self._file is None else self._file.within(session):
            yield

    def identity(self, session: Session) -> str:
        """Describe all that its results depend on; of a callable, its name."""
        model = self._model
        name = getattr(model.model, "__qualname__", type(model.model).__qualname__)
        bits = digest(session, *self.modules) if self._file is None else self._file.file.digest
        return (
            f"{name} {bits} size {self.size} template {self.kind} range {self._range} {self._order}"
            + (f" classes {model.classes}" if model.classes else "")
        )

    def aligned(self, face: Face) -> Alignment:
        """Find the crop in which this model sees a face."""
        assert self.size is not None
        try:
            return align(face.landmarks, self.size, self.kind)
        except ConfigError as error:
            raise ConfigError(f"the detector found what is no face: {error}") from None

    def over(self, items: Sequence[T], call: Callable[[Sequence[T]], list[R]]) -> Iterator[R]:
        """Call with some items at once, and with half as many from where memory runs out.

        Parameters
        ----------
        items : sequence
            Of any number.
        call : callable
            Takes some of them, and returns a list of as many.

        Yields
        ------
        object
            What the calls returned, in order.

        Raises
        ------
        OutOfMemoryError
            If one item does not fit.
        """
        place = 0
        while place < len(items):
            part = items[place : place + self.at_once]
            try:
                results = call(part)
            except OUT_OF_MEMORY as error:
                if len(part) == 1:
                    raise
                self.at_once = len(part) // 2
                warnings.warn(
                    f"{len(part)} pictures at once did not fit the {self.role}: going on with "
                    f"{self.at_once} ({str(error).splitlines()[0]})",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            yield from results
            place += len(part)

    def _call(self, pictures: torch.Tensor, *more: torch.Tensor) -> Any:
        """Call the model with ``(n, 3, height, width)`` from 0 to 1, and more."""
        low, high = self._range
        pictures = pictures.to(self._device)
        if self._order == "BGR":
            pictures = pictures.flip(1)
        if (low, high) != (0, 1):
            pictures = pictures * (high - low) + low
        rest = [each.to(self._device, self._dtype) for each in more]
        return self._call_model(pictures.to(self._dtype).contiguous(), *rest)

    def _pictures(self, made: Any, crops: Sequence[Pixels]) -> list[Pixels]:
        """Check what the model made of crops, and return it from 0 to 1, where they are."""
        wanted = (len(crops), 3, self.size, self.size)
        x = self._checked(made, "pictures", wanted, crops[0].device)
        low, high = self._range
        x = ((x - low) / (high - low)).clamp(0, 1)
        return [*(x.flip(1) if self._order == "BGR" else x)]

    def _checked(
        self,
        made: Any,
        what: str,
        wanted: tuple[int | None, ...],
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """Check a tensor's shape and values, and move it; None is any length but none."""
        shape = tuple(made.shape) if isinstance(made, torch.Tensor) else ()
        fits = len(shape) == len(wanted) and all(
            have == want or (want is None and have > 0) for have, want in zip(shape, wanted)
        )
        if not fits:
            sides = ", ".join("any" if side is None else str(side) for side in wanted)
            raise ConfigError(f"the {self.role} gave {_describe(made)}, not {what} of ({sides})")
        x: torch.Tensor = made.detach().to(device, torch.float32)
        if not x.isfinite().all():
            raise ConfigError(
                f"the {self.role} gave {what} with values that are not finite; weights of half "
                "precision may be the reason"
            )
        return x


def _describe(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of {', '.join(_describe(each) for each in x) or 'nothing'}"
    return f"a {type(x).__name__}"


def _fitting(picture: Pixels, size: int) -> list[int]:
    """Tell the height and width with which a picture just fits a square."""
    sides = picture.shape[-2:]
    return [max(1, round(side * size / max(sides))) for side in sides]


class Detector(FaceNetwork):
    """Finds faces in pictures."""

    role = "detector"
    _usual_size = None

    def __init__(self, given: Given, batch: int, score: float) -> None:
        self._score = score
        super().__init__(given, batch)

    def _in_file(self, path: Path) -> FaceFile:
        return detector_in(path, self._score)

    def __call__(self, pictures: Sequence[Pixels]) -> list[list[Face]]:
        """Find the faces in pictures of any sizes, those of each in the model's order."""
        inputs = [self._fitted(picture) for picture in pictures]
        rows: list[torch.Tensor] = []
        for _, alike in itertools.groupby(inputs, key=lambda x: x.shape):
            rows += self.over([*alike], self._detect)
        return [self._faces(*each) for each in zip(rows, pictures)]

    def _fitted(self, picture: Pixels) -> torch.Tensor:
        x = picture[None]
        if self.size is None:
            return x
        shape = _fitting(picture, self.size)
        x = nn.functional.interpolate(
            x, size=shape, mode="bilinear", antialias=True, align_corners=False
        )
        return nn.functional.pad(x, (0, self.size - shape[1], 0, self.size - shape[0]))

    def _detect(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        made = self._call(torch.cat([*inputs]))
        several = isinstance(made, (list, tuple)) or (
            isinstance(made, torch.Tensor) and made.ndim == 3
        )
        if not several or len(made) != len(inputs):
            raise ConfigError(
                f"the {self.role} gave {_describe(made)} for {len(inputs)} pictures, not a tensor "
                f"of ({len(inputs)}, faces, {_ROW}) or a list of as many of (faces, {_ROW})"
            )
        return [self._rows(each) for each in made]

    def _rows(self, rows: Any) -> torch.Tensor:
        if isinstance(rows, torch.Tensor) and rows.shape == (0, _ROW):
            return rows.to("cpu", torch.float32)
        return self._checked(rows, "faces", (None, _ROW))

    def _faces(self, rows: torch.Tensor, picture: Pixels) -> list[Face]:
        values = rows.double().numpy()
        points = values[:, [0, 1, 2, 3, *range(5, _ROW)]].reshape(-1, 7, 2)
        if self.size is not None:
            grown = np.divide(picture.shape[-2:], _fitting(picture, self.size))
            points = (points + 0.5) * grown[::-1] - 0.5
        return [
            Face(each[:2].reshape(4), float(score), each[2:])
            for each, score in zip(points, values[:, 4])
        ]


class Recognizer(FaceNetwork):
    """Tells faces apart: what it makes of pictures of one face points in one direction."""

    role = "recognizer"
    _usual_size = 112

    def __call__(self, crops: Sequence[Pixels]) -> list[Embedding]:
        """Make the embeddings of some crops."""
        made = self._checked(self._call(torch.stack([*crops])), "embeddings", (len(crops), None))
        return [normalised(each, "what the recognizer gave") for each in made.numpy()]


class Swapper(FaceNetwork):
    """Gives crops another face."""

    role = "swapper"
    _usual_size = 128

    def __call__(self, crops: Sequence[Pixels], embeddings: Sequence[Embedding]) -> list[Masked]:
        """Give some crops the faces of embeddings; with masks where the model makes them."""
        made = self._call(torch.stack([*crops]), torch.from_numpy(np.stack(embeddings)))
        if not isinstance(made, (list, tuple)):
            return [(each, None) for each in self._pictures(made, crops)]
        if len(made) != 2:
            raise ConfigError(
                f"the {self.role} gave {_describe(made)}, not pictures, or pictures and masks"
            )
        wanted = (len(crops), 1, self.size, self.size)
        masks = self._checked(made[1], "masks", wanted, crops[0].device)
        return [*zip(self._pictures(made[0], crops), masks.clamp(0, 1)[:, 0])]


class Enhancer(FaceNetwork):
    """Makes crops look better."""

    role = "enhancer"
    _usual_size = 512

    def __call__(self, crops: Sequence[Pixels]) -> list[Pixels]:
        """Make some crops look better."""
        return self._pictures(self._call(torch.stack([*crops])), crops)


class Masker(FaceNetwork):
    """Tells which pixels of crops are the face, and not what lies before it."""

    role = "mask"
    _usual_size = 512

    def _in_file(self, path: Path) -> FaceFile:
        raise ConfigError(f"{path}: models for masks are not taken as ONNX files")

    def __call__(self, crops: Sequence[Pixels]) -> list[torch.Tensor]:
        """Make masks of the crops' size, from 0 to 1."""
        made = self._call(torch.stack([*crops]))
        if isinstance(made, (list, tuple)) and made:  # parsers add results of coarser layers
            made = made[0]
        classes = [*self._model.classes]
        count = None if classes else 1
        what = "scores of classes" if classes else "masks"
        wanted = (len(crops), count, self.size, self.size)
        values = self._checked(made, what, wanted, crops[0].device)
        if not classes:
            return [*values.clamp(0, 1)[:, 0]]
        if max(classes) >= values.shape[1]:
            raise ConfigError(
                f"the {self.role} gave scores of {values.shape[1]} classes, so that there is no "
                f"class {max(classes)}"
            )
        best = values.argmax(1)
        return [*torch.isin(best, torch.tensor(classes, device=best.device)).float()]
