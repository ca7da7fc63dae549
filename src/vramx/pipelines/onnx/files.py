"""What an ONNX file says of itself: what it takes and gives, by which a model is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from vramx.checkpoints.files import beginning
from vramx.checkpoints.onnx import is_onnx, read_onnx
from vramx.errors import ConfigError

#: So many nodes are looked at for a normalisation that a model carries.
_FIRST = 8
_EXTERNAL = 1  # TensorProto.DataLocation


@dataclass(frozen=True)
class Value:
    """An input or an output.

    Attributes
    ----------
    name : str
        Its name.
    dtype : str
        As numpy calls it; ``"?"`` of what is no tensor of numbers.
    sides : tuple of int or None
        Its shape; None where a side may be any.
    """

    name: str
    dtype: str
    sides: tuple[int | None, ...]

    @property
    def is_picture(self) -> bool:
        """Whether it is ``(n, 3, height, width)`` in floating point."""
        return len(self.sides) == 4 and self.sides[1] == 3 and self.dtype.startswith("float")

    def may_have(self, *channels: int) -> bool:
        """Tell whether it may be pictures of so many channels, as far as its shape is told."""
        is_four = len(self.sides) == 4 and self.dtype.startswith("float")
        return is_four and self.sides[1] in (*channels, None)

    def __str__(self) -> str:
        sides = ", ".join("any" if side is None else str(side) for side in self.sides)
        return f"{self.name} {self.dtype} ({sides})"


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """An ONNX file, without its weights.

    Attributes
    ----------
    path : Path
        The file.
    inputs, outputs : tuple of Value
        What the model takes and gives.
    first_nodes : tuple of str
        The names of its first nodes.
    operators : frozenset of str
        What its nodes do.
    spare : numpy.ndarray or None
        The last initializer, if no node takes it: what a program is to use beside the model.
    beside : tuple of Path
        Files in which it keeps weights.
    """

    path: Path
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    first_nodes: tuple[str, ...]
    operators: frozenset[str]
    spare: npt.NDArray[Any] | None
    beside: tuple[Path, ...]

    def __str__(self) -> str:
        taken, given = (", ".join(map(str, each)) for each in (self.inputs, self.outputs))
        return f"takes {taken or 'nothing'} and gives {given or 'nothing'}"

    @cached_property
    def digest(self) -> str:
        """What tells it from others, by all of its bytes; hexadecimal."""
        hashed = hashlib.sha256()
        for path in (self.path, *self.beside):
            with path.open("rb") as file:
                while part := file.read(2**20):
                    hashed.update(part)
        return hashed.hexdigest()


def read_file(path: Path) -> OnnxFile:
    """Read what a model takes and gives.

    Parameters
    ----------
    path : Path
        An ONNX file.

    Returns
    -------
    OnnxFile
        What it says.

    Raises
    ------
    ConfigError
        If it is not there, not an ONNX file or damaged, or the package onnx is missing.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    if not is_onnx(beginning(path)):
        raise ConfigError(f"{path} is not an ONNX file, by how it begins")
    for _ in read_onnx(path):  # which tells a file that is cut short, or whose data are not there
        pass
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(
            f"the package onnx, which reads {path}, cannot be imported ({error}): "
            "pip install 'vramx[onnx]'"
        ) from error
    try:
        return _said_by(path, onnx.load(path, load_external_data=False).graph)
    except Exception as error:  # whatever protobuf and numpy meet in a damaged file
        raise ConfigError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _said_by(path: Path, graph: Any) -> OnnxFile:
    weights = {each.name for each in graph.initializer}
    outside = {_location(each) for each in graph.initializer if each.data_location == _EXTERNAL}
    return OnnxFile(
        path,
        tuple(_value(each) for each in graph.input if each.name not in weights),
        tuple(_value(each) for each in graph.output),
        tuple(node.name for node in graph.node[:_FIRST]),
        frozenset(node.op_type for node in graph.node),
        _spare(graph, path.parent),
        tuple(path.parent / name for name in sorted(outside)),
    )


def _value(value: Any) -> Value:
    import onnx

    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except (KeyError, TypeError):
        dtype = "?"
    sides = [each.dim_value if each.dim_value > 0 else None for each in tensor.shape.dim]
    return Value(value.name, dtype, tuple(sides))


def _spare(graph: Any, folder: Path) -> npt.NDArray[Any] | None:
    from onnx import numpy_helper

    if not graph.initializer:
        return None
    last = graph.initializer[-1]
    taken = {name for node in graph.node for name in node.input}
    if last.name in taken or last.name in {each.name for each in graph.output}:
        return None
    values: npt.NDArray[Any] = numpy_helper.to_array(last, str(folder))
    return values


def _location(tensor: Any) -> str:
    return str(next(each.value for each in tensor.external_data if each.key == "location"))


class Kind(Protocol):
    """A kind of model that is recognised."""

    #: How an error describes it.
    KNOWN: ClassVar[str]

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""


K = TypeVar("K", bound=Kind)


def kind_of(file: OnnxFile, what: str, kinds: Sequence[type[K]]) -> type[K]:
    """Find of which kind a file is.

    Parameters
    ----------
    file : OnnxFile
        The file.
    what : str
        What it is to be, for errors.
    kinds : sequence of type
        Those that are known.

    Returns
    -------
    type
        The first that fits.

    Raises
    ------
    ConfigError
        If none does.
    """
    for kind in kinds:
        if kind.fits(file):
            return kind
    known = "; ".join(kind.KNOWN for kind in kinds)
    raise ConfigError(
        f"{file.path} is no {what} that is known: it {file}. Known are {known}. What calls another "
        "can be given as package.module:factory"
    )
