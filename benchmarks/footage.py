"""Frames from memory, and what is measured of a program that takes one after another."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vramx.bench.measuring import host_bytes, passes_within, times_by

Frame = npt.NDArray[np.uint8]
#: Takes some frames and gives as many results, all of them in host memory.
Run = Callable[[Sequence[Frame]], Sequence[Any]]

#: How many frames differ before they come again.
DISTINCT = 8
#: Bytes a frame that memory may grow by and still count as flat: what 2,000 frames add is 32 MiB,
#: a fraction of what one lost frame in a hundred would.
FLAT = 16 * 2**10
#: The part of a long run in which caches fill, which is not looked at, and how often it is after.
_FILLING, _LOOKS = 0.25, 20


def make_frames(height: int, width: int, count: int = DISTINCT) -> list[Frame]:
    """Make different frames of smooth colours with a little noise, the same ones every time."""
    random = np.random.default_rng(0)
    rows, columns = np.linspace(0, 9, height)[:, None, None], np.linspace(0, 16, width)[:, None]
    frames = []
    for place in range(count):
        waves = np.sin(rows + columns + place * np.array([0.7, 1.1, 1.9]))
        noise = random.normal(0, 3, (height, width, 3))
        frames.append(np.clip(127 + 100 * waves + noise, 0, 255).astype(np.uint8))
    return frames


def groups_of(frames: Sequence[Frame], count: int, batch: int) -> Iterator[list[Frame]]:
    """Give `count` frames in batches, again from the first one when they are used up."""
    endless = islice(cycle(frames), count)
    while group := [*islice(endless, batch)]:
        yield group


def time_frames(run: Run, frames: Sequence[Frame], *, batch: int, seconds: float) -> dict[str, Any]:
    """Time 3 to 200 batches, as many as fit into the seconds, without a pause between them.

    Three come before, in which plans are made; the first of them is told apart.
    """
    source = groups_of(frames, 2**62, batch)
    # Results are in host memory, so that all is done.
    timed = partial(times_by, time.perf_counter, lambda: run(next(source)))
    first, _, third = timed(3)[0]
    count = passes_within(seconds, third, 3, 200)
    one = sum(timed(count)[0]) / count
    figures = {"first_s": first, "batches": count, "batch_s": one}
    return {**figures, "frames_per_second": batch / one}


def growth(frames: Sequence[int], sizes: Sequence[int]) -> float:
    """Return the bytes a frame by which memory grows, after the part in which caches fill."""
    steady = [(at, size) for at, size in zip(frames, sizes) if at >= _FILLING * frames[-1]]
    return statistics.linear_regression(*zip(*steady)).slope if len(steady) > 1 else 0.0


def watch_memory(
    run: Run, frames: Sequence[Frame], *, batch: int, count: int, device: str
) -> dict[str, Any]:
    """Send many frames through; return by how many bytes a frame memory grows."""
    at, host, card, done = [], [], [], 0
    for group in groups_of(frames, count, batch):
        before, done = done, done + len(group)
        run(group)
        if before * _LOOKS // count < done * _LOOKS // count:
            free, total = (0, 0) if device == "cpu" else torch.cuda.mem_get_info()
            at.append(done)
            host.append(host_bytes())
            card.append(total - free)
    grows = {"host_growth": growth(at, host), "card_growth": growth(at, card)}
    return {"watched": done, **grows, "flat": max(grows.values()) <= FLAT}
