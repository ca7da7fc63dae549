"""What a user says of a model of the chain. Loading this loads no framework."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramx.checkpoints.onnx import is_named_as_onnx
from vramx.errors import ConfigError
from vramx.pipelines.stage import Stage

if TYPE_CHECKING:
    from torch import nn

ORDERS = ("RGB", "BGR")


@dataclass(frozen=True)
class FaceModel:
    """A model for `vramx.face_swap` that wants its pictures in another way than usual.

    Parameters
    ----------
    model : torch.nn.Module, callable, str or path
        The model; `vramx.face_swap` says what it takes and gives. Or an ONNX file, of which what
        follows is known where it is not given: by what is recognised in it.
    modules : iterable of torch.nn.Module
        The modules that a callable runs; they are managed. A module is its own.
    size : int, optional
        The side in pixels of the pictures it takes. Unless given 112 for a recognizer, 128 for a
        swapper and 512 for an enhancer. Pictures for a detector are shrunk or enlarged to fit a
        square of that side, black at the right or below; unless given it gets them as they are.
    template : int, optional
        Where the landmarks lie in the crops it takes, as `vramx.pipelines.faces.template` has it:
        112, 128 or 512, scaled to the size. Unless given that of the size, if there is one, else
        that of the usual size.
    value_range : (float, float)
        What black and white are, in what it takes and, of a swapper and an enhancer, gives; 0 and 1
        unless given.
    order : str
        ``"RGB"`` or ``"BGR"``: the order of channels, likewise; RGB unless given.
    classes : iterable of int
        Of a model for masks that tells what each pixel is: which of its classes are the face.

    Raises
    ------
    ConfigError
        If an argument is not allowed.

    Examples
    --------
    >>> recognizer = vramx.FaceModel(arcface, value_range=(-1, 1))
    >>> swapper = vramx.FaceModel(network, size=256, template=128)
    """

    model: Callable[..., Any] | str | os.PathLike[str]
    modules: Iterable[nn.Module] = ()
    size: int | None = None
    template: int | None = None
    value_range: tuple[float, float] | None = None
    order: str | None = None
    classes: Iterable[int] = ()

    def __post_init__(self) -> None:
        if isinstance(self.model, (str, os.PathLike)):
            self._check_path(Path(self.model))
        else:
            stage = Stage(self.model, self.modules)  # which checks both
            object.__setattr__(self, "modules", tuple(stage.modules))
        if self.size is not None and not (isinstance(self.size, int) and self.size >= 16):
            raise ConfigError(f"size {self.size!r} is not a whole number of pixels from 16")
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _checked_range(self.value_range))
        if self.order not in (None, *ORDERS):
            raise ConfigError(f"order {self.order!r} is not one of {', '.join(ORDERS)}")
        classes = tuple(self.classes)
        if not all(type(each) is int and each >= 0 for each in classes):
            raise ConfigError(f"classes {classes!r} are not whole numbers from 0")
        object.__setattr__(self, "classes", classes)

    def _check_path(self, path: Path) -> None:
        if not is_named_as_onnx(path):
            raise ConfigError(
                f"{path} is not named as an ONNX file (.onnx), the only kind that is taken by its "
                "path: give a module or a callable"
            )
        object.__setattr__(self, "model", path)
        object.__setattr__(self, "modules", tuple(self.modules))
        if self.modules:
            raise ConfigError(f"{path} runs no torch modules: leave modules out")

    @property
    def path(self) -> Path | None:
        """The ONNX file, if it is one."""
        return self.model if isinstance(self.model, Path) else None


def _checked_range(given: Any) -> tuple[float, float]:
    try:
        low, high = (float(each) for each in given)
    except (TypeError, ValueError):
        low = high = 0.0
    if not -1e6 < low < high < 1e6:
        raise ConfigError(f"value_range {given!r} is not two numbers, black's and white's")
    return low, high
