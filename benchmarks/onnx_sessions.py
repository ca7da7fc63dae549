"""ONNX Runtime models that share a budget smaller than their weights, against stock onnxruntime.

Models of MatMul and Tanh, in half precision, each in an inference session of its own, run by turns,
and then each many times in a row. Printed is a run's median by model; a round of all of them, over
that of stock sessions, C, and by turns over T_fluid = max(C, (W-B)/L), with the link L measured
here; and what was moved. Stock holds all weights on the card. Needs a card, onnxruntime-gpu, onnx
and torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch  # before onnxruntime, which then finds its CUDA libraries
from onnx import TensorProto, helper, numpy_helper

import onnxruntime  # isort: skip

import vramx
from reporting import Report
from vramx.bench.limits import limits
from vramx.integrations.onnxruntime import inference_session, require_cuda, route
from vramx.integrations.torch.timing import PinnedCopies
from vramx.units import format_size, parse_size

COLUMNS = (
    f"{'who':<8}{'order':<11}{'ms by model':<32}{'round ms':<10}{'/stock':<8}{'/T_fluid':<10}"
    f"{'in MiB':<9}{'out MiB':<9}{'peak MiB':<10}same bits"
)
BATCH = 16
#: Runs of each model that are not timed.
WARM_UP = 3


def write_model(path: Path, seed: int, layers: int, width: int) -> None:
    """Write a model of seeded weights."""
    generator = np.random.default_rng(seed)
    nodes, weights, name = [], [], "x"
    for number in range(layers):
        weight = generator.standard_normal((width, width), dtype=np.float32) / width**0.5
        weights.append(numpy_helper.from_array(weight.astype(np.float16), f"w{number}"))
        out = "y" if number == layers - 1 else f"y{number}"
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [out]))
        name = out
    ends = [
        helper.make_tensor_value_info(each, TensorProto.FLOAT16, [BATCH, width]) for each in "xy"
    ]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def by_turns(runs: int, models: int) -> list[int]:
    """Tell the models in the order of their runs."""
    return [model for _ in range(runs) for model in range(models)]


def in_a_row(runs: int, models: int) -> list[int]:
    """Tell the models in the order of their runs."""
    return [model for model in range(models) for _ in range(runs)]


ORDERS: dict[str, Callable[[int, int], list[int]]] = {"by turns": by_turns, "in a row": in_a_row}


def times_of(
    models: Sequence[Any], order: list[int], x: Any
) -> tuple[list[list[float]], list[Any]]:
    """Run models in an order; return the seconds of each one's runs, and its last result."""
    times: list[list[float]] = [[] for _ in models]
    outs: list[Any] = [None] * len(models)
    for number in order:
        began = time.perf_counter()
        outs[number] = models[number].run(None, {"x": x})[0]
        times[number].append(time.perf_counter() - began)
    return times, outs


