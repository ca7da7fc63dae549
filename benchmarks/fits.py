"""What managing costs where everything fits: managed against stock by turns, in one process.

Large and middling layers may take at most 1.01 times as long managed as stock. Of many small
modules, whose calls are bound by the CPU that launches them, each may take 10 µs more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import vramx
from reporting import Report
from vramx.bench.layers import build, bytes_of
from vramx.bench.measuring import times_by
from vramx.integrations.torch.timing import timed_on_card
from vramx.units import format_size, parse_size

#: The most that a managed pass may take over a stock one, where its layers are large.
RATIO = 1.01
#: The most seconds that managing may add to the call of a small module.
PER_CALL = 10e-6
#: A layer narrower than this is small.
SMALL = 1024


def _seconds(run: Callable[[], Any], on_card: bool) -> float:
    if on_card:
        return timed_on_card(run)
    (seconds,), _ = times_by(time.perf_counter, run, 1)
    return seconds


@torch.no_grad()
def measure(backend: str, layers: int, width: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Time both models by turns; figures in bytes and seconds."""
    on_card = backend != "simulated"
    device = "cuda" if on_card else "cpu"
    dtype = torch.bfloat16 if on_card else torch.float32
    weights = layers * width * width * dtype.itemsize
    stock = build(weights, width, dtype, device).to(device)
    x = torch.randn(tokens, width, dtype=dtype, device=device)
    times: dict[str, list[float]] = {"stock": [], "managed": []}
    with vramx.oversubscribe(weights + 2**30, backend=backend) as session:
        managed = session.manage(build(weights, width, dtype, device))
        for _ in range(5):
            expected, out = stock(x), managed(x)
        before = session.stats()
        for _ in range(rounds):
            times["stock"].append(_seconds(lambda: stock(x), on_card))
            times["managed"].append(_seconds(lambda: managed(x), on_card))
        moved = session.stats().moved_in - before.moved_in
        same = torch.equal(out, expected)
    stock_s, managed_s = (statistics.median(each) for each in times.values())
    ratio, per_call = managed_s / stock_s, (managed_s - stock_s) / layers
    return {
        "width": width,
        "layers": len(stock),
        "weights": bytes_of(stock),
        "tokens": tokens,
        "stock_s": stock_s,
        "managed_s": managed_s,
        "ratio": ratio,
        "per_call_s": per_call,
        "holds_limit": per_call <= PER_CALL if width < SMALL else ratio <= RATIO,
        "moved_in": moved,
        "same_bits": same,
    }


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    limit = f"{PER_CALL * 1e6:g} us a call" if row["width"] < SMALL else f"ratio {RATIO:g}"
    return (
        f"{row['layers']} layers of {row['width']}, {format_size(row['weights'])}: stock "
        f"{row['stock_s'] * 1e3:.2f} ms, managed {row['managed_s'] * 1e3:.2f} ms, ratio "
        f"{row['ratio']:.4f}, {row['per_call_s'] * 1e6:.2f} us a call more; "
        f"{'holds' if row['holds_limit'] else 'MISSES'} {limit}; same bits "
        f"{'yes' if row['same_bits'] else 'NO'}, moved {format_size(row['moved_in'])}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--backend",
        default="auto" if card else "simulated",
        help="the simulated one looks at every operation, so what it costs there is no measure",
    )
    parser.add_argument("--weights", default="4GiB" if card else "64MiB", help="in large layers")
    parser.add_argument("--widths", type=int, nargs="*", default=[8192, 2048] if card else [1024])
    parser.add_argument("--tokens", type=int, default=2048 if card else 16, help="for these")
    parser.add_argument("--modules", type=int, default=2000, help="small ones; 0 for none")
    parser.add_argument("--module-width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    size = 2 if args.backend != "simulated" else 4
    weights = parse_size(args.weights, "weights")
    cases = [(weights // (width * width * size), width, args.tokens) for width in args.widths]
    if args.modules:
        cases.append((args.modules, args.module_width, 16))
    machine = torch.cuda.get_device_name() if card else "simulated card, wall clock"
    report = Report(args.json, lambda known: f"{known['machine']}, torch {known['torch']}", line)
    report.begin(machine=machine, torch=torch.__version__, backend=args.backend)
    for case in cases:
        report.add(measure(args.backend, *case, args.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
