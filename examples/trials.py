"""The same work three ways: plain torch without a limit, plain torch at a budget, and vramx."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import vramx
from restorer import seeded_restorer
from rrdbnet import SCALE, seeded_upscaler, trained_upscaler
from vramx.pipelines.upscaling.tiles import Canvas, Grid, cut, smallest_tile

BLOCK = "2MiB"
CAPACITY = "8GiB"
LINK = "25GB/s"
MARGIN = 8
SMALLEST_TILE = smallest_tile(MARGIN, 1)


@dataclass(frozen=True)
class Job:
    """What every trial computes.

    Parameters
    ----------
    models : tuple of Module
        The upscaler and the restorer, on the CPU, in evaluation mode.
    weights_file : Path or None
        Where the upscaler's weights came from, for a trial that builds the models anew.
    picture : Tensor
        Shape (1, 3, height, width), on the CPU.
    tile : int
        The side of the tiles in which the picture is processed, `MARGIN` of context included.
    device : str
        Where torch computes: ``cuda``, or ``cpu`` beside the simulated card.
    """

    models: tuple[nn.Module, nn.Module]
    weights_file: Path | None
    picture: Tensor
    tile: int
    device: str

    @property
    def backend(self) -> str:
        """The vramx backend that goes with the device."""
        return "auto" if self.device == "cuda" else "simulated"

    @property
    def network(self) -> nn.Module:
        """Both models, the one after the other."""
        return nn.Sequential(*self.models)

    @property
    def grid(self) -> Grid:
        """How the picture is cut into tiles."""
        rows, columns = (cut(side, self.tile, MARGIN, 1) for side in self.picture.shape[-2:])
        return Grid(rows, columns)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers of both models."""
        return sum(
            tensor.nbytes
            for model in self.models
            for tensor in (*model.parameters(), *model.buffers())
        )


@dataclass(frozen=True)
class Trial:
    """One row of the table; None where a figure does not apply.

    Parameters
    ----------
    name : str
        What was run.
    error : str or None
        Why it failed.
    moved_in, moved_out, peak_resident : int or None
        Bytes.
    same_bits : bool or None
        Whether the picture equals the one made without a limit, bit for bit.
    seconds : float or None
        Time for all tiles.
    """

    name: str
    error: str | None = None
    moved_in: int | None = None
    moved_out: int | None = None
    peak_resident: int | None = None
    same_bits: bool | None = None
    seconds: float | None = None


def build_models(weights_file: Path | None) -> tuple[nn.Module, nn.Module]:
    """Return the upscaler and the restorer.

    Parameters
    ----------
    weights_file : Path or None
        The upscaler's weights; None takes seeded ones.

    Returns
    -------
    tuple of Module
        On the CPU, in evaluation mode.
    """
    first = seeded_upscaler() if weights_file is None else trained_upscaler(weights_file)
    return first, seeded_restorer()


def enlarge(job: Job) -> tuple[Tensor, float]:
    """Process every tile in plain torch, in the same tiles as `vramx.super_resolution`.

    Parameters
    ----------
    job : Job
        Its models must be where its device can use them.

    Returns
    -------
    picture : Tensor
        The enlarged picture, on the CPU.
    seconds : float
        Time for all tiles.
    """
    network, grid = job.network, job.grid
    canvas = Canvas(grid, 3, SCALE)
    started = time.perf_counter()
    with torch.inference_mode():
        tiles = tqdm(grid.tiles(job.picture), total=grid.count, desc="unlimited", unit="tile")
        for place, tile in enumerate(tiles):
            canvas.add(place, network(tile.to(job.device))[0].cpu())
    return canvas.pictures().clamp(0, 1), time.perf_counter() - started


def read_budget(text: str, backend: str) -> int:
    """Return the bytes of a budget given as text, as a session understands it.

    Parameters
    ----------
    text : str
        Such as ``24MiB``.
    backend : str
        The backend whose card must hold it.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    vramx.ConfigError
        The text is no size, or the card cannot hold it.
    """
    with vramx.oversubscribe(budget=text, backend=backend, block=BLOCK) as session:
        return session.stats().budget


