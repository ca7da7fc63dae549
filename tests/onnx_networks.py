"""Small networks with the inputs, outputs and shapes of those that people use."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_models import Writer

CHANNELS = 128
STRIDES = (8, 16, 32, 64, 128)
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


def _save(
    path: Path, to: Writer, inputs: dict[str, Any], outputs: dict[str, Any], **types: int
) -> None:
    graph = helper.make_graph(
        to.nodes,
        "g",
        [_value(name, types.get(name, TensorProto.FLOAT), sides) for name, sides in inputs.items()],
        [_value(name, TensorProto.FLOAT, sides) for name, sides in outputs.items()],
        to.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def _levels(to: Writer, count: int = 3) -> Iterator[int]:
    """Look at a picture in cells of each stride."""
    for number, stride in enumerate(STRIDES[:count]):
        channels, side = (CHANNELS, 2) if number else (3, STRIDES[0])
        to.then("Conv", to.at, to.weight(CHANNELS, channels, side, side), strides=[side] * 2)
        to.then("Tanh", to.at)
        yield stride


def _found(to: Writer, near: list[float]) -> str:
    bias = _bias(to, near)
    return to.node("Conv", to.at, to.weight(len(near), CHANNELS, 1, 1), bias)[0]


def write_detector(
    path: Path, kinds: Sequence[str] = tuple(HEADS), *, levels: int = 3, batched: bool = False
) -> None:
    """Write one like SCRFD: an output of each kind and stride.

    Parameters
    ----------
    path : Path
        Where to.
    kinds : sequence of str
        Of `HEADS`, in the outputs' order.
    levels : int
        Three, with two anchors in each cell; or five, with one.
    batched : bool
        Whether it takes several pictures, whose axis is the first of each output.
    """
    to, outputs = Writer(1, at="input.1"), {}
    anchors = 2 if levels == 3 else 1
    for stride in _levels(to, levels):
        for kind in kinds:
            near = HEADS[kind]
            found = _found(to, near * anchors)
            perm, sides = ([0, 2, 3, 1], [0, -1]) if batched else ([2, 3, 0, 1], [-1])
            (found,) = to.node("Transpose", found, perm=perm)
            (found,) = to.node("Reshape", found, to.constant(np.array([*sides, len(near)])))
            if kind == "score":
                (found,) = to.node("Sigmoid", found)
            of = [f"of {stride}", len(near)]
            outputs[kind, stride] = found, ["batch", *of] if batched else of
    by_kind = dict(outputs[kind, stride] for kind in kinds for stride in STRIDES[:levels])
    count = "batch" if batched else 1
    _save(path, to, {"input.1": [count, 3, "height", "width"]}, by_kind)


def write_yolo(path: Path, side: int) -> None:
    """Write one like YOLO-face: a candidate in each cell, in pixels of a picture of one size."""
    to, levels = Writer(5, at="images"), []
    for stride in _levels(to):
        place = np.mgrid[: side // stride, : side // stride][::-1] * stride
        rows = [_found(to, [0, 0]), _found(to, [FACE, FACE])]
        rows += [_found(to, [*(FACE * part for part in place), 0]) for place in LANDMARKS]
        (points,) = to.node("Concat", *rows, axis=1)
        scale = np.full((19, 1, 1), stride, np.float32)
        scale[6::3] = 1
        (points,) = to.node("Mul", points, to.constant(scale))
        moved = np.zeros((19, *place.shape[1:]), np.float32)
        for first in (0, *range(4, 19, 3)):
            moved[first : first + 2] = place
        (points,) = to.node("Add", points, to.constant(moved))
        box, marks = to.node("Split", points, to.constant(np.array([4, 15])), outputs=2, axis=1)
        (score,) = to.node("Sigmoid", _found(to, [0]))
        (rows_of,) = to.node("Concat", box, score, marks, axis=1)
        levels += to.node("Reshape", rows_of, to.constant(np.array([0, 20, -1])))
    to.then("Concat", *levels, axis=2)
    _save(path, to, {"images": [1, 3, side, side]}, {to.at: [1, 20, "candidates"]})


def write_retina(path: Path, *, softmax: bool = True) -> None:
    """Write one like RetinaFace: offsets, scores and landmarks of all levels."""
    to, found = Writer(6, at="input0"), {}
    near = {4: [0.0] * 4, 2: [0.5, 0.0], 10: [10 * part for place in LANDMARKS for part in place]}
    for _ in _levels(to):
        for width, bias in near.items():
            (each,) = to.node("Transpose", _found(to, bias * 2), perm=[0, 2, 3, 1])
            found.setdefault(width, []).extend(
                to.node("Reshape", each, to.constant(np.array([0, -1, width])))
            )
    joined = {width: to.node("Concat", *each, axis=1)[0] for width, each in found.items()}
    if softmax:
        (joined[2],) = to.node("Softmax", joined[2], axis=2)
    outputs = {name: ["batch", "candidates", width] for width, name in joined.items()}
    _save(path, to, {"input0": ["batch", 3, "height", "width"]}, outputs)


def write_recognizer(path: Path, *, normalises: bool = False) -> None:
    """Write one like ArcFace: a picture of 112 by 112 gives 512 numbers."""
    to = Writer(2, at="input.1")
    if normalises:
        to.then("Sub", to.at, to.constant(np.float32(127.5)))
        to.then("Mul", to.at, to.constant(np.float32(0.0078125)))
        for node, name in zip(to.nodes, ("_minusscalar0", "_mulscalar0")):
            node.name = name
    to.then("Conv", to.at, to.weight(16, 3, 16, 16), strides=[16] * 2)
    to.then("PRelu", to.at, _bias(to, np.full((16, 1, 1), 0.25)))
    to.then("Flatten", to.at)
    to.then("Gemm", to.at, to.weight(512, 16 * 7 * 7), to.weight(512), transB=1)
    _save(path, to, {"input.1": ["batch", 3, 112, 112]}, {to.at: ["batch", 512]})


def write_swapper(path: Path, side: int = 128, *, mapped: bool = True, mask: bool = False) -> None:
    """Write one like inswapper: a face is drawn in the style of an embedding, mapped by `emap`.

    Parameters
    ----------
    path : Path
        Where to.
    side : int
        Of pictures.
    mapped : bool
        Whether it has `emap`; otherwise its last initializer is as large, but a node's.
    mask : bool
        Whether it gives a mask beside the picture.
    """
    to = Writer(3, at="target")
    to.then("Conv", to.at, to.weight(CHANNELS, 3, 8, 8), strides=[8] * 2)
    styles, source = [], "source"
    if not mapped:
        (source,) = to.node("MatMul", source, to.weight(512, 512))
    own = to.weights[-1]
    for _ in range(2):
        (style,) = to.node("Gemm", source, to.weight(512, CHANNELS))
        (style,) = to.node("Reshape", style, to.constant(np.array([1, CHANNELS, 1, 1])))
        styles.append(style)
    to.then("InstanceNormalization", to.at, *(_bias(to, [n] * CHANNELS) for n in (1, 0)))
    to.then("Mul", to.at, styles[0])
    to.then("Add", to.at, styles[1])
    to.then("ConvTranspose", to.at, to.weight(CHANNELS, 3, 8, 8), strides=[8] * 2)
    to.then("Sigmoid", to.at)
    picture = [1, 3, side, side]
    outputs = {to.at: picture}
    if mask:
        means = to.node("ReduceMean", to.at, axes=[1], keepdims=1)
        outputs |= {name: [1, 1, side, side] for name in means}
    if mapped:
        emap = np.random.default_rng(4).standard_normal((512, 512), dtype=np.float32)
        to.weights.append(numpy_helper.from_array(emap, "emap"))
    else:
        to.weights.append(to.weights.pop(to.weights.index(own)))
    _save(path, to, {"target": picture, "source": [1, 512]}, outputs)


def write_enhancer(
    path: Path, side: int = 512, weight: tuple[str, int, list[int]] | None = None
) -> None:
    """Write one like GFPGAN, or like CodeFormer.

    Parameters
    ----------
    path : Path
        Where to.
    side : int
        Of pictures.
    weight : (str, int, list of int), optional
        The name, type and shape of a number beside the picture.
    """
    to = Writer(7, at="input")
    to.then("Conv", to.at, to.weight(CHANNELS, 3, 8, 8), strides=[8] * 2)
    inputs: dict[str, Any] = {"input": [1, 3, side, side]}
    types = {}
    if weight is not None:
        name, types[name], inputs[name] = weight
        (cast,) = to.node("Cast", name, to=TensorProto.FLOAT)
        to.then("Mul", to.at, cast)
    to.then("ConvTranspose", to.at, to.weight(CHANNELS, 3, 8, 8), strides=[8] * 2)
    to.then("Tanh", to.at)
    _save(path, to, inputs, {to.at: inputs["input"]}, **types)


def write_upscaler(
    path: Path,
    sides: tuple[Any, Any] = ("height", "width"),
    *,
    scale: int = 2,
    channels: int = 3,
    features: int = 16,
    layers: int = 2,
    dtype: int = TensorProto.FLOAT,
    told: bool = True,
) -> None:
    """Write one like Real-ESRGAN: convolutions of three by three and a shuffle of pixels.

    Parameters
    ----------
    path : Path
        Where to.
    sides : (int or str, int or str)
        Height and width of what it takes; text is any.
    scale, channels, features, layers : int
        How much larger pictures become, and what is between.
    dtype : int
        Of its input, weights and output.
    told : bool
        Whether the output's shape is.
    """
    to = Writer(8, at="input")
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    depths = [channels, *[features] * layers, channels * scale**2]
    for number, (before, after) in enumerate(itertools.pairwise(depths)):
        to.then("Conv", to.at, to.weight(after, before, 3, 3, dtype=kind), pads=[1] * 4)
        to.then("LeakyRelu" if number < layers else "Sigmoid", to.at)
    to.then("DepthToSpace", to.at, blocksize=scale, mode="CRD")
    made = [side * scale if told and isinstance(side, int) else "any" for side in sides]
    count = 1 if isinstance(sides[0], int) else "batch"
    graph = helper.make_graph(
        to.nodes,
        "g",
        [_value("input", dtype, [count, channels, *sides])],
        [_value(to.at, dtype, [count, channels, *made])],
        to.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
