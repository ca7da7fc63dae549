"""What managing costs where everything fits: managed against stock by turns, in one process.

Large and middling layers may take at most 1.01 times as long managed as stock. Of many small
modules, whose calls are bound by the CPU that launches them, each may take 10 µs more. The
simulated card looks at every operation, so what it costs there is no measure.
"""

import argparse
from typing import Any

from benchmarks import options as shared
from benchmarks.report import Report
from benchmarks.scenarios.turns import Case, Rounds
from benchmarks.workloads import DTYPE, linear

#: The most that a managed pass may take over a stock one, where its layers are large.
RATIO = 1.01
#: The most seconds that managing may add to the call of a small module.
PER_CALL = 10e-6
#: A layer narrower than this is small, and has so many tokens.
SMALL, FEW = 1024, 16
#: Bytes of a budget beyond the weights.
ROOM = 2**30

COLUMNS = """
who:backend layers width stock_s:stock~ms:ms median_s:managed~ms:ms over_stock:/stock:ratio
per_call_s:us~a~call~more:us moved_in:moved~MiB:MiB same_bits:same~bits:bits missed:holds:holds
"""


def options(add: shared.Add, card: bool) -> None:
    shared.sessions(add, card)
    add("--weights", type=shared.size, default="4GiB" if card else "64MiB", help="in large layers")
    add("--widths", type=int, nargs="*", default=[8192, 2048] if card else [1024])
    add("--tokens", type=int, default=2048 if card else 16, help="for these")
    add("--modules", type=int, default=2000, help="small ones; 0 for none")
    add("--module-width", type=int, default=64)
    add("--rounds", type=int, default=40)


def run(args: argparse.Namespace, report: Report) -> None:
    """Let each model and its managed copies take turns."""
    cases = [(args.weights // (width**2 * DTYPE.itemsize), width) for width in args.widths]
    if args.modules:
        cases.append((args.modules, args.module_width))
    report.begin(block=args.block)
    rounds = Rounds(args.device, args.rounds, 1, args.block)
    for layers, width in cases:
        for row in measure(rounds, args.backend, layers, width, args.tokens):
            report.add(row)


def measure(
    rounds: Rounds, backends: list[str], layers: int, width: int, tokens: int
) -> list[dict[str, Any]]:
    """Return a row for each backend, in bytes and seconds."""
    small, weights = width < SMALL, layers * width**2 * DTYPE.itemsize
    cases = [Case(backend, weights / (weights + ROOM)) for backend in backends]
    stock, *rows = rounds.measure(linear(weights, FEW if small else tokens, width), cases)
    for row in rows:
        if "median_s" not in row:
            continue
        more = (row["median_s"] - stock["median_s"]) / layers
        row |= {"layers": layers, "width": width, "stock_s": stock["median_s"], "per_call_s": more}
        if small:
            row["missed"] = [f"> {PER_CALL * 1e6:g} us a call"] if more > PER_CALL else []
        else:
            row["missed"] = [f"> {RATIO:g} of stock"] if row["over_stock"] > RATIO else []
    return rows
