"""Small ONNX models of many kinds, with seeded weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH = 3, 64


@dataclass
class Writer:
    """Collects the nodes and initializers of a graph whose values are ``[ROWS, WIDTH]`` floats."""

    seed: int
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    at: str = "x"
    count: int = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def weight(self, *sides: int, dtype: Any = np.float32) -> str:
        generator = np.random.default_rng((self.seed, self.count))
        name = self.name("w")
        if np.issubdtype(dtype, np.integer):
            values = generator.integers(-100, 100, sides).astype(dtype)
        else:
            values = (generator.standard_normal(sides) / WIDTH**0.5).astype(dtype)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, values: Any) -> str:
        name = self.name("k")
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def then(self, kind: str, *inputs: str, **attributes: Any) -> None:
        self.at = self.node(kind, *inputs, **attributes)[0]


def matmul(to: Writer) -> None:
    to.then("MatMul", to.at, to.weight(WIDTH, WIDTH))


def gemm(to: Writer) -> None:
    to.then("Gemm", to.at, to.weight(WIDTH, WIDTH), to.weight(WIDTH), transB=1)


def conv(to: Writer) -> None:
    to.then("Reshape", to.at, to.constant(np.array([1, ROWS, 8, 8])))
    to.then("Conv", to.at, to.weight(16, ROWS, 3, 3), to.weight(16), pads=[1] * 4)
    to.then("Relu", to.at)
    to.then("Conv", to.at, to.weight(ROWS, 16, 3, 3), pads=[1] * 4)
    to.then("Reshape", to.at, to.constant(np.array([ROWS, WIDTH])))


def lstm(to: Writer) -> None:
    to.then("Reshape", to.at, to.constant(np.array([ROWS, 1, WIDTH])))
    gates = 4 * WIDTH
    weights = to.weight(1, gates, WIDTH), to.weight(1, gates, WIDTH), to.weight(1, 2 * gates)
    to.then("LSTM", to.at, *weights, hidden_size=WIDTH)
    to.then("Reshape", to.at, to.constant(np.array([ROWS, WIDTH])))


def half(to: Writer) -> None:
    to.then("Cast", to.at, to=TensorProto.FLOAT16)
    to.then("MatMul", to.at, to.weight(WIDTH, WIDTH, dtype=np.float16))
    to.then("Cast", to.at, to=TensorProto.FLOAT)


def quantised(to: Writer) -> None:
    values, scale, zero = to.node("DynamicQuantizeLinear", to.at, outputs=3)
    to.then("MatMulInteger", values, to.weight(WIDTH, WIDTH, dtype=np.int8), zero)
    to.then("Cast", to.at, to=TensorProto.FLOAT)
    to.then("Mul", to.at, scale)
    to.then("Mul", to.at, to.constant(np.float32(0.01)))


def dequantised(to: Writer) -> None:
    weight = to.weight(WIDTH, WIDTH, dtype=np.int8)
    (floats,) = to.node("DequantizeLinear", weight, to.constant(np.float32(0.001)))
    to.then("MatMul", to.at, floats)


def shared(to: Writer) -> None:
    weight = to.weight(WIDTH, WIDTH)
    to.then("MatMul", to.at, weight)
    to.then("MatMul", to.at, weight)


def folded(to: Writer) -> None:
    (exp,) = to.node("Exp", to.weight(WIDTH, WIDTH))
    to.then("MatMul", to.at, exp)


def branches(to: Writer) -> None:
    """One branch has an initializer of the graph around it, and one has its own."""
    around = to.weight(WIDTH, WIDTH)
    to.weight(WIDTH, WIDTH)
    own = to.weights.pop()
    graphs = {}
    for branch, weight, inside in (("then", around, []), ("else", own.name, [own])):
        out = to.name(branch)
        node = helper.make_node("MatMul", [to.at, weight], [out])
        value = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
        graphs[f"{branch}_branch"] = helper.make_graph([node], branch, [], [value], inside)
    to.then("If", "flag", **graphs)


def empty(to: Writer) -> None:
    nothing = to.constant(np.zeros((0, WIDTH), np.float32))
    to.then("Concat", to.at, nothing, axis=0)


LAYERS = {
    each.__name__: each
    for each in (
        matmul, gemm, conv, lstm, half, quantised, dequantised, shared, folded, branches, empty,
    )
}  # fmt: skip


def write_model(
    path: Path,
    layers: list[str],
    seed: int = 0,
    *,
    external: bool = False,
    inputs: bool = False,
    output: bool = False,
) -> Path:
    """Write a model.

    Parameters
    ----------
    path : Path
        Where to.
    layers : list of str
        Names in `LAYERS`.
    seed : int
        Of the weights.
    external : bool
        Whether their bytes are in a file beside it.
    inputs, output : bool
        Whether all initializers are inputs of the graph too, and the first one an output.

    Returns
    -------
    Path
        The same.
    """
    to = Writer(seed)
    for layer in layers:
        LAYERS[layer](to)
        to.then("Tanh", to.at)
    value = helper.make_tensor_value_info
    graph_inputs = [
        value("x", TensorProto.FLOAT, [ROWS, WIDTH]),
        value("flag", TensorProto.BOOL, []),
    ]
    if inputs:
        graph_inputs += [value(each.name, each.data_type, each.dims) for each in to.weights]
    outputs = [value(to.at, TensorProto.FLOAT, [ROWS, WIDTH])]
    if output:
        first = to.weights[0]
        outputs.append(value(first.name, first.data_type, first.dims))
    graph = helper.make_graph(to.nodes, "g", graph_inputs, outputs, to.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    beside = {"save_as_external_data": True, "location": f"{path.name}.data"} if external else {}
    onnx.save(model, path, **beside)
    return path


def feed(seed: int = 0) -> dict[str, Any]:
    """Return inputs of a model."""
    generator = np.random.default_rng(seed)
    return {
        "x": generator.standard_normal((ROWS, WIDTH), dtype=np.float32),
        "flag": np.array(seed % 2 == 0),
    }
