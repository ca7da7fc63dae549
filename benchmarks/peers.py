"""One model in the same memory through vramx and through what else there is; needs a card.

Each peer runs in a process of its own, where the link L is measured too, by a pinned copy before
and after the passes. Stock torch comes first: it gives the pass's time C with everything resident
(or leaf by leaf, less the time of copying, where the model does not fit the card), the output that
every peer's is compared with, and A, the most bytes that a pass takes beside its weights.

Everybody has B = W / ratio for weights, in whole blocks of 32 MiB, and A for all else:

- capped stock may take B + A in all, as torch counts its reserved memory;
- the pinned prefix keeps its leaves and its slots for streamed ones within B;
- vramx has the budget B for its blocks. The model is managed outside the session's scope, where
  torch's own allocator serves the activations, as it does for the other peers;
- accelerate and diffusers know no budget; they run once and stand at each ratio. A row whose peak
  is above B + A is marked with an exclamation mark;
- stock torch and the naive pool of unified memory hold all of W and stand at the ratio 1.

Times are medians of passes that follow each other without a pause, 10 to 30 of them by the time
that one takes, after three that are reported apart: in those vramx plans, and others may warm up
too. p99 is the worst where there are fewer than a hundred. T_fluid = max(C, (W-B)/L), T_plan =
max(C, (W-B+S*b)/L) and T_LRU = max(C, W/L), with L as measured beside the passes, S = 4 blocks in
flight and b = 32 MiB. Memory on the card is what torch allocated and vramx's blocks at their peaks,
without CUDA's context; the host's is that of the process, at the end and at its peak.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models import TOKENS
from peer_kinds import PEERS
from processes import run_script
from reporting import Report
from vramx.bench.limits import budget_of, limits, nearest_rank
from vramx.units import format_size, parse_size

#: Starts a peer with a budget and room for activations, in bytes; returns its figures or its error.
Start = Callable[[str, int, int], dict[str, Any]]

COLUMNS = (
    f"{'peer':<19}{'W/B':<6}{'set-up s':<9}{'first s':<8}{'median ms':<10}{'p99 ms':<9}"
    f"{'/median':<8}{'T/T_fluid':<10}{'T/T_plan':<9}{'T/T_LRU':<8}{'moved/(W-B)':<12}"
    f"{'card GiB':<9}{'host GiB':<9}{'peak':<7}{'L GB/s':<7}same bits"
)


def start_process(args: argparse.Namespace, peer: str, budget: int, room: int) -> dict[str, Any]:
    """Run a peer in a process of its own; return its figures, or its error."""
    asked = {
        "peer": peer,
        "model": args.model,
        "weights": args.weights,
        "width": args.width,
        "tokens": args.tokens,
        "passes": args.passes,
        "budget": budget,
        "activations": room,
    }
    return run_script("peer_process.py", asked, args.timeout)


def row(
    peer: str, ratio: float, budget: int, figures: dict[str, Any], stock: dict[str, Any]
) -> dict[str, Any]:
    """Put a peer's figures at one ratio over the limits and beside stock torch's."""
    result: dict[str, Any] = {"peer": peer, "ratio": ratio, "budget": budget}
    if "error" in figures:
        return {**result, "error": figures["error"]}
    compute = statistics.median(stock["times_s"])
    median = statistics.median(figures["times_s"])
    p99 = nearest_rank(figures["times_s"], 0.99)
    limit = limits(stock["weights"], budget, figures["link"], compute)
    moved, excess = figures["moved"], stock["weights"] - budget
    return {
        **result,
        **{name: figures[name] for name in ("setup_s", "warm_up_s", "link", "peak_vram")},
        **{name: figures[name] for name in ("rss", "peak_rss", "finite", "times_s", "moved")},
        "first_s": figures["warm_up_s"][0],
        "median_s": median,
        "p99_s": p99,
        "p99_over_median": p99 / median,
        "moved_over_excess": None if moved is None or excess <= 0 else moved / excess,
        "over_fluid": median / limit.fluid,
        "over_plan": median / limit.plan,
        "over_lru": median / limit.lru,
        # Torch rounds each tensor up, so a little more is no fault.
        "within_budget": figures["peak_vram"] <= 1.01 * (budget + stock["activations"]),
        "same_bits": set(figures["digests"]) == {stock["digests"][-1]},
        "note": figures.get("note"),
    }


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    start = f"{row['peer']:<19}{row['ratio']:<6g}"
    if "error" in row:
        return start + row["error"]
    moved = row["moved_over_excess"]
    card = f"{row['peak_vram'] / 2**30:.2f}{'' if row['within_budget'] else '!'}"
    return (
        f"{start}{row['setup_s']:<9.2f}{row['first_s']:<8.3f}{row['median_s'] * 1e3:<10.2f}"
        f"{row['p99_s'] * 1e3:<9.2f}{row['p99_over_median']:<8.3f}"
        f"{row['over_fluid']:<10.3f}{row['over_plan']:<9.3f}"
        f"{row['over_lru']:<8.3f}{'-' if moved is None else format(moved, '.3f'):<12}{card:<9}"
        f"{row['rss'] / 2**30:<9.2f}{row['peak_rss'] / 2**30:<7.2f}{row['link'] / 1e9:<7.1f}"
        f"{'yes' if row['same_bits'] else 'NO'}{'' if row['finite'] else ', not finite'}"
        f"{'' if row['note'] is None else ', ' + row['note']}"
    )


def compare(
    peers: list[str],
    ratios: list[float],
    start: Start,
    report: Report,
) -> bool:
    """Run stock torch and the peers.

    Parameters
    ----------
    peers : list of str
        Names in `PEERS`; stock torch runs in any case.
    ratios : list of float
        Of weights to budget.
    start : callable
        Runs one peer at one budget.
    report : Report
        Takes what all rows share, then each row as it is known.

    Returns
    -------
    bool
        Whether stock torch gave figures to compare with; if not, no other peer was run.
    """
    stock = start("stock", 0, 0)
    if "error" in stock:
        report.add({"peer": "stock", "ratio": 1, "budget": 0, "error": stock["error"]})
        return False
    weights, room = stock["weights"], stock["activations"]
    head = {name: stock[name] for name in ("machine", "torch", "cuda", "module", "link")}
    compute = statistics.median(stock["times_s"])
    report.begin(**head, weights=weights, activations=room, all_resident_s=compute)
    report.add(row("stock", 1, weights, stock, stock))
    for peer in peers:
        kind = PEERS[peer]()
        if peer == "stock":
            continue
        if kind.takes_all:
            report.add(row(peer, 1, weights, start(peer, weights, room), stock))
            continue
        figures = None
        for ratio in ratios:
            budget = budget_of(weights, ratio)
            if figures is None or kind.heeds_budget:
                figures = start(peer, budget, room)
            report.add(row(peer, ratio, budget, figures, stock))
    return True


def head_line(result: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{result['machine']}, torch {result['torch']}: {result['model']} ({result['module']}), "
        f"W {format_size(result['weights'])}, A {format_size(result['activations'])}, "
        f"C {result['all_resident_s'] * 1e3:.1f} ms, L {result['link'] / 1e9:.1f} GB/s\n{COLUMNS}"
    )


def report_of(args: argparse.Namespace) -> Report:
    """Make the report of a run with these options."""
    asked = {name: getattr(args, name) for name in ("model", "tokens", "width", "passes")}
    return Report(args.json, head_line, line, **asked)


def above_one(text: str) -> float:
    """Read a ratio of weights to budget."""
    value = float(text)
    if value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 1: the budget is less than W")
    return value


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=TOKENS, default="linear")
    parser.add_argument("--weights", default="12GiB", help="the U-Net's follow from its width")
    parser.add_argument("--width", type=int, help="channels; each model has its own default")
    parser.add_argument(
        "--tokens",
        type=int,
        help="of a pass; linear: 2048 (default) is bound by the link, 16384 by computing, 7000 by "
        "neither; dit: patches, 4096; unet: latents' places, 16384; decode: 1",
    )
    parser.add_argument("--ratios", type=above_one, nargs="+", default=[1.25, 1.5, 2, 4])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--passes", type=int, help="measured; 10 to 30 by their time unless given")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for each process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.weights = parse_size(args.weights, "weights")
    args.tokens = args.tokens or TOKENS[args.model]
    if not torch.cuda.is_available():
        print(
            f"peers.py needs an NVIDIA card that torch can use; torch {torch.__version__} sees "
            "none. benchmarks/cyclic.py runs on a simulated card.",
            file=sys.stderr,
        )
        return 2
    start = functools.partial(start_process, args)
    return 0 if compare(args.peers, args.ratios, start, report_of(args)) else 1


if __name__ == "__main__":
    sys.exit(main())
