"""A clip by Ray's actors on one card, beside the same clip without Ray.

The ways make the clip in segments, by turns, and are timed from the end of the first segment on, so
that the start of actors and the loading of models do not count. What Ray adds to a segment is what
one actor takes longer for it than a session of this process with the same budget, the gaps between
segments and the decoding from the key frame before included. Two actors have half of the card each.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import options as shared
from benchmarks.pictures import photograph
from benchmarks.report import Report
from benchmarks.scenarios.clips import pan, write
from vramx import Progress, VideoOptions
from vramx.engines import ray as cluster
from vramx.engines.ray import RayOptions
from vramx.tasks import SessionOptions, UpscalerSpec, UpscaleTask
from vramx.tasks import run as run_here

#: The most that Ray may add to a segment's time.
MOST = 0.03

COLUMNS = """
who:who:text frames_per_second:frames/s:s segment_s:segment:s over_local:over~local:ratio
budget:budget:size peak:peak:size same_bits:bits:bits missed:holds:holds
"""


def options(add: shared.Add, card: bool) -> None:
    add("--model", default="realesr-animevideov3-x2")
    add("--size", type=int, nargs=2, default=(1920, 1080) if card else (64, 48))
    add("--frames", type=int, default=600 if card else 24)
    add("--segment", type=int, default=100 if card else 6)
    add("--rounds", type=int, default=3 if card else 1)
    add("--budget", type=shared.size, default="6GiB" if card else "64MiB")
    add("--backend", default=None if card else "simulated")


def run(args: argparse.Namespace, report: Report) -> None:
    """Make the clip by each way, in rounds."""
    import ray

    report.begin(budget=args.budget)
    width, height = args.size
    ray.init(num_gpus=1, log_to_driver=False, include_dashboard=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = pan(photograph(width + 2 * args.frames, height + args.frames), args.frames)
        write(frames, folder / "in.mp4", {"preset": "veryfast", "crf": "18"})
        backend = {} if args.backend is None else {"backend": args.backend}

        def task(number: int) -> UpscaleTask:
            return UpscaleTask(
                source=folder / "in.mp4",
                target=folder / f"{number}.mp4",
                model=UpscalerSpec(args.model),
                video=VideoOptions(segment=args.segment, codec_options={"preset": "ultrafast"}),
                session=SessionOptions(budget=args.budget, **backend),
            )

        ways: dict[str, Callable[..., Any]] = {
            "local": run_here,
            "one actor": lambda task, **more: cluster.run(task, RayOptions(gpus=1.0), **more),
            "two actors": lambda task, **more: cluster.run(task, RayOptions(gpus=0.5), **more),
        }
        rates: dict[str, list[float]] = {who: [] for who in ways}
        peaks = dict.fromkeys(ways, 0)
        made: dict[str, set[str]] = {who: set() for who in ways}
        for number, who in enumerate([*ways] * args.rounds):
            told: list[tuple[float, int]] = []

            def note(progress: Progress, told: list[tuple[float, int]] = told) -> None:
                if progress.done >= args.segment:
                    told.append((time.perf_counter(), progress.done))

            done = ways[who](task(number), on_progress=note)
            (begun, first), (ended, last) = told[0], told[-1]
            rates[who].append((last - first) / (ended - begun))
            peak = done.stats.peak_resident if who == "local" else max(a.peak for a in done.actors)
            peaks[who] = max(peaks[who], peak)
            made[who].add(hashlib.sha256((folder / f"{number}.mp4").read_bytes()).hexdigest())
    for who, each in rates.items():
        rate = statistics.median(each)
        over = statistics.median(rates["local"]) / rate
        report.add(
            {
                "who": who,
                "frames_per_second": rate,
                "segment_s": args.segment / rate,
                "over_local": over,
                "budget": args.budget,
                "peak": peaks[who],
                "same_bits": made[who] == made["local"] and len(made[who]) == 1,
                "missed": [f"> {MOST:.0%} a segment"]
                * (args.card and who == "one actor" and over > 1 + MOST),
            }
        )
