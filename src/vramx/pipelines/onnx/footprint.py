"""What a model of an ONNX file holds at once while it runs, by shapes of what its nodes give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from vramx.errors import ConfigError

#: Initializers of more bytes are weights, of which shapes do not depend.
_VALUES = 1024


def live_bytes(path: Path, sides: tuple[int, ...]) -> int:
    """Tell the most bytes that live at once between its nodes.

    What has a shape that cannot be told before it runs, and scratch space within a node, do not
    count.

    Parameters
    ----------
    path : Path
        A file of a model with one input.
    sides : tuple of int
        The input's shape.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    ConfigError
        If its shapes contradict each other, or it is damaged.
    """
    import onnx

    try:
        return _live_bytes(onnx.load(path, load_external_data=False), sides)
    except Exception as error:  # whatever onnx meets in it
        raise ConfigError(
            f"what {path} takes while it runs cannot be told: {type(error).__name__}: {error}"
        ) from error


def _live_bytes(model: Any, sides: tuple[int, ...]) -> int:
    import onnx

    graph = model.graph
    weights = {each.name for each in graph.initializer}
    for tensor in graph.initializer:
        if len(tensor.raw_data) > _VALUES:
            tensor.ClearField("raw_data")
    (given,) = (each for each in graph.input if each.name not in weights)
    for dimension, side in zip(given.type.tensor_type.shape.dim, sides):
        dimension.dim_value = side
    del graph.value_info[:]  # of the sizes that it was exported with
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {
        each.name: _nbytes(each.type.tensor_type)
        for each in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return _peak(inferred, {name: known[name] for name in known if name not in weights})


def _peak(graph: Any, sizes: dict[str, int]) -> int:
    last = {name: place for place, node in enumerate(graph.node) for name in node.input}
    last |= {each.name: len(graph.node) for each in graph.output}
    live = {each.name: sizes.get(each.name, 0) for each in graph.input}
    most = sum(live.values())
    for place, node in enumerate(graph.node):
        live |= {name: sizes.get(name, 0) for name in node.output}
        most = max(most, sum(live.values()))
        live = {name: nbytes for name, nbytes in live.items() if last.get(name, -1) > place}
    return most


def _nbytes(tensor: Any) -> int:
    import onnx

    sides = [each.dim_value for each in tensor.shape.dim]
    try:
        item = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).itemsize
    except (KeyError, TypeError):  # of no numbers
        return 0
    return int(math.prod(sides) * item)  # none where a side is not known
