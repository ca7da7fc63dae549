"""Frames of 1080p enlarged to 4K by RRDBNet, tile by tile in a budget, beside stock torch.

Each way has a process of its own: stock torch with everything resident, each frame whole;
the same with its weights on the card for each frame only, by ``.to("cuda")`` and ``.to("cpu")`` or
by accelerate; `vramx.super_resolution` within the budget, with tiles of its own choice; and stock
torch with everything resident in those same tiles, which tells what the budget costs from what
tiles do.
Frames come from memory as bytes and go back to it as bytes. Outputs are compared as floats: with
the whole frame's by the largest difference, with those of the same tiles bit for bit.

``--frames`` has vramx enlarge that many more, and looks at host and card memory; smaller ones
(``--size``) do for that. ``--video`` has it enlarge a clip of so many frames too, codecs included,
where av is installed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enlarge_process import WAYS
from frames import memory_line
from processes import run_script
from reporting import Report, gib
from vramx.units import format_size, parse_size

#: The least of all-resident's frames a second.
OF_RESIDENT = 0.9

COLUMNS = (
    f"{'peer':<17}{'frames/s':<10}{'/whole':<8}{'/tiled':<8}{'first s':<9}{'tiles':<36}"
    f"{'computed':<10}{'moved GiB':<11}{'torch GiB':<11}{'vramx GiB':<11}{'host GiB':<10}"
    f"{'off whole':<11}{'as tiled':<10}holds"
)

#: Starts one way with sizes of tiles and a file for its output; returns its figures or its error.
Start = Callable[[str, dict[str, Any] | None, Path], dict[str, Any]]


def difference(one: Path, other: Path) -> float:
    """Return the largest difference of two outputs, where white is 1."""
    return float(np.abs(np.load(one) - np.load(other)).max())


def row_of(
    peer: str, figures: dict[str, Any], whole: dict[str, Any], tiled: dict[str, Any] | None
) -> dict[str, Any]:
    """Put a way's figures beside stock torch's."""
    rate = figures["frames_per_second"]
    kept = ("sizes", "batches", "batch_s", "first_s", "setup_s", "torch_peak", "peak_resident")
    more = ("moved_in", "moved_out", "over_link", "rss", "peak_rss")
    return {
        "peer": peer,
        "frames_per_second": rate,
        "over_whole": rate / whole["frames_per_second"],
        "over_tiled": None if tiled is None else rate / tiled["frames_per_second"],
        **{name: figures[name] for name in (*kept, *more)},
        **{name: figures.get(name) for name in ("memory", "note", "video_frames_per_second")},
    }


def missed(row: dict[str, Any], budget: int) -> list[str]:
    """Name the limits that a row of vramx does not hold."""
    found = []
    if row["peak_resident"] > budget:
        found.append("over the budget")
    if row["over_tiled"] is not None and row["over_tiled"] < OF_RESIDENT:
        found.append(f"< {OF_RESIDENT} of tiled")
    if row["over_whole"] < OF_RESIDENT:
        found.append(f"< {OF_RESIDENT} of whole")
    if row["off_tiled"]:
        found.append("other bits than tiled")
    if row["memory"] is not None and not row["memory"]["flat"]:
        found.append("memory grows")
    return found


def compare(peers: Sequence[str], budget: int, start: Start, report: Report, folder: Path) -> bool:
    """Run stock torch and vramx, and stock torch in vramx's tiles where it takes some.

    Parameters
    ----------
    peers : sequence of str
        Which of `WAYS` besides.
    budget : int
        Bytes.
    start : callable
        Runs a way.
    report : Report
        Takes the rows.
    folder : pathlib.Path
        Where outputs lie meanwhile.

    Returns
    -------
    bool
        Whether all was run, and vramx held its limits.
    """
    whole_output = folder / "stock.npy"
    whole = start("stock", None, whole_output)
    if "error" in whole:
        report.add({"peer": "stock", "error": whole["error"]})
        return False
    report.begin(**{name: whole[name] for name in ("machine", "torch", "weights")}, budget=budget)
    report.add(row_of("stock", whole, whole, None) | {"off_whole": 0.0})
    well = True
    tiled_output = folder / "tiled.npy"
    tiled_sizes, tiled = None, None
    for peer in peers:
        output = folder / f"{peer}.npy"
        figures = start(peer, None, output)
        if "error" in figures:
            report.add({"peer": peer, "error": figures["error"]})
            well = well and figures["error"].startswith("not installed")
            continue
        if not peer.startswith("vramx"):
            row = row_of(peer, figures, whole, None)
            report.add(row | {"off_whole": difference(output, whole_output)})
            continue
        if "bands" in figures["sizes"]:
            tiled_sizes = tiled = None
        elif figures["sizes"] != tiled_sizes:
            tiled_sizes = figures["sizes"]
            tiled = start("stock-tiled", tiled_sizes, tiled_output)
            if "error" in tiled:
                report.add({"peer": "stock-tiled", "error": tiled["error"]})
                tiled, well = None, False
            else:
                row = row_of("stock-tiled", {**tiled, "sizes": tiled_sizes}, whole, tiled)
                report.add(row | {"off_whole": difference(tiled_output, whole_output)})
        row = row_of(peer, figures, whole, tiled)
        row["off_whole"] = difference(output, whole_output)
        row["off_tiled"] = None if tiled is None else difference(output, tiled_output)
        output.unlink()
        row["missed"] = missed(row, budget)
        report.add(row)
        well = well and not row["missed"]
    return well


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    if "error" in row:
        return f"{row['peer']:<17}{row['error']}"
    sizes = row["sizes"]
    cut, computed = "whole", "-"
    if sizes is not None:
        if "bands" in sizes:
            cut = f"bands of {sizes['bands'][0]} rows"
        else:
            height, width = sizes["tile"]
            cut = "{tiles} of {}x{}, {overlap} context, {batch} at once".format(
                width, height, **sizes
            )
        computed = format(sizes["pixels"] / 1e6, ".2f") + "M"
    over = "-" if row["over_tiled"] is None else f"{row['over_tiled']:.3f}"
    bits = row.get("off_tiled")
    holds = ", ".join(row["missed"]) or "yes" if "missed" in row else "-"
    text = (
        f"{row['peer']:<17}{row['frames_per_second']:<10.2f}{row['over_whole']:<8.3f}{over:<8}"
        f"{row['first_s']:<9.3f}{cut:<36}{computed:<10}{gib(row['moved_in']):<11}"
        f"{gib(row['torch_peak']):<11}{gib(row['peak_resident']):<11}{gib(row['rss']):<10}"
        f"{row['off_whole']:<11.2g}{'-' if bits is None else 'NO' if bits else 'yes':<10}{holds}"
    )
    if row["note"] is not None:
        text += f"; {row['note']}"
    if row["video_frames_per_second"] is not None:
        text += f"\n  a video: {row['video_frames_per_second']:.2f} frames/s, codecs included"
    return text if row["memory"] is None else f"{text}\n  {memory_line(row['memory'])}"


def head_line(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, torch {shared['torch']}: {shared['width']}x{shared['height']}, "
        f"{shared['scale']} times as large, weights {format_size(shared['weights'])}, budget "
        f"{format_size(shared['budget'])}\n{COLUMNS}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    ways = [each for each in WAYS if not each.startswith("stock")]
    usual = [each for each in ways if (each == "vramx-simulated") != card]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", default="6GiB" if card else "64MiB")
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--scale", type=int, choices=(2, 4), default=2)
    parser.add_argument("--features", type=int, default=64 if card else 8)
    parser.add_argument("--blocks", type=int, default=23 if card else 1)
    parser.add_argument("--dtype", default="float16" if card else "float32")
    parser.add_argument("--tile", type=int, help="its side; as vramx chooses unless given")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, each way")
    parser.add_argument("--frames", type=int, default=0, help="how many to watch memory over")
    parser.add_argument("--every", type=int, default=100, help="frames from look to look")
    parser.add_argument("--video", type=int, default=0, help="frames of a clip to enlarge too")
    parser.add_argument("--block", default="32MiB" if card else "64KiB")
    parser.add_argument("--peers", nargs="+", choices=ways, default=usual, metavar="PEER")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for each process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    width, height = args.size or ((1920, 1080) if card else (96, 64))
    budget = parse_size(args.budget, "budget")
    asked = {
        "device": "cuda" if card else "cpu",
        "budget": budget,
        "block": parse_size(args.block, "block"),
        "height": height,
        "width": width,
        **{name: getattr(args, name) for name in ("scale", "features", "blocks", "dtype", "tile")},
        **{name: getattr(args, name) for name in ("seconds", "frames", "every", "video")},
    }

    def start(peer: str, sizes: dict[str, Any] | None, output: Path) -> dict[str, Any]:
        own = {**asked, "peer": peer, "sizes": sizes, "output": str(output)}
        if not peer.startswith("vramx"):
            own["frames"] = 0  # whose memory it is about
        return run_script("enlarge_process.py", own, args.timeout)

    report = Report(
        args.json, head_line, line, height=height, width=width, scale=args.scale, dtype=args.dtype
    )
    with tempfile.TemporaryDirectory() as folder:
        return 0 if compare(args.peers, budget, start, report, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
