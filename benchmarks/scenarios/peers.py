"""One model in the same memory through vramx and through what else there is; needs a card.

Each takes turns with stock torch, which has everything resident, in a process of its own, so that
memory is its own too: on the card what torch allocated, without stock's, and vramx's blocks, at
their peaks; on the host that of the process. Times and limits are those of ``turns``. Everybody has
B = W / ratio for weights, in whole blocks, and as much as it likes for what passes allocate:

- ``prefix`` keeps its first leaves and ``strided`` leaves spread evenly through the model, as
  SGLang-like layerwise offloading does with layers that it keeps at a stride; both stream the other
  leaves, as they come, through two slots within B. They are plain torch of this repository;
- vramx has the budget B for its blocks. The model is managed outside the session's scope, where
  torch's own allocator serves the activations, as it does for the others;
- accelerate, diffusers' group offload and DFloat11's ``cpu_offload`` know no budget and have one
  row. DFloat11 packs in minutes: give it a longer ``--timeout``.
"""

import argparse
import resource
from typing import Any

from benchmarks import options as shared
from benchmarks.apart import Write, measure_apart
from benchmarks.report import Report
from benchmarks.scenarios import turns
from benchmarks.ways import WAYS
from benchmarks.workloads import build
from vramx.bench.measuring import host_bytes
from vramx.integrations.torch.timing import PinnedCopies

NEEDS_CARD = True
COLUMNS = turns.COLUMNS


def options(add: shared.Add, card: bool) -> None:
    turns.model(add, card, "linear", "12GiB", list(WAYS), [1.25, 1.5, 2, 4])
    add("--timeout", type=float, default=120, help="seconds for each process")


def run(args: argparse.Namespace, report: Report) -> None:
    """Let each peer take turns with stock torch, apart from the others."""
    report.begin(model=args.model, block=args.block)
    for case in turns.cases_of(args):
        asked = {**vars(args), "who": case.who, "ratio": case.ratio}
        figures = measure_apart(__name__, asked, args.timeout)
        stock = figures.pop("stock", None)
        if stock and not report.rows:
            report.add(stock)
        report.add({"who": case.who, "ratio": case.ratio, **figures})


def measure(asked: dict[str, Any], write: Write) -> None:
    """Let one peer take turns with stock torch, in a process of its own."""
    workload = build(*(asked[name] for name in ("model", "weights", "tokens", "width")))
    rounds = turns.Rounds(asked["device"], asked["rounds"], asked["passes"], asked["block"])
    case = turns.Case(asked["who"], asked["ratio"])
    stock, row = rounds.measure(workload, [case], PinnedCopies().to_card)
    row |= {"weights": workload.weights, "host_bytes": host_bytes()}
    row["host_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write({**row, "stock": stock})
