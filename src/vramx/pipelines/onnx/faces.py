"""A model for faces in an ONNX file, in the place of a callable."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

import torch

from vramx.errors import ConfigError
from vramx.pipelines.onnx.files import OnnxFile, Value
from vramx.pipelines.onnx.running import OnnxModel
from vramx.pipelines.swapping.face_model import FaceModel
from vramx.session import Session


class FaceFile:
    """A model in an ONNX file, which is called as `vramx.face_swap` calls one.

    Parameters
    ----------
    file : OnnxFile
        The file, which is of this kind.
    **run
        How it is run, as `OnnxModel` has it.

    Attributes
    ----------
    size : int or None
        The only side of pictures that it takes, if there is one.
    value_range : tuple of float
        What black and white are to it, unless it is said.
    order : str
        Its order of channels, likewise.

    Raises
    ------
    ConfigError
        If it wants what pictures of faces are not.
    """

    #: How an error describes the kind.
    KNOWN: ClassVar[str]
    #: The side of pictures for a file that takes any.
    _usual_size: ClassVar[int]
    #: What sides must be multiples of.
    _multiple: int = 1
    value_range: tuple[float, float] = (0.0, 1.0)
    order: str = "RGB"

    def __init__(self, file: OnnxFile, **run: Any) -> None:
        self.file = file
        self._model = OnnxModel(file, **run)
        self.size = _side(file, picture_of(file))

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        raise NotImplementedError

    def __call__(self, pictures: torch.Tensor, *more: torch.Tensor) -> Any:
        """Run it."""
        raise NotImplementedError

    def within(self, session: Session) -> AbstractContextManager[None]:
        """Have it in a session for a scope; see `OnnxModel.within`."""
        return self._model.within(session)

    def said(self, model: FaceModel) -> FaceModel:
        """Say what a user did not say of the model.

        Parameters
        ----------
        model : FaceModel
            What was said.

        Returns
        -------
        FaceModel
            With this as its model, and all that this knows of it.

        Raises
        ------
        ConfigError
            If it does not take pictures of the size that was said.
        """
        size = model.size or self.size or self._usual_size
        if self.size not in (None, size):
            raise ConfigError(
                f"size {size} was given, but {self.file.path} takes pictures of {self.size} alone"
            )
        if size % self._multiple:
            raise ConfigError(
                f"size {size} is not a multiple of {self._multiple}, which {self.file.path} needs"
            )
        return replace(
            model,
            model=self,
            size=size,
            value_range=model.value_range or self.value_range,
            order=model.order or self.order,
        )


def picture_of(file: OnnxFile) -> Value:
    """Return the input of a file that takes pictures, which there is."""
    return next(each for each in file.inputs if each.is_picture)


def _side(file: OnnxFile, picture: Value) -> int | None:
    height, width = picture.sides[2:]
    if height != width:
        raise ConfigError(f"{file.path} {file}: pictures of faces must be square, or of any size")
    return height
