"""Small networks with the inputs, outputs and shapes of those that insightface runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_models import Writer

CHANNELS = 128
STRIDES = (8, 16, 32)
#: Eyes, nose and corners of the mouth, from the middle of a face of one by one.
LANDMARKS = ((-0.16, -0.04), (0.16, -0.04), (0.0, 0.14), (-0.13, 0.33), (0.13, 0.32))
#: How many strides a face is wide.
FACE = 4
#: What is found of each anchor, and near what: a score, four distances, five places.
HEADS = {
    "score": [0.0],
    "bbox": [FACE / 2] * 4,
    "kps": [FACE * side for place in LANDMARKS for side in place],
}

_value = helper.make_tensor_value_info


def _bias(to: Writer, values: Any) -> str:
    return to.constant(np.asarray(values, np.float32))


def _save(path: Path, to: Writer, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    graph = helper.make_graph(
        to.nodes,
        "g",
        [_value(name, TensorProto.FLOAT, sides) for name, sides in inputs.items()],
        [_value(name, TensorProto.FLOAT, sides) for name, sides in outputs.items()],
        to.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def write_detector(path: Path) -> None:
    """Write one like SCRFD: nine outputs, by kind and stride, of two anchors in each cell."""
    to, outputs = Writer(1, at="input.1"), {}
    for number, stride in enumerate(STRIDES):
        channels, side = (CHANNELS, 2) if number else (3, STRIDES[0])
        to.then("Conv", to.at, to.weight(CHANNELS, channels, side, side), strides=[side] * 2)
        to.then("Tanh", to.at)
        for kind, near in HEADS.items():
            bias = _bias(to, near * 2)
            (found,) = to.node("Conv", to.at, to.weight(len(near) * 2, CHANNELS, 1, 1), bias)
            (found,) = to.node("Transpose", found, perm=[2, 3, 0, 1])
            (found,) = to.node("Reshape", found, to.constant(np.array([-1, len(near)])))
            if kind == "score":
                (found,) = to.node("Sigmoid", found)
            outputs[kind, stride] = found, [f"of {stride}", len(near)]
    by_kind = dict(outputs[kind, stride] for kind in HEADS for stride in STRIDES)
    _save(path, to, {"input.1": [1, 3, "height", "width"]}, by_kind)


def write_recognizer(path: Path) -> None:
    """Write one like ArcFace: a picture of 112 by 112 gives 512 numbers."""
    to = Writer(2, at="input.1")
    to.then("Conv", to.at, to.weight(16, 3, 16, 16), strides=[16] * 2)
    to.then("PRelu", to.at, _bias(to, np.full((16, 1, 1), 0.25)))
    to.then("Flatten", to.at)
    to.then("Gemm", to.at, to.weight(512, 16 * 7 * 7), to.weight(512), transB=1)
    _save(path, to, {"input.1": ["batch", 3, 112, 112]}, {to.at: ["batch", 512]})


def write_swapper(path: Path) -> None:
    """Write one like inswapper: a face is drawn in the style of an embedding, mapped by `emap`."""
    to = Writer(3, at="target")
    to.then("Conv", to.at, to.weight(CHANNELS, 3, 8, 8), strides=[8] * 2)
    styles = []
    for _ in range(2):
        (style,) = to.node("Gemm", "source", to.weight(512, CHANNELS))
        (style,) = to.node("Reshape", style, to.constant(np.array([1, CHANNELS, 1, 1])))
        styles.append(style)
    to.then("InstanceNormalization", to.at, *(_bias(to, [n] * CHANNELS) for n in (1, 0)))
    to.then("Mul", to.at, styles[0])
    to.then("Add", to.at, styles[1])
    to.then("ConvTranspose", to.at, to.weight(CHANNELS, 3, 8, 8), strides=[8] * 2)
    to.then("Sigmoid", to.at)
    emap = np.random.default_rng(4).standard_normal((512, 512), dtype=np.float32)
    to.weights.append(numpy_helper.from_array(emap, "emap"))
    picture = [1, 3, 128, 128]
    _save(path, to, {"target": picture, "source": [1, 512]}, {to.at: picture})
