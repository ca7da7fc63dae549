"""A photograph through trained weights within budgets, beside the whole at once and usual tiles.

Real-ESRGAN's x4plus in float16 enlarges scikit-image's astronaut, brought to the size asked for. A
pass takes bytes on the host and gives bytes on the host. Before each other way, in the same
process, the whole picture is enlarged at once with everything on the card, which it is compared
with. Errors of the bytes are against the same weights run whole in float32, in steps of 255:
float16 alone differs by some steps from shape to shape, so that another run in float16 is no
measure. Tiles padded by a fixed number of pixels are what the usual tools do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import vramx
from reporting import Report
from vramx.pipelines import pretrained
from vramx.units import format_size, parse_size

MODEL = "realesrgan-x4plus"
SCALE = 4
#: How far tiles of usual tools are padded: side and padding in pixels.
USUAL = ((400, 10), (192, 10), (400, 32))

Pixels = np.ndarray[Any, Any]


def photograph(path: Path | None, width: int, height: int) -> Pixels:
    """Return a picture, or the astronaut, in a size, as bytes (height, width, 3)."""
    if path is None:
        from skimage import data

        picture = Image.fromarray(data.astronaut())
    else:
        picture = Image.open(path).convert("RGB")
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))


class Stock:
    """Torch with everything on the card."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.network = network.to(device)
        self.device = device
        self.dtype = next(network.parameters()).dtype

    def values(self, pixels: Pixels) -> torch.Tensor:
        """Return bytes as values from 0 to 1, (1, 3, h, w), on the card."""
        placed = torch.from_numpy(pixels).to(self.device)
        return placed.permute(2, 0, 1)[None].to(self.dtype) / 255

    def whole(self, pixels: Pixels) -> Pixels:
        """Enlarge a picture at once."""
        return as_bytes(self.network(self.values(pixels)))

    def tiled(self, pixels: Pixels, side: int, padding: int) -> Pixels:
        """Enlarge a picture in tiles that see some pixels beyond their own."""
        height, width = pixels.shape[:2]
        given = self.values(pixels)
        made = given.new_empty((1, 3, SCALE * height, SCALE * width))
        for top in range(0, height, side):
            for left in range(0, width, side):
                low, high = min(padding, top), min(padding, left)
                tile = given[
                    :, :, top - low : top + side + padding, left - high : left + side + padding
                ]
                rows, columns = min(side, height - top), min(side, width - left)
                made[
                    :,
                    :,
                    SCALE * top : SCALE * (top + rows),
                    SCALE * left : SCALE * (left + columns),
                ] = self.network(tile)[
                    :,
                    :,
                    SCALE * low : SCALE * (low + rows),
                    SCALE * high : SCALE * (high + columns),
                ]
        return as_bytes(made)