def run_unlimited(job: Job) -> tuple[Trial, Tensor]:
    """Run in plain torch with all the memory there is.

    Parameters
    ----------
    job : Job
        Its models are on the CPU before and after.

    Returns
    -------
    trial : Trial
        The row.
    picture : Tensor
        What the other trials must equal.
    """
    on_gpu = job.device == "cuda"
    for model in job.models:
        model.to(job.device)
    if on_gpu:
        # The first pass loads kernels, and would be timed for that.
        with torch.inference_mode():
            job.network(next(job.grid.tiles(job.picture)).to(job.device))
        torch.cuda.reset_peak_memory_stats()
    picture, seconds = enlarge(job)
    peak = torch.cuda.max_memory_allocated() if on_gpu else job.weight_bytes
    for model in job.models:
        model.to("cpu")
    if on_gpu:
        torch.cuda.empty_cache()
    trial = Trial(
        "unlimited",
        moved_in=job.weight_bytes if on_gpu else None,
        moved_out=0 if on_gpu else None,
        peak_resident=peak,
        same_bits=True,
        seconds=seconds,
    )
    return trial, picture


def run_vramx(job: Job, budget: int, expected: Tensor) -> tuple[Trial, Tensor]:
    """Run inside a budget.

    Parameters
    ----------
    job : Job
        Its models are managed for the length of the run.
    budget : int
        Bytes.
    expected : Tensor
        The picture made without a limit.

    Returns
    -------
    trial : Trial
        The row.
    picture : Tensor
        The enlarged picture.
    """
    with vramx.oversubscribe(budget=budget, backend=job.backend, block=BLOCK) as session:
        network = job.network
        with vramx.super_resolution(
            network,
            scale=SCALE,
            tile=job.tile,
            overlap=MARGIN,
            batch=1,
            multiple=1,
            session=session,
        ) as enlarger:
            before = session.stats()  # the enlarger has tried the network on a small picture
            started = time.perf_counter()
            with tqdm(total=job.grid.count, desc="vramx", unit="tile") as progress:
                network.register_forward_hook(lambda *_: progress.update() and None)
                picture = enlarger(job.picture)
            seconds = time.perf_counter() - started
            stats = session.stats()
    trial = Trial(
        "vramx",
        moved_in=stats.moved_in - before.moved_in,
        moved_out=stats.moved_out - before.moved_out,
        peak_resident=stats.peak_resident,
        same_bits=torch.equal(picture, expected),
        seconds=seconds,
    )
    return trial, picture


def run_stock(job: Job, budget: int) -> Trial:
    """Try to hold everything at once in memory of the budget's size.

    On a GPU a fresh process runs plain torch under that cap, which would otherwise outlast this
    trial. The simulated card has no allocator of torch's, so there both models are pinned.

    Parameters
    ----------
    job : Job
        The work.
    budget : int
        Bytes.

    Returns
    -------
    Trial
        With the error where it fails, as it does if the budget is smaller than the weights.
    """
    error = _stock_on_gpu(job, budget) if job.device == "cuda" else _pin_all(job.models, budget)
    return Trial("stock at that budget", error=error)


def _pin_all(models: Sequence[nn.Module], budget: int) -> str | None:
    card = vramx.simulate(CAPACITY, LINK, reads_over_link=False)  # as plain allocations have it
    with card, vramx.oversubscribe(budget=budget, backend="simulated", block=BLOCK) as session:
        for model in models:
            session.manage(model)
        try:
            with session.pin(models):
                return None
        except vramx.OutOfMemoryError as error:
            return f"{type(error).__name__}: {error}"


def _stock_on_gpu(job: Job, budget: int) -> str | None:
    command = [sys.executable, str(Path(__file__).with_name("stock_trial.py")), str(budget)]
    command += [str(max(job.grid.rows.size, job.grid.columns.size))]
    if job.weights_file is not None:
        command.append(str(job.weights_file))
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"the stock trial broke:\n{finished.stderr}")
    error: str | None = json.loads(finished.stdout)["error"]
    return error
