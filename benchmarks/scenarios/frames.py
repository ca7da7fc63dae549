"""Frames through chains of models in a budget, beside other ways to run them.

``chain`` is five models of a face swap whose weights together are twice the budget. ``images`` is
SDXL's U-Net, eight passes an image, and its decoder. Weights are seeded.

Each way has a process of its own: with everything resident; one model at a time, which comes by
``.to("cuda")`` and leaves by ``.to("cpu")``; accelerate's ``cpu_offload``; and vramx, whose budget
holds everything that the program has on the card, pictures and activations too. Frames come from
memory and go back to it. Many frames a batch make it computing that takes the time, a single one
the link, or the host's launches: printed is the time over T_fluid = max(C, (W-B)/L).

``--watch`` has vramx take that many frames more, with the largest batch, and looks at memory.
"""

import argparse
import hashlib
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import options as shared
from benchmarks.apart import Write, measure_apart
from benchmarks.footage import make_frames, time_frames, watch_memory
from benchmarks.programs import OTHERS, PROGRAMS, Running
from benchmarks.report import Report
from vramx.bench.limits import budget_of, limits
from vramx.bench.measuring import host_bytes
from vramx.integrations.torch.timing import PinnedCopies

#: The least of all-resident's frames a second where computing is the limit, and of one at a time's.
OF_RESIDENT, OF_ONE_AT_A_TIME = 0.9, 3.0

COLUMNS = """
peer::text batch frames_per_second:frames/s:s over_resident:/resident:ratio
over_one_at_a_time:/one~by~one:ratio first_s:first~s:s over_fluid:T/T_fluid:ratio
moved_in:moved~GiB:GiB moved_out:out~GiB:GiB torch_peak:torch~GiB:GiB peak_resident:vramx~GiB:GiB
host_bytes:host~GiB:GiB host_growth:host~grows:g card_growth:card~grows:g same_bits:same~bits:bits
missed:holds:holds
"""


def options(add: shared.Add, card: bool) -> None:
    shared.sessions(add, card, block="64KiB")
    add("--program", choices=PROGRAMS, default="chain")
    add("--peers", nargs="*", choices=OTHERS, default=OTHERS if card else [], metavar="PEER")
    add("--weights", type=shared.size, default="4GiB" if card else "16MiB", help="chain: of all")
    add("--depth", type=int, default=24 if card else 2, help="chain: blocks a model")
    add("--smaller", type=int, default=1 if card else 8, help="chain: divides pictures' sides")
    add("--steps", type=int, default=8 if card else 2, help="images: passes of the U-Net")
    add("--budget", type=shared.size, help="half the weights unless given")
    add("--size", type=int, nargs=2, default=(1920, 1080) if card else (96, 64))
    add("--batches", type=int, nargs="+", default=[1, 16] if card else [1])
    add("--seconds", type=float, default=4.0 if card else 0.0, help="measured, each batch")
    add("--watch", type=int, default=0, help="frames to watch memory over")
    add("--timeout", type=float, default=240, help="seconds for each process")


def run(args: argparse.Namespace, report: Report) -> None:
    """Run every way in a process of its own."""

    def start(peer: str, budget: int) -> dict[str, Any]:
        watch = args.watch if peer.startswith("vramx") else 0  # whose memory it is about
        own = {**vars(args), "peer": peer, "budget": budget, "watch": watch}
        return measure_apart(__name__, own, args.timeout)

    peers = [*args.peers, *(f"vramx-{backend}" for backend in args.backend)]
    compare(peers, args.budget, args.block, start, report)


def compare(
    peers: Sequence[str],
    budget: int | None,
    block: int,
    start: Callable[[str, int], dict[str, Any]],
    report: Report,
) -> None:
    """Run stock torch, then the others, each by `start` in a budget; report each batch of each."""
    stock = start("stock", 0)
    if "batches" not in stock:
        report.begin()
        report.add({"peer": "stock", **stock})
        return
    budget = budget or budget_of(stock["weights"], 2, block)
    facts = {} if stock["link"] is None else {"link": stock["link"]}
    report.begin(weights=stock["weights"], budget=budget, **facts)
    alone: dict[str, Any] = {}
    for peer in ("stock", *peers):
        figures = stock if peer == "stock" else start(peer, budget)
        if "batches" not in figures:
            report.add({"peer": peer, **figures})
            continue
        alone = figures if peer == "one-at-a-time" else alone
        for row in rows_of(peer, budget, figures, stock, alone):
            report.add(row)