def as_bytes(made: torch.Tensor) -> Pixels:
    """Round values (1, 3, h, w) to bytes (h, w, 3) on the host."""
    rounded = (made[0].float().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels: Pixels = rounded.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def seconds(run: Callable[[], Any]) -> float:
    """Time a pass, which ends on the host."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def median(run: Callable[[], Any], rounds: int) -> float:
    """Return the median time of passes, after one."""
    run()
    return statistics.median(seconds(run) for _ in range(rounds))


def errors(made: Pixels, truth: torch.Tensor) -> dict[str, float]:
    """Compare bytes with values in steps of 255, (3, h, w)."""
    off = (torch.from_numpy(made).permute(2, 0, 1).float() - truth).abs()
    return {"largest": off.max().item(), "mean": off.mean().item()}


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    budget = "-" if row["budget"] is None else format_size(row["budget"])
    if "error" in row:
        return f"{row['who']:<24}{budget:<11}{row['error']}"
    peak = "-" if row["peak"] is None else format_size(row["peak"])
    return (
        f"{row['who']:<24}{budget:<11}{row['seconds']:<9.3f}{row['over_whole']:<9.3f}"
        f"{row['largest']:<9.2f}{row['mean']:<9.4f}{peak:<11}{row['note']}"
    )


def head(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, torch {shared['torch']}: {MODEL}, {shared['width']}x"
        f"{shared['height']}, the network alone {shared['network_s']:.3f} s\n"
        f"{'who':<24}{'budget':<11}{'seconds':<9}{'/whole':<9}{'largest':<9}{'mean':<9}{'peak':<11}"
    )


@torch.no_grad()
def measure(args: argparse.Namespace, report: Report, device: str) -> None:
    """Measure all ways."""
    pixels = photograph(args.picture, *args.size)
    network = pretrained.build(MODEL).requires_grad_(False)
    network.load_state_dict(load_file(pretrained.weights(MODEL)))
    stock = Stock(network.float(), device)
    torch.backends.cudnn.allow_tf32 = False
    truth = stock.network(stock.values(pixels))[0].clamp(0, 1).mul(255).cpu()
    stock = Stock(network.to(getattr(torch, args.dtype)), device)
    given = stock.values(pixels)

    def alone() -> None:
        stock.network(given)[0, 0, 0, :1].cpu()

    def whole() -> Pixels:
        return stock.whole(pixels)

    report.begin(
        machine=torch.cuda.get_device_name() if device == "cuda" else "CPU",
        torch=torch.__version__,
        width=args.size[0],
        height=args.size[1],
        network_s=median(alone, args.rounds),
    )

    def add(
        who: str,
        budget: int | None,
        run: Callable[[], Pixels],
        base: float,
        tell: Callable[[], dict[str, Any]] = plain,
    ) -> None:
        took = median(run, args.rounds)
        row = {"who": who, "budget": budget, "seconds": took, "over_whole": took / (base or took)}
        report.add({**tell(), **row, **errors(run(), truth)})

    add("whole", None, whole, 0, peak_of)
    for side, padding in args.usual:
        base = median(whole, args.rounds)
        run = partial(stock.tiled, pixels, side, padding)
        add(f"tiles of {side} by {padding}", None, run, base)
    own = pretrained.build(MODEL)
    own.load_state_dict(network.state_dict())
    own = own.to(getattr(torch, args.dtype))
    for text in args.budgets:
        budget = parse_size(text, "budget")
        base = median(whole, args.rounds)  # outside a session, which would take its memory in
        empty_cache()
        try:
            with vramx.super_resolution(own, budget=budget, backend=args.backend) as sr:
                add("vramx", budget, partial(sr, pixels), base, partial(told, sr, pixels))
        except vramx.Error as error:
            report.add({"who": "vramx", "budget": budget, "error": str(error)})


def empty_cache() -> None:
    """Give what torch keeps back to the card, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_of() -> dict[str, Any]:
    """Return what plain torch has held at most."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"peak": peak, "note": ""}


def plain() -> dict[str, Any]:
    """Return what there is to tell of a way without a session."""
    return {"peak": None, "note": ""}


def told(sr: Any, pixels: Pixels) -> dict[str, Any]:
    """Return what a session tells."""
    stats = sr.session.stats()
    moved = f"moved {format_size(stats.moved_in)} in, {format_size(stats.moved_out)} out"
    way = sr.forecast(pixels)
    return {"peak": stats.peak_resident, "note": f"{way.describe()}; {moved}", **way.figures()}


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = [1280, 720] if card else [96, 64]
    budgets = ["12GiB", "6GiB", "3GiB", "1.5GiB", "0.7GiB"] if card else ["2GiB", "100MiB"]
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), default=size)
    parser.add_argument("--picture", type=Path, help="another than the astronaut")
    parser.add_argument("--budgets", nargs="+", default=budgets)
    parser.add_argument("--dtype", default="float16" if card else "float32")
    parser.add_argument("--backend", default="auto" if card else "simulated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-usual", dest="usual", action="store_const", const=(), default=USUAL)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("always", RuntimeWarning)
    report = Report(args.json, head, line)
    measure(args, report, "cuda" if card else "cpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
