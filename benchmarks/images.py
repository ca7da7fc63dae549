"""Images one after another: many passes of a U-Net, then a decoder with much larger activations.

So a diffusion pipeline works. The decoder's weights are few, but for a moment it takes gigabytes,
for which the U-Net's have to leave; then these have to come back, and torch keeps what the decoder
took for its next image. Each way is run in this process, one after the other, in one scope and with
everything in one budget, stock torch before and after. Times are medians over the images after the
second; the first pass of an image is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import vramx
from models import DTYPE, TOKENS, Workload, build, materialise
from peer_process import call
from reporting import Report, gib
from unet import GROUPS
from vramx.bench.layers import bytes_of
from vramx.units import format_size, parse_size
from vramx_ways import card_for

COLUMNS = (
    f"{'who':<12}{'budget':<10}{'image ms':<10}{'/stock':<9}{'first ms':<10}{'pass ms':<9}"
    f"{'decode ms':<11}{'in GiB':<9}{'out GiB':<9}{'torch GiB':<11}same bits"
)
#: Images that are not counted: kernels load, passes are recorded.
FIRST = 2


class Smooth(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, inward), nn.GroupNorm(GROUPS, outward)])
        self.convs = nn.ModuleList(nn.Conv2d(a, outward, 3, padding=1) for a in (inward, outward))
        self.shortcut = nn.Identity() if inward == outward else nn.Conv2d(inward, outward, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        h = x
        for norm, conv in zip(self.norms, self.convs):
            h = conv(functional.silu(norm(h)))
        return self.shortcut(x) + h


class Decoder(nn.Module):
    """Makes pictures of eight times the latents' sides, as SDXL's decoder does.

    Parameters
    ----------
    widths : sequence of int
        Channels at each resolution, the latents' first; SDXL has 512, 512, 256 and 128.
    """

    def __init__(self, widths: Sequence[int] = (512, 512, 256, 128)) -> None:
        super().__init__()
        self.inward = nn.Conv2d(4, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        at = widths[0]
        for width in widths:
            self.levels.append(
                nn.Sequential(Smooth(at, width), *(Smooth(width, width) for _ in range(2)))
            )
            at = width
        self.norm = nn.GroupNorm(GROUPS, at)
        self.outward = nn.Conv2d(at, 3, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Make pictures (n, 3, 8 h, 8 w) of latents (n, 4, h, w)."""
        x = self.inward(latents)
        for place, level in enumerate(self.levels):
            if place:
                x = functional.interpolate(x, scale_factor=2.0)
            x = level(x)
        return self.outward(functional.silu(self.norm(x)))


class Painter:
    """The two networks and what they are called with.

    Parameters
    ----------
    workload : Workload
        The U-Net.
    decoder : torch.nn.Module
        The decoder, on the CPU.
    steps : int
        Passes of the U-Net an image.
    side : int
        Of the latents.
    device : str
        Where inputs are.
    """

    def __init__(
        self, workload: Workload, decoder: nn.Module, steps: int, side: int, device: str
    ) -> None:
        self.models = [workload.module, decoder]
        self.steps = steps
        self.device = device
        self._inputs = workload.inputs_on(device)
        generator = torch.Generator().manual_seed(2)
        self._latents = torch.randn(1, 4, side, side, generator=generator).to(device, DTYPE)

    @torch.no_grad()
    def paint(self) -> tuple[list[float], torch.Tensor]:
        """Make an image; return the seconds of each pass and of the decoding, and the image."""
        unet, decoder = self.models
        seconds = []

        def timed(run: Callable[[], torch.Tensor]) -> torch.Tensor:
            began = time.perf_counter()
            out = run().cpu()
            seconds.append(time.perf_counter() - began)
            return out

        made = [timed(lambda: call(unet, self._inputs)) for _ in range(self.steps)]
        made.append(timed(lambda: decoder(self._latents)))
        return seconds, torch.cat([each.flatten() for each in made])