class Benchmark:
    """The same runs, stock and within a budget.

    Parameters
    ----------
    args : argparse.Namespace
        The command line's options.
    paths : list of pathlib.Path
        The models.
    """

    def __init__(self, args: argparse.Namespace, paths: list[Path]) -> None:
        self.args, self.paths = args, paths
        self.weights = args.models * args.layers * args.width**2 * 2
        self.budget = parse_size(args.budget, "budget")
        generator = np.random.default_rng(9)
        self.x = generator.standard_normal((BATCH, args.width)).astype(np.float16)
        self.link = PinnedCopies().to_card()
        self.expected: list[Any] = []
        self.stock_rounds: dict[str, float] = {}

    def run(self, report: Report) -> None:
        """Run all, each part whatever became of the others."""
        report.begin(
            machine=torch.cuda.get_device_name(),
            onnxruntime=onnxruntime.__version__,
            weights=self.weights,
            budget=self.budget,
            models=self.args.models,
            link=self.link,
        )
        for who, part in (("stock", self.stock), ("vramx", self.vramx)):
            try:
                part(report)
            except Exception as error:  # the other part is worth its time still
                traceback.print_exc()
                report.add({"who": who, "error": f"{type(error).__name__}: {error}"})

    def stock(self, report: Report) -> None:
        """Run stock sessions, which hold all weights on the card."""
        provider = ("CUDAExecutionProvider", {"device_id": "0"})
        models = [onnxruntime.InferenceSession(path, providers=[provider]) for path in self.paths]
        for model in models:
            require_cuda(model)
        for order in ORDERS:
            report.add(self.measure("stock", order, models))

    def vramx(self, report: Report) -> None:
        """Run sessions that share the budget."""
        with (
            vramx.oversubscribe(self.budget, backend=self.args.backend) as session,
            route(session),
        ):
            models = [inference_session(session, path) for path in self.paths]
            for order in ORDERS:
                report.add(self.measure("vramx", order, models, session))

    def measure(
        self, who: str, order: str, models: list[Any], session: vramx.Session | None = None
    ) -> dict[str, Any]:
        """Measure one order; figures in seconds and bytes."""
        numbers = ORDERS[order](self.args.runs, len(models))
        times_of(models, ORDERS[order](WARM_UP, len(models)), self.x)
        before = None if session is None else session.stats()
        times, outs = times_of(models, numbers, self.x)
        medians = [statistics.median(each) for each in times]
        if session is None:
            self.expected, self.stock_rounds[order] = outs, sum(medians)
        stock = self.stock_rounds.get(order, 0.0)
        limit = limits(self.weights, self.budget, self.link, stock)
        row = {
            "who": who,
            "order": order,
            "times_s": times,
            "medians_s": medians,
            "round_s": sum(medians),
            "over_stock": sum(medians) / stock if stock else None,
            "t_fluid": limit.fluid if order == "by turns" else None,
            "over_fluid": sum(medians) / limit.fluid if order == "by turns" else None,
            "same_bits": len(self.expected) == len(outs)
            and all(np.array_equal(one, other) for one, other in zip(outs, self.expected)),
        }
        if session is None or before is None:
            return row
        after = session.stats()
        return row | {
            "moved_in": after.moved_in - before.moved_in,
            "moved_out": after.moved_out - before.moved_out,
            "over_link": after.over_link - before.over_link,
            "peak_resident": after.peak_resident,
        }


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    if "error" in row:
        return f"{row['who']:<8}{row['error']}"
    by_model = " ".join(f"{each * 1e3:.2f}" for each in row["medians_s"])
    ratios = [
        "-" if row[name] is None else f"{row[name]:.2f}" for name in ("over_stock", "over_fluid")
    ]
    mebibytes = [
        f"{row[name] / 2**20:.0f}" if name in row else "-"
        for name in ("moved_in", "moved_out", "peak_resident")
    ]
    return (
        f"{row['who']:<8}{row['order']:<11}{by_model:<32}{row['round_s'] * 1e3:<10.2f}"
        f"{ratios[0]:<8}{ratios[1]:<10}{mebibytes[0]:<9}{mebibytes[1]:<9}{mebibytes[2]:<10}"
        f"{'yes' if row['same_bits'] else 'NO'}"
    )


def head_line(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, onnxruntime {shared['onnxruntime']}: {shared['models']} models, W "
        f"{format_size(shared['weights'])}, budget {format_size(shared['budget'])}, link "
        f"{shared['link'] / 1e9:.1f} GB/s; in and out are of all timed runs\n{COLUMNS}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--layers", type=int, default=8, help="of each model")
    parser.add_argument("--width", type=int, default=4096, help="of each layer")
    parser.add_argument("--budget", default="600MiB")
    parser.add_argument("--runs", type=int, default=20, help="of each model in each order")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vramx-onnx-") as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(args.models)]
        for seed, path in enumerate(paths):
            write_model(path, seed, args.layers, args.width)
        report = Report(args.json, head_line, line)
        Benchmark(args, paths).run(report)
    return int(any("error" in row or not row["same_bits"] for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
