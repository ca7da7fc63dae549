"""ONNX Runtime models that share a budget smaller than their weights, against stock onnxruntime.

Models of MatMul and Tanh, or of convolutions as those of faces are, in half precision, each in an
inference session of its own, run by turns, and then each many times in a row. Printed is a run's
median by model; a round of all of them, over that of stock sessions, C, and by turns over
T_fluid = max(C, (W-B)/L), with the link L measured here; what was moved; and how much more than
before the card held at most, as NVML tells, for all that there is on it: CUDA's context and the
libraries' own memory were there before. Stock holds all weights on the card; "anew" makes a stock
session for each run, and times a few. Needs a card, onnxruntime-gpu and onnx.
"""

import argparse
import contextlib
import functools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # before onnxruntime, which then finds its CUDA libraries

import onnxruntime  # isort: skip

import vramx
from benchmarks import options as shared
from benchmarks.report import Report, failure
from vramx.bench.limits import limits
from vramx.cards.nvml import NvmlCard
from vramx.integrations.onnxruntime import inference_session
from vramx.integrations.onnxruntime.provider import require_cuda
from vramx.integrations.torch.timing import PinnedCopies

NEEDS_CARD = True

BATCH = 16
#: By timing, the default, two sessions may find algorithms of other bits.
SEARCH = {"cudnn_conv_algo_search": "HEURISTIC"}
MOST_ANEW = 5  # runs of each model that are made anew
WARM_UP = 3  # runs of each model that are not timed
#: The models in the order of their runs, by how many runs and models there are.
ORDERS: dict[str, Callable[[int, int], list[int]]] = {
    "by turns": lambda runs, models: [*range(models)] * runs,
    "in a row": lambda runs, models: [model for model in range(models) for _ in range(runs)],
}

COLUMNS = """
who order by_model:ms~by~model:text round_s:round~ms:ms over_stock:/stock:ratio
over_fluid:T/T_fluid:ratio moved_in:in~MiB:MiB moved_out:out~MiB:MiB peak_resident:peak~MiB:MiB
on_card:card~MiB:MiB same_bits:same~bits:bits
"""


def options(add: shared.Add, card: bool) -> None:  # noqa: ARG001
    add("--backend", nargs="+", choices=shared.BACKENDS, default=["mapped"])
    add("--models", type=int, default=4)
    add("--layers", type=int, default=8, help="of each model")
    add("--width", type=int, default=4096, help="of each layer; channels of a convolution")
    add("--side", type=int, default=0, help="of the pictures that convolutions take, 0 for MatMul")
    add("--budget", type=shared.size, default="600MiB")
    add("--runs", type=int, default=20, help="of each model in each order")


def sides(width: int, side: int) -> tuple[int, ...]:
    """Return the shape of a model's input, and of its output."""
    return (1, width, side, side) if side else (BATCH, width)


def write_model(path: Path, seed: int, layers: int, width: int, side: int) -> None:
    """Write a model of seeded weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(seed)
    nodes, weights, name = [], [], "x"
    for number in range(layers):
        kernel = (3, 3) if side else ()
        weight = generator.standard_normal((width, width, *kernel), dtype=np.float32)
        weight /= (width * 3 ** len(kernel)) ** 0.5
        weights.append(numpy_helper.from_array(weight.astype(np.float16), f"w{number}"))
        out = "y" if number == layers - 1 else f"y{number}"
        kind, how = ("Conv", {"pads": [1] * 4}) if side else ("MatMul", {})
        nodes.append(helper.make_node(kind, [name, f"w{number}"], [f"m{number}"], **how))
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [out]))
        name = out
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT16)
    ends = [value(each, shape=sides(width, side)) for each in "xy"]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def run(args: argparse.Namespace, report: Report) -> None:
    """Run stock sessions, and those that share the budget, in each order."""
    size = args.layers * args.width**2 * 2 * (9 if args.side else 1)
    weights, link = args.models * size, PinnedCopies().to_card()
    report.begin(weights=weights, budget=args.budget, link=link, version=onnxruntime.__version__)
    generator = np.random.default_rng(9)
    x = generator.standard_normal(sides(args.width, args.side)).astype(np.float16)
    stock: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vramx-onnx-") as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(args.models)]
        for seed, path in enumerate(paths):
            write_model(path, seed, args.layers, args.width, args.side)
        for who in ("stock", "anew", *args.backend):
            try:
                with most_on_card() as most:
                    found = all_orders(who, paths, x, args)
            except Exception as error:  # the others are worth their time still
                report.add({"who": who, **failure(error)})
                continue
            stock = stock or found
            for order, row in found.items():
                row["on_card"] = most[0]
                row["over_stock"] = row["round_s"] / stock[order]["round_s"]
                row["same_bits"] = all(map(np.array_equal, row["outs"], stock[order]["outs"]))
                if order == "by turns":
                    limit = limits(weights, args.budget, link, stock[order]["round_s"])
                    row["over_fluid"] = row["round_s"] / limit.fluid
                kept = {name: value for name, value in row.items() if name != "outs"}
                report.add({"who": who, "order": order, **kept})


@contextlib.contextmanager
def most_on_card() -> Iterator[list[int]]:
    """Find the most bytes that the card holds in a scope beyond what it held before."""
    card = NvmlCard(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    before, most, ended = card.free(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(1e-3):
            most[0] = max(most[0], before - card.free())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def all_orders(who: str, paths: list[Path], x: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure stock sessions, which hold all weights on the card, or those in a budget."""
    if who == "anew":
        runs = min(args.runs, MOST_ANEW)
        return {"by turns": measure("by turns", [Anew(path) for path in paths], x, runs)}
    if who == "stock":
        opened = [stock_session(path) for path in paths]
        return {order: measure(order, opened, x, args.runs) for order in ORDERS}
    with vramx.oversubscribe(args.budget, backend=who) as session:
        opened = [inference_session(session, path, **SEARCH) for path in paths]
        return {order: measure(order, opened, x, args.runs, session) for order in ORDERS}


def stock_session(path: Path) -> Any:
    """Make an inference session as onnxruntime does, on the card."""
    provider = ("CUDAExecutionProvider", {"device_id": "0", **SEARCH})
    made = onnxruntime.InferenceSession(path, providers=[provider])
    require_cuda(made)
    return made


class Anew:
    """A model that is loaded for each run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, names: Any, inputs: dict[str, Any]) -> list[Any]:
        """Make an inference session, and run it."""
        made: list[Any] = stock_session(self._path).run(names, inputs)
        return made


def measure(
    order: str, models: list[Any], x: Any, runs: int, session: vramx.Session | None = None
) -> dict[str, Any]:
    """Measure one order; figures in seconds and bytes, and the results."""
    for number in ORDERS[order](WARM_UP, len(models)):
        models[number].run(None, {"x": x})
    before = None if session is None else session.stats()
    times: list[list[float]] = [[] for _ in models]
    outs: list[Any] = [None] * len(models)
    for number in ORDERS[order](runs, len(models)):
        began = time.perf_counter()
        outs[number] = models[number].run(None, {"x": x})[0]
        times[number].append(time.perf_counter() - began)
    medians = [statistics.median(each) for each in times]
    figures = {"round_s": sum(medians), "outs": outs}
    figures["by_model"] = " ".join(f"{each * 1e3:.2f}" for each in medians)
    if session is not None and before is not None:
        after = session.stats()
        for name in ("moved_in", "moved_out", "over_link"):
            figures[name] = getattr(after, name) - getattr(before, name)
        figures["peak_resident"] = after.peak_resident
    return figures
