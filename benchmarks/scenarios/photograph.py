"""A photograph through trained weights within budgets, beside the whole at once and usual tiles.

Real-ESRGAN's x4plus in float16 enlarges scikit-image's astronaut, brought to the size asked for. A
pass takes bytes on the host and gives bytes on the host. Before each other way, in the same
process, the whole picture is enlarged at once with everything on the card, which it is compared
with. Errors of the bytes are against the same weights run whole in float32, in steps of 255:
float16 alone differs by some steps from shape to shape, so that another run in float16 is no
measure. Tiles padded by a fixed number of pixels are what the usual tools do.
"""

import argparse
import warnings
from functools import partial
from typing import Any

import torch

import vramx
from benchmarks import options as shared
from benchmarks.pictures import Pixels, Stock, median_seconds, photograph, told, trained
from benchmarks.report import Report

MODEL, SCALE = "realesrgan-x4plus", 4
#: How tiles of usual tools are padded: side and padding in pixels.
USUAL = ((400, 10), (192, 10), (400, 32))

COLUMNS = """
who:who:text budget:budget:size seconds:seconds:s over_whole:/whole:ratio largest:largest:s
mean::g peak:peak:size
"""


def options(add: shared.Add, card: bool) -> None:
    budgets = ["12GiB", "6GiB", "3GiB", "1.5GiB", "0.7GiB"] if card else ["2GiB", "100MiB"]
    shared.pictures(add, card, 3 if card else 1)
    add("--size", type=int, nargs=2, default=[1280, 720] if card else [32, 24])
    add("--budgets", type=shared.size, nargs="+", default=[shared.size(each) for each in budgets])
    add("--no-usual", dest="usual", action="store_const", const=(), default=USUAL)


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure all ways."""
    warnings.simplefilter("always", RuntimeWarning)
    pixels = photograph(*args.size)
    torch.backends.cudnn.allow_tf32 = False
    exact = Stock(trained(MODEL, "float32"), args.device)
    truth = exact.network(exact.values(pixels))[0].clamp(0, 1).mul(255).cpu()
    del exact
    stock = Stock(trained(MODEL, args.dtype), args.device)
    given = stock.values(pixels)
    median = partial(median_seconds, rounds=args.rounds)
    network_s = median(lambda: stock.network(given)[0, 0, 0, :1].cpu())  # noqa: PLW0108
    report.begin(size="x".join(map(str, args.size)), network_s=network_s)
    whole = partial(stock.whole, pixels)

    def measured(work: Any, base: float | None = None) -> dict[str, float]:
        took = median(work)
        return {"seconds": took, "over_whole": took / (base or took), **errors(work(), truth)}

    row = {"who": "whole", **measured(whole)}
    report.add({**row, "peak": torch.cuda.max_memory_allocated() or None})
    for side, padding in args.usual:
        base = median(whole)
        tiled = partial(stock.tiled, pixels, side, padding, SCALE)
        report.add({"who": f"tiles {side} by {padding}", **measured(tiled, base)})
    own = trained(MODEL, args.dtype)
    for backend in args.backend:
        for budget in args.budgets:
            base = median(whole)  # outside a session, which would take its memory in
            torch.cuda.empty_cache()
            opened = partial(vramx.super_resolution, own, budget=budget, backend=backend)
            with report.row(who=backend, budget=budget) as row, opened() as sr:
                row.update(measured(partial(sr, pixels), base))
                row.update(told(sr, pixels))


def errors(made: Pixels, truth: torch.Tensor) -> dict[str, float]:
    """Compare bytes with values in steps of 255, (3, h, w)."""
    off = (torch.from_numpy(made).permute(2, 0, 1).float() - truth).abs()
    return {"largest": off.max().item(), "mean": off.mean().item()}