def figures(painter: Painter, images: int, session: vramx.Session | None) -> dict[str, Any]:
    """Make images; return times in seconds and bytes, and the last image."""

    def moved() -> tuple[int, int]:
        stats = session.stats() if session else None
        return (stats.moved_in, stats.moved_out) if stats else (0, 0)

    for _ in range(FIRST):
        painter.paint()
    before = moved()
    runs = [painter.paint() for _ in range(images)]
    moved_in, moved_out = ((now - then) / images for now, then in zip(moved(), before))
    times = [seconds for seconds, _ in runs]
    return {
        "image_s": statistics.median(sum(each) for each in times),
        "first_s": statistics.median(each[0] for each in times),
        "pass_s": statistics.median(each for own in times for each in own[1:-1]),
        "decode_s": statistics.median(each[-1] for each in times),
        "moved_in": moved_in,
        "moved_out": moved_out,
        "peak_resident": session.stats().peak_resident if session else None,
        "torch": torch.cuda.memory_reserved() if painter.device == "cuda" else None,
        "out": runs[-1][1],
    }


def run(painter: Painter, who: str, budget: int, block: int, images: int) -> dict[str, Any]:
    """Run a way: stock torch with everything resident, or a session of a backend."""
    try:
        if who == "stock":
            for model in painter.models:
                model.to(painter.device)
            return figures(painter, images, None)
        with (
            card_for(who, budget),
            vramx.oversubscribe(budget, backend=who, block=block) as session,
        ):
            for model in painter.models:
                session.manage(model)
            return figures(painter, images, session)
    finally:
        for model in painter.models:
            model.to("cpu")
        if painter.device == "cuda":
            torch.cuda.empty_cache()


def compare(
    painter: Painter, cases: Sequence[tuple[str, int]], block: int, images: int
) -> Iterator[dict[str, Any]]:
    """Run stock, each case of a backend and a budget, and stock again.

    Parameters
    ----------
    painter : Painter
        What makes images.
    cases : sequence of (str, int)
        Backends and budgets in bytes.
    block : int
        Bytes of a session's block.
    images : int
        How many count.

    Yields
    ------
    dict
        A row, put beside the first one.
    """
    stock: dict[str, Any] = {}
    for who, budget in (("stock", 0), *cases, ("stock", 0)):
        row = {"who": who, "budget": budget or None, **run(painter, who, budget, block, images)}
        stock = stock or {**row}
        row["same_bits"] = torch.equal(row.pop("out"), stock["out"])
        row["over_stock"] = row["image_s"] / stock["image_s"]
        yield row


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    budget = "-" if row["budget"] is None else format_size(row["budget"])
    times = "".join(
        f"{row[name] * 1e3:<{width}.1f}"
        for name, width in (("first_s", 10), ("pass_s", 9), ("decode_s", 11))
    )
    return (
        f"{row['who']:<12}{budget:<10}{row['image_s'] * 1e3:<10.0f}{row['over_stock']:<9.3f}{times}"
        f"{gib(row['moved_in']):<9}{gib(row['moved_out']):<9}{gib(row['torch']):<11}"
        f"{'yes' if row['same_bits'] else 'NO'}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", nargs="+", default=["6GiB", "4GiB"] if card else ["16MiB"])
    parser.add_argument(
        "--backends", nargs="+", default=["mapped", "managed"] if card else ["simulated"]
    )
    parser.add_argument("--steps", type=int, default=8, help="passes of the U-Net an image")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--width", type=int, default=None if card else 32, help="of the U-Net")
    parser.add_argument("--side", type=int, default=128 if card else 8, help="of the latents")
    parser.add_argument("--block", default="32MiB" if card else "256KiB")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.backends.cudnn.deterministic = True
    workload = build("unet", 0, TOKENS["unet"] if card else 64, args.width)
    with torch.device("meta"):
        decoder: nn.Module = Decoder() if card else Decoder((64, 64, 32, 32))
    painter = Painter(
        workload, materialise(decoder), args.steps, args.side, "cuda" if card else "cpu"
    )
    machine = torch.cuda.get_device_name() if card else "simulated card, wall clock"

    def head(known: dict[str, Any]) -> str:
        return (
            f"{known['machine']}, torch {known['torch']}: U-Net {gib(known['weights'])} GiB, "
            f"decoder {gib(known['decoder'])} GiB, {args.steps} passes an image\n{COLUMNS}"
        )

    weights, decoder_bytes = (bytes_of(model) for model in painter.models)
    report = Report(args.json, head, line, weights=weights, decoder=decoder_bytes)
    report.begin(machine=machine, torch=torch.__version__, steps=args.steps)
    cases = [(who, parse_size(each, "budgets")) for each in args.budgets for who in args.backends]
    for row in compare(painter, cases, parse_size(args.block, "block"), args.images):
        report.add(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
