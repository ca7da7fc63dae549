"""Enlarge a photograph four times with two models that do not fit their memory budget together.

ESRGAN's network enlarges each tile, then a U-Net touches it up, so that the models take turns:
`vramx.super_resolution` with both as one network. The same work is also tried without vramx, and a
table compares the runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import vramx
from pictures import (
    choose_crop,
    load_picture,
    require_picture_name,
    save_picture,
)
from trials import (
    CAPACITY,
    LINK,
    SMALLEST_TILE,
    Job,
    Trial,
    build_models,
    read_budget,
    run_stock,
    run_unlimited,
    run_vramx,
)

MIB = 2**20


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
        "picture", nargs="?", type=Path, help="picture to enlarge (default: a portrait)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("enlarged.png"), help="enlarged picture to write"
    )
    parser.add_argument(
        "--weights", type=Path, help="RRDBNet 4x weights, as .safetensors or a torch checkpoint"
    )
    parser.add_argument(
        "--budget", help="memory for weights and tiles, such as 24MiB (default: half the weights)"
    )
    parser.add_argument(
        "--crop",
        help="WIDTHxHEIGHT around the face, WIDTHxHEIGHT+LEFT+TOP or whole "
        "(default: whole on a GPU, else 128x128)",
    )
    parser.add_argument(
        "--tile", type=int, help="largest side of a tile (default: 48 on a GPU, else 80)"
    )
    parser.add_argument("--json", type=Path, help="file for the table's figures")
    parser.add_argument(
        "--simulated", action="store_true", help="use the simulated card although there is a GPU"
    )
    return parser.parse_args(argv)


def choose_device(simulated: bool) -> tuple[str, str]:
    """Pick the GPU, or where there is none the simulated card.

    Parameters
    ----------
    simulated : bool
        Whether to pass over a GPU.

    Returns
    -------
    device : str
        Where torch computes.
    description : str
        What to tell the reader.
    """
    if torch.cuda.is_available() and not simulated:
        # Both runs must pick the same kernels, whatever memory is free at the time.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        return "cuda", f"GPU: {torch.cuda.get_device_name()}"
    reason = "as asked" if simulated else "no GPU found"
    return "cpu", f"simulated card ({CAPACITY}, {LINK} link; {reason}), computing on the CPU"


def prepare(arguments: argparse.Namespace, device: str) -> tuple[Job, int]:
    """Load everything that the trials need.

    Parameters
    ----------
    arguments : argparse.Namespace
        From `parse_arguments`.
    device : str
        From `choose_device`.

    Returns
    -------
    job : Job
        The work.
    budget : int
        Bytes.

    Raises
    ------
    ValueError, OSError
        An argument or a file is no good; the message says which.
    """
    on_gpu = device == "cuda"
    # On a GPU a tile's activations share the budget with the weights.
    tile = (48 if on_gpu else 80) if arguments.tile is None else arguments.tile
    if tile < SMALLEST_TILE:
        raise ValueError(f"a tile measures at least {SMALLEST_TILE} pixels, not {tile}")
    require_picture_name(arguments.output)
    picture, focus = load_picture(arguments.picture)
    crop_text = arguments.crop or ("whole" if on_gpu else "128x128")
    height, width = picture.shape[-2:]
    crop = choose_crop(crop_text, height, width, focus)
    job = Job(
        models=build_models(arguments.weights),
        weights_file=arguments.weights,
        picture=crop.cut(picture).contiguous(),
        tile=tile,
        device=device,
    )
    budget_text = arguments.budget or f"{job.weight_bytes // 2 // MIB}MiB"
    return job, read_budget(budget_text, job.backend)


def describe(job: Job, budget: int) -> str:
    """Say in a few lines what will be run.

    Parameters
    ----------
    job : Job
        The work.
    budget : int
        Bytes.

    Returns
    -------
    str
        Lines of text.
    """
    weights = (
        "seeded, not trained: a bicubic enlargement with a touch of the network's output"
        if job.weights_file is None
        else str(job.weights_file)
    )
    height, width = job.picture.shape[-2:]
    return (
        f"upscaler's weights: {weights}\n"
        f"picture: {width}x{height} in {job.grid.count} tiles\n"
        f"weights of both models: {as_mib(job.weight_bytes)}, budget: {as_mib(budget)}"
    )


def as_mib(size: int | None) -> str:
    """Return bytes as MiB for the table, or a dash for None."""
    return "-" if size is None else f"{size / MIB:,.1f} MiB"


def make_table(trials: Sequence[Trial]) -> Table:
    """Lay out the comparison.

    Parameters
    ----------
    trials : sequence of Trial
        One a row.

    Returns
    -------
    rich.table.Table
        Ready to print.
    """
    table = Table()
    table.add_column("run", min_width=11)
    table.add_column("result", no_wrap=True)
    for heading in ("moved\nin", "moved\nout", "peak\nresident", "same\nbits", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in trials:
        table.add_row(
            trial.name,
            "completes" if trial.error is None else "fails",
            as_mib(trial.moved_in),
            as_mib(trial.moved_out),
            as_mib(trial.peak_resident),
            {True: "yes", False: "NO", None: "-"}[trial.same_bits],
            "-" if trial.seconds is None else f"{trial.seconds:.2f} s",
        )
    return table


def save_figures(
    path: Path, description: str, job: Job, budget: int, trials: Sequence[Trial]
) -> None:
    """Write the table's figures as JSON.

    Parameters
    ----------
    path : Path
        The file; folders on the way are created.
    description : str
        The device, from `choose_device`.
    job : Job
        The work.
    budget : int
        Bytes.
    trials : sequence of Trial
        The rows.
    """
    figures = {
        "device": description,
        "backend": job.backend,
        "tiles": job.grid.count,
        "weight_bytes": job.weight_bytes,
        "budget": budget,
        "trials": [asdict(trial) for trial in trials],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def compare(job: Job, budget: int) -> tuple[list[Trial], Tensor]:
    """Run the three trials.

    Parameters
    ----------
    job : Job
        The work.
    budget : int
        Bytes.

    Returns
    -------
    trials : list of Trial
        Stock, unlimited, vramx.
    picture : Tensor
        What the run with vramx made.
    """
    stock = run_stock(job, budget)
    unlimited, expected = run_unlimited(job)
    managed, picture = run_vramx(job, budget, expected)
    return [stock, unlimited, managed], picture


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Parameters
    ----------
    argv : sequence of str or None
        The arguments; None takes the process's own.

    Returns
    -------
    int
        0 if vramx made the same picture as the run without a limit, 1 if it did not or a run or
        a write failed, 2 if an argument or an input file is no good.
    """
    arguments = parse_arguments(argv)
    with vramx.simulate(CAPACITY, LINK):
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """Make the picture, and compare.

    Parameters
    ----------
    arguments : argparse.Namespace
        From `parse_arguments`.

    Returns
    -------
    int
        The exit code; see `main`.
    """
    console = Console(highlight=False)
    say = partial(console.print, markup=False, soft_wrap=True)
    device, description = choose_device(arguments.simulated)
    say(f"device: {description}")
    try:
        job, budget = prepare(arguments, device)
    except (ValueError, OSError) as error:
        print(f"super_resolution: error: {error}", file=sys.stderr)
        return 2
    say(describe(job, budget))
    try:
        trials, picture = compare(job, budget)
        save_picture(picture, arguments.output)
        if arguments.json is not None:
            save_figures(arguments.json, description, job, budget, trials)
    except (vramx.Error, OSError) as error:
        print(f"super_resolution: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    console.print(make_table(trials))
    for trial in trials:
        if trial.error is not None:
            say(f"{trial.name}: {trial.error}")
    say(f"wrote {arguments.output}")
    return 0 if all(trial.same_bits is not False for trial in trials) else 1


if __name__ == "__main__":
    sys.exit(main())
