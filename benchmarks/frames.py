"""Frames from memory, and what is measured of a program that takes one after another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vramx.bench.measuring import host_bytes

Frame = npt.NDArray[np.uint8]
#: Takes some frames and gives as many results, all of them in host memory.
Run = Callable[[Sequence[Frame]], Sequence[Any]]

#: How many frames differ before they come again.
DISTINCT = 8
#: Bytes a frame that memory may grow by and still count as flat: what 2,000 frames add is 32 MiB,
#: a fraction of what one lost frame in a hundred would.
FLAT = 16 * 2**10
#: The part of a long run in which caches fill, which is not looked at.
_FILLING = 0.25


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


def wait_for_card(device: str) -> None:
    """Wait until the card, where there is one, has done all."""
    if device != "cpu":
        torch.cuda.synchronize()


def card_bytes(device: str) -> int:
    """Return the bytes of the card in use, by anybody; 0 where there is none."""
    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def time_frames(
    run: Run, frames: Sequence[Frame], *, batch: int, seconds: float, device: str
) -> dict[str, Any]:
    """Time batches that follow each other without a pause, by the clock on the wall.

    Parameters
    ----------
    run : callable
        Takes a batch.
    frames : sequence of array
        What is taken by turns.
    batch : int
        Frames a batch.
    seconds : float
        About how long to measure; 3 to 200 batches.
    device : str
        Where they are computed.

    Returns
    -------
    dict
        The first batch's seconds; how many batches were measured after three, in which plans are
        made; and their seconds and frames a second.
    """
    source = groups_of(frames, 2**62, batch)

    def timed(count: int) -> float:
        wait_for_card(device)
        began = time.perf_counter()
        for group in islice(source, count):
            run(group)
        wait_for_card(device)
        return time.perf_counter() - began

    first = timed(1)
    timed(1)
    count = max(3, min(200, int(seconds / timed(1))))
    took = timed(count)
    return {
        "first_s": first,
        "batches": count,
        "batch_s": took / count,
        "frames_per_second": count * batch / took,
    }


def growth(frames: Sequence[int], sizes: Sequence[int]) -> float:
    """Return the bytes a frame by which memory grows, after the part in which caches fill."""
    kept = [place for place in range(len(frames)) if frames[place] >= _FILLING * frames[-1]]
    if len(kept) < 2:
        return 0.0
    return statistics.linear_regression(
        [frames[place] for place in kept], [sizes[place] for place in kept]
    ).slope


def watch_memory(
    run: Run,
    frames: Sequence[Frame],
    *,
    batch: int,
    count: int,
    every: int,
    device: str,
) -> dict[str, Any]:
    """Run many frames, and look at memory from time to time.

    Parameters
    ----------
    run, frames, batch, device
        As `time_frames`.
    count : int
        How many frames.
    every : int
        Frames from one look to the next.

    Returns
    -------
    dict
        Frames, seconds, what was seen, the host's and the card's growth in bytes a frame, and
        whether both are `FLAT`.
    """
    done, looks = 0, []
    began = time.perf_counter()
    for group in groups_of(frames, count, batch):
        before, done = done, done + len(group)
        run(group)
        if before // every < done // every:
            looks.append({"frames": done, "host": host_bytes(), "card": card_bytes(device)})
    wait_for_card(device)
    took = time.perf_counter() - began
    at = [look["frames"] for look in looks]
    grows = {name: growth(at, [look[name] for look in looks]) for name in ("host", "card")}
    return {
        "frames": done,
        "seconds": took,
        "looks": looks,
        "host_growth": grows["host"],
        "card_growth": grows["card"],
        "flat": max(grows.values()) <= FLAT,
    }


def memory_line(watched: dict[str, Any]) -> str:
    """Write what `watch_memory` found for people."""
    last = watched["looks"][-1] if watched["looks"] else {"host": 0, "card": 0}
    return (
        f"{watched['frames']} frames in {watched['seconds']:.1f} s: host memory grows "
        f"{watched['host_growth'] / 2**10:.1f} KiB a frame, now {last['host'] / 2**30:.2f} GiB; "
        f"the card's {watched['card_growth'] / 2**10:.1f} KiB, now {last['card'] / 2**30:.2f} GiB: "
        f"{'flat' if watched['flat'] else 'NOT FLAT'}"
    )