def rows_of(
    peer: str, budget: int, figures: dict[str, Any], stock: dict[str, Any], alone: dict[str, Any]
) -> list[dict[str, Any]]:
    """Put a way's figures beside all-resident's and one-at-a-time's, a row for each batch."""
    rows = []
    kept = {name: value for name, value in figures.items() if name not in ("batches", "link")}
    for place, own in enumerate(figures["batches"]):
        resident, rate = stock["batches"][place], own["frames_per_second"]
        row = {"peer": peer, **kept, **own, "over_resident": rate / resident["frames_per_second"]}
        row["same_bits"] = row.pop("digest") == resident["digest"]
        if alone:
            row["over_one_at_a_time"] = rate / alone["batches"][place]["frames_per_second"]
        if stock["link"] is not None:
            fluid = limits(stock["weights"], budget, stock["link"], resident["batch_s"]).fluid
            row["over_fluid"] = own["batch_s"] / fluid
            row["bound_by"] = "computing" if fluid <= resident["batch_s"] else "the link"
        if peer.startswith("vramx"):
            row["missed"] = missed(row, budget)
        rows.append(row)
    return rows


def missed(row: dict[str, Any], budget: int) -> list[str]:
    """Name the limits that a row of vramx does not hold."""
    found = [] if row["peak_resident"] <= budget else ["over the budget"]
    if row.get("bound_by") == "computing" and row["over_resident"] < OF_RESIDENT:
        found.append(f"< {OF_RESIDENT} of resident")
    if "bound_by" in row and row.get("over_one_at_a_time", OF_ONE_AT_A_TIME) < OF_ONE_AT_A_TIME:
        found.append(f"< {OF_ONE_AT_A_TIME:g} x one by one")
    return found if row.get("flat", True) else [*found, "memory grows"]


def measure(asked: dict[str, Any], write: Write) -> None:
    """Measure a way, in a process of its own; figures in bytes and seconds."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    device, on_card, most = asked["device"], asked["device"] != "cpu", max(asked["batches"])
    width, height = asked["size"]
    frames = make_frames(height, width)
    frames *= -(-most // len(frames))
    way = Running(PROGRAMS[asked["program"]](asked), asked["peer"], device)
    figures: dict[str, Any] = {"weights": way.weights, "batches": []}
    began = time.perf_counter()
    with way.prepared(asked["budget"], asked["block"]):
        if on_card:
            torch.cuda.synchronize()
        figures["setup_s"] = time.perf_counter() - began
        for batch in asked["batches"]:
            figures["batches"].append(batch_of(way, frames, batch, asked["seconds"]))
        figures["torch_peak"] = torch.cuda.max_memory_allocated() if on_card else None
        if asked["watch"]:
            figures |= watch_memory(
                way.run, frames, batch=most, count=asked["watch"], device=device
            )
        stats = way.stats()
        figures["peak_resident"] = None if stats is None else stats.peak_resident
        figures["host_bytes"] = host_bytes()
        figures["host_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        stock = on_card and asked["peer"] == "stock"
        write(figures | {"link": PinnedCopies().to_card() if stock else None})


def batch_of(way: Running, frames: list[Any], size: int, seconds: float) -> Any:
    """Measure with so many frames a batch."""
    before = way.stats()
    found = time_frames(way.run, frames, batch=size, seconds=seconds)
    if before is not None and (after := way.stats()) is not None:
        batches = found["batches"] + 3  # those that come before those that are timed
        found["moved_in"] = (after.moved_in - before.moved_in) / batches
        found["moved_out"] = (after.moved_out - before.moved_out) / batches
    digest = hashlib.sha256(np.stack(way.run(frames[:size])).tobytes()).hexdigest()[:16]
    return {**found, "batch": size, "digest": digest}
