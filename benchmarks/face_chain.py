"""Five models of a face swap over frames, whose weights together are twice the budget.

Detector, recognizer, swapper, enhancer and parser with seeded weights take frames from memory in
turn, a batch at a time, and give frames back to memory. Each way to run them has a process of its
own: with everything resident; one model at a time, which comes by ``.to("cuda")`` and leaves by
``.to("cpu")``; accelerate's ``cpu_offload``; and vramx, whose budget holds everything the program
has on the card, pictures and activations too. Many frames a batch make it computing that takes the
time, a single one the link: printed are T_fluid = max(C, (W-B)/L), which of the two it is, and the
part of a batch in which the card computes with everything resident; where that is small it is the
host that takes the time, with launches and with copies of pictures.

``--frames`` has vramx run that many more with the largest batch, and looks at host and card memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from chain_process import WAYS
from frames import memory_line
from processes import run_script
from reporting import Report, gib
from vramx.bench.limits import budget_of, limits
from vramx.units import format_size, parse_size

#: Computing is the limit where the card computes at least this part of the time.
COMPUTES = 0.8
#: The least of all-resident's frames a second where computing is the limit, and of one at a time's.
OF_RESIDENT = 0.9
OF_ONE_AT_A_TIME = 3.0

COLUMNS = (
    f"{'peer':<17}{'batch':<7}{'frames/s':<10}{'/resident':<11}{'/one by one':<13}{'first s':<9}"
    f"{'/T_fluid':<10}{'bound by':<11}{'card':<7}{'moved GiB':<11}{'torch GiB':<11}"
    f"{'vramx GiB':<11}{'host GiB':<10}{'same bits':<11}holds"
)

#: Starts one way to run the chain; returns its figures or its error.
Start = Callable[[str], dict[str, Any]]


def missed(row: dict[str, Any]) -> list[str]:
    """Name the limits that a row of vramx does not hold."""
    found = [] if row["same_bits"] else ["other bits"]
    if row["peak_resident"] > row["budget"]:
        found.append("over the budget")
    if row["bound_by"] == "computing" and row["over_resident"] < OF_RESIDENT:
        found.append(f"< {OF_RESIDENT} of resident")
    beside = row["over_one_at_a_time"]
    if beside is not None and beside < OF_ONE_AT_A_TIME:
        found.append(f"< {OF_ONE_AT_A_TIME:g} x one by one")
    return found


def rows_of(
    peer: str,
    budget: int,
    figures: dict[str, Any],
    stock: dict[str, Any],
    one_at_a_time: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """Put a way's figures beside all-resident's and one-at-a-time's, a row for each batch."""
    rows = []
    for place, own in enumerate(figures["batches"]):
        resident = stock["batches"][place]
        alone = None if one_at_a_time is None else one_at_a_time["batches"][place]
        fluid = bound_by = None
        if stock["link"] is not None:
            limit = limits(stock["weights"], budget, stock["link"], resident["batch_s"])
            fluid = limit.fluid
            host_bound = resident["card_share"] < COMPUTES
            slowest = "the host" if host_bound else "computing"
            bound_by = slowest if fluid <= resident["batch_s"] else "the link"
        row = {
            "peer": peer,
            "budget": budget,
            **own,
            "over_resident": own["frames_per_second"] / resident["frames_per_second"],
            "over_one_at_a_time": alone and own["frames_per_second"] / alone["frames_per_second"],
            "over_fluid": fluid and own["batch_s"] / fluid,
            "bound_by": bound_by,
            "resident_card_share": resident.get("card_share"),
            "same_bits": set(own["digests"]) == {resident["digests"][-1]},
            **{name: figures[name] for name in ("setup_s", "torch_peak", "peak_resident")},
            **{name: figures[name] for name in ("rss", "peak_rss")},
            "memory": figures.get("memory") if place == len(figures["batches"]) - 1 else None,
            "note": figures.get("note"),
        }
        row["missed"] = missed(row) if peer.startswith("vramx") else None
        rows.append(row)
    return rows


