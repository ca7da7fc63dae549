"""A photograph through trained weights within budgets, beside the whole at once and usual tiles.

Real-ESRGAN's x4plus in float16 enlarges scikit-image's astronaut, brought to the size asked for. A
pass takes bytes on the host and gives bytes on the host. Before each other way, in the same
process, the whole picture is enlarged at once with everything on the card, which it is compared
with. Errors of the bytes are against the same weights run whole in float32, in steps of 255:
float16 alone differs by some steps from shape to shape, so that another run in float16 is no
measure. Tiles padded by a fixed number of pixels are what the usual tools do.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import vramx
from benchmarks import options as shared
from benchmarks.pictures import Pixels, Stock, photograph, told, trained
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
    backends = [*shared.BACKENDS, "auto"]
    add("--backend", nargs="+", choices=backends, default=["auto"] if card else ["simulated"])
    add("--size", type=int, nargs=2, default=[1280, 720] if card else [32, 24])
    add("--budgets", type=shared.size, nargs="+", default=[shared.size(each) for each in budgets])
    add("--dtype", default="float16" if card else "float32")
    add("--rounds", type=int, default=3 if card else 1)
    add("--no-usual", dest="usual", action="store_const", const=(), default=USUAL)


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure all ways."""
    warnings.simplefilter("always", RuntimeWarning)
    device = "cuda" if args.card else "cpu"
    pixels = photograph(None, *args.size)
    torch.backends.cudnn.allow_tf32 = False
    exact = Stock(trained(MODEL, "float32"), device)
    truth = exact.network(exact.values(pixels))[0].clamp(0, 1).mul(255).cpu()
    del exact
    stock = Stock(trained(MODEL, args.dtype), device)
    given = stock.values(pixels)
    network_s = median(lambda: stock.network(given)[0, 0, 0, :1].cpu(), args.rounds)  # noqa: PLW0108
    report.begin(size="x".join(map(str, args.size)), network_s=network_s)

    def add(who: str, budget: int | None, work: Any, base: float | None, tell: Any) -> None:
        took = median(work, args.rounds)
        row = {"who": who, "budget": budget, "seconds": took, "over_whole": took / (base or took)}
        report.add({**row, **errors(work(), truth), **tell()})

    whole = partial(stock.whole, pixels)
    add("whole", None, whole, None, lambda: {"peak": torch.cuda.max_memory_allocated() or None})
    for side, padding in args.usual:
        base = median(whole, args.rounds)
        tiled = partial(stock.tiled, pixels, side, padding, SCALE)
        add(f"tiles {side} by {padding}", None, tiled, base, dict)
    own = trained(MODEL, args.dtype)
    for backend in args.backend:
        for budget in args.budgets:
            base = median(whole, args.rounds)  # outside a session, which would take its memory in
            torch.cuda.empty_cache()
            try:
                with vramx.super_resolution(own, budget=budget, backend=backend) as sr:
                    add(backend, budget, partial(sr, pixels), base, partial(told, sr, pixels))
            except vramx.Error as error:
                report.add({"who": backend, "budget": budget, "error": str(error)})


def median(work: Callable[[], Any], rounds: int) -> float:
    """Return the median seconds of passes that end on the host, after one."""

    def seconds() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    work()
    return statistics.median(seconds() for _ in range(rounds))


def errors(made: Pixels, truth: torch.Tensor) -> dict[str, float]:
    """Compare bytes with values in steps of 255, (3, h, w)."""
    off = (torch.from_numpy(made).permute(2, 0, 1).float() - truth).abs()
    return {"largest": off.max().item(), "mean": off.mean().item()}
