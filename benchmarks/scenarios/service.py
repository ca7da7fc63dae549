"""Clips and pictures through `vramx serve`, beside the command and beside a larger budget.

A clip is enlarged by turns by the command and by a job of a server, each in a process of its own;
both tell how long it took, without their start. Then a server enlarges pictures with two models by
turns, once in a budget that holds both and once in half of their weights.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from PIL import Image
from torch import nn

from benchmarks import options as shared
from benchmarks.pictures import photograph
from benchmarks.report import Report
from benchmarks.scenarios.clips import pan, write

#: The most that the service may take more than the command, of a clip.
MOST = 0.03
#: Layers of the two models of weights, and how wide they are on a card and without one.
LAYERS, WIDE, NARROW = 8, 4096, 1024
NAMES = ("one", "other")

COLUMNS = """
who:who:text seconds:median:s frames_per_second:frames/s:s over:over:ratio budget:budget:size
missed:holds:holds
"""


def options(add: shared.Add, card: bool) -> None:
    add("--model", default="realesr-animevideov3-x2")
    add("--size", type=int, nargs=2, default=(1920, 1080) if card else (64, 48))
    add("--frames", type=int, default=300 if card else 12)
    add("--rounds", type=int, default=3 if card else 1)
    add("--budget", type=shared.size, default="6GiB" if card else "64MiB", help="of clips")


def weighty(width: int, seed: int) -> nn.Module:
    """Doubles pictures by layers of 1 x 1, nearly all of which is weights."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(width, width, 1) for _ in range(LAYERS)]
    return nn.Sequential(
        nn.Conv2d(3, width, 1), *layers, nn.Conv2d(width, 12, 1), nn.PixelShuffle(2)
    )


def one() -> nn.Module:
    return weighty(WIDE if torch.cuda.is_available() else NARROW, 0)


def other() -> nn.Module:
    return weighty(WIDE if torch.cuda.is_available() else NARROW, 1)


def run(args: argparse.Namespace, report: Report) -> None:
    """Make the clip by both ways, then the pictures in both budgets."""
    report.begin(budget=args.budget)
    backend = () if args.card else ("--backend", "simulated")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width, height = args.size
        frames = pan(photograph(width + 2 * args.frames, height + args.frames), args.frames)
        write(frames, folder / "in.mp4", {"preset": "veryfast", "crf": "18"})
        Image.fromarray(photograph(16, 16)).save(folder / "in.png")
        (folder / "models").mkdir()
        for each in NAMES:
            told = {"upscale": {"name": f"benchmarks.scenarios.service:{each}"}}
            (folder / "models" / f"{each}.json").write_text(json.dumps(told))
        clips(args, report, folder, backend)
        pictures(args, report, folder, backend)


def clips(args: argparse.Namespace, report: Report, folder: Path, backend: Sequence[str]) -> None:
    """Enlarge the clip by turns by the command and by a job."""
    seconds: dict[str, list[float]] = {"command": [], "service": []}
    command = [sys.executable, "-m", "vramx", "upscale", str(folder / "in.mp4"), "--json"]
    command += ["--model", args.model, "--budget", str(args.budget), *backend]
    command += ["--codec-option", "preset=ultrafast"]
    job = {"model": args.model, "video": {"codec_options": {"preset": "ultrafast"}}}
    with server(folder, args.budget, backend) as address:
        for number in range(args.rounds):
            target = str(folder / f"{number}.mp4")
            done = subprocess.run([*command, target], check=True, capture_output=True)
            seconds["command"].append(json.loads(done.stdout)["files"][0]["seconds"])
            report_of = made(address, "in.mp4", **job)["report"]
            seconds["service"].append(report_of["files"][0]["seconds"])
    fastest = statistics.median(seconds["command"])
    for who, each in seconds.items():
        over = statistics.median(each) / fastest
        report.add(
            {
                "who": who,
                "seconds": statistics.median(each),
                "frames_per_second": args.frames / statistics.median(each),
                "over": over,
                "budget": args.budget,
                "missed": [f"> {MOST:.0%} more"] * (args.card and over > 1 + MOST),
            }
        )


def pictures(
    args: argparse.Namespace, report: Report, folder: Path, backend: Sequence[str]
) -> None:
    """Enlarge pictures with both models by turns, in all and in half of their weights."""
    weights = sum(each.nbytes for each in one().parameters()) * len(NAMES)
    resident = None
    for who, budget in (("all of the weights", 2 * weights), ("half of them", weights // 2)):
        with server(folder, budget, backend) as address:
            jobs = [made(address, "in.png", model=NAMES[n % 2]) for n in range(2 * args.rounds + 2)]
        median = statistics.median(each["ended"] - each["begun"] for each in jobs[2:])
        resident = resident or median
        over = median / resident
        report.add({"who": who, "seconds": median, "over": over, "budget": budget, "missed": []})


@contextmanager
def server(folder: Path, budget: int, backend: Sequence[str]) -> Iterator[str]:
    """Run `vramx serve` for a scope; its address."""
    command = [sys.executable, "-m", "vramx", "serve", "--data", str(folder / f"data-{budget}")]
    command += ["--models", str(folder / "models"), "--folder", f"here={folder}", "--port", "0"]
    command += ["--workers", "1", "--budget", str(budget), *backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def made(address: str, name: str, **job: Any) -> dict[str, Any]:
    """Have a job done; what the server tells of it."""
    asked = {"kind": "upscale", "source": {"folder": "here", "path": name}, **job}
    request = Request(f"{address}/api/jobs", json.dumps(asked).encode())
    request.add_header("Content-Type", "application/json")
    with urlopen(request) as answer:
        id_ = json.load(answer)["id"]
    with urlopen(f"{address}/api/jobs/{id_}/events") as events:
        events.read()
    with urlopen(f"{address}/api/jobs/{id_}") as answer:
        done: dict[str, Any] = json.load(answer)
    if done["state"] != "done":
        raise RuntimeError(f"{name} was {done['state']}: {done['error']}")
    return done