def compare(
    peers: Sequence[str], ratio: float, block: int, start: Callable[[str, int], Any], report: Report
) -> bool:
    """Run every way; report each batch of each.

    Parameters
    ----------
    peers : sequence of str
        Names in `WAYS`; with everything resident it runs in any case.
    ratio : float
        Of weights to budget.
    block : int
        Bytes of a block.
    start : callable
        Runs a way in a budget of bytes.
    report : Report
        Takes the rows.

    Returns
    -------
    bool
        Whether everything that was run gave figures, and vramx's hold their limits.
    """
    stock = start("stock", 0)
    if "error" in stock:
        report.add({"peer": "stock", "error": stock["error"]})
        return False
    budget = budget_of(stock["weights"], ratio, block)
    shared = {name: stock[name] for name in ("machine", "torch", "link", "weights", "parts")}
    report.begin(**shared, budget=budget, ratio=ratio)
    alone: dict[str, Any] | None = None
    well = True
    for peer in ("stock", *(each for each in WAYS if each in peers and each != "stock")):
        figures = stock if peer == "stock" else start(peer, budget)
        if "error" in figures:
            report.add({"peer": peer, "error": figures["error"]})
            well = well and figures["error"].startswith("not installed")
            continue
        if peer == "one-at-a-time":
            alone = figures
        for row in rows_of(peer, budget, figures, stock, alone):
            report.add(row)
            well = well and not row["missed"]
            well = well and (row["memory"] is None or row["memory"]["flat"])
    return well


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    if "error" in row:
        return f"{row['peer']:<17}{row['error']}"
    holds = "-" if row["missed"] is None else ", ".join(row["missed"]) or "yes"
    text = (
        f"{row['peer']:<17}{row['batch']:<7}{row['frames_per_second']:<10.2f}"
        f"{_ratio(row['over_resident']):<11}{_ratio(row['over_one_at_a_time']):<13}"
        f"{row['first_s']:<9.3f}{_ratio(row['over_fluid']):<10}{row['bound_by'] or '-':<11}"
        f"{_ratio(row['resident_card_share']):<7}"
        f"{gib(row.get('moved_in')):<11}{gib(row['torch_peak']):<11}"
        f"{gib(row['peak_resident']):<11}{gib(row['rss']):<10}"
        f"{'yes' if row['same_bits'] else 'NO':<11}{holds}"
    )
    if row["note"] is not None:
        text += f"; {row['note']}"
    return text if row["memory"] is None else f"{text}\n  {memory_line(row['memory'])}"


def head_line(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    parts = ", ".join(f"{name} {format_size(size)}" for name, size in shared["parts"].items())
    link = "" if shared["link"] is None else f", L {shared['link'] / 1e9:.1f} GB/s"
    return (
        f"{shared['machine']}, torch {shared['torch']}: W {format_size(shared['weights'])} "
        f"({parts}), B {format_size(shared['budget'])}{link}\n{COLUMNS}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    ways = [each for each in WAYS if (each == "vramx-simulated") != card or each == "stock"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="4GiB" if card else "32MiB", help="of all five models")
    parser.add_argument("--depth", type=int, default=24 if card else 4, help="blocks a model")
    parser.add_argument("--ratio", type=float, default=2.0, help="weights over budget")
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument(
        "--smaller",
        type=int,
        default=1 if card else 8,
        help="divides the networks' pictures' sides",
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16] if card else [1])
    parser.add_argument("--seconds", type=float, default=4.0, help="measured, each batch")
    parser.add_argument("--frames", type=int, default=0, help="how many to watch memory over")
    parser.add_argument("--every", type=int, default=100, help="frames from look to look")
    parser.add_argument("--block", default="32MiB" if card else "256KiB")
    parser.add_argument("--peers", nargs="+", choices=WAYS, default=ways, metavar="PEER")
    parser.add_argument("--timeout", type=float, default=150, help="seconds for each process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    width, height = args.size or ((1920, 1080) if card else (96, 64))
    asked = {
        "device": "cuda" if card else "cpu",
        "weights": parse_size(args.weights, "weights"),
        "block": parse_size(args.block, "block"),
        "height": height,
        "width": width,
        **{name: getattr(args, name) for name in ("depth", "smaller", "batches", "seconds")},
        **{name: getattr(args, name) for name in ("frames", "every")},
    }

    def start(peer: str, budget: int) -> dict[str, Any]:
        own = {**asked, "peer": peer, "budget": budget}
        if not peer.startswith("vramx"):
            own["frames"] = 0  # whose memory it is about
        return run_script("chain_process.py", own, args.timeout)

    report = Report(args.json, head_line, line, height=height, width=width)
    return 0 if compare(args.peers, args.ratio, asked["block"], start, report) else 1


if __name__ == "__main__":
    sys.exit(main())
