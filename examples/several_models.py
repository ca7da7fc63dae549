"""Run several models on one card whose memory they have to share.

Three jobs, each with a model of its own, wait for room in one budget. Start this twice at once and
both processes share it. `vramx monitor` shows them while they run.
"""

from __future__ import annotations

import argparse
import sys

import torch
from skimage import data
from torch import Tensor, nn

import vramx
from restorer import seeded_restorer
from vramx.pipelines.pretrained.rrdbnet import RRDBNet
from vramx.units import format_size

has_gpu = torch.cuda.is_available()
device = "cuda" if has_gpu else "cpu"


class Describer(nn.Module):
    """Looks at the patches of pictures; one vector for each picture comes out."""

    def __init__(self, width: int = 384, depth: int = 8, patch: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.LayerNorm(width),
                    nn.Linear(width, 4 * width),
                    nn.GELU(),
                    nn.Linear(4 * width, width),
                )
                for _ in range(depth)
            )
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Describe pictures of shape ``(n, 3, height, width)``."""
        seen = self.patches(pictures).flatten(2).mT
        for layer in self.layers:
            seen = seen + layer(seen)
        return seen.mean(1)


def seeded_upscaler() -> nn.Module:
    """Return RRDBNet with random weights, the same every time."""
    torch.manual_seed(0)
    return RRDBNet()


def seeded_describer() -> nn.Module:
    """Return a describer with random weights, the same every time."""
    torch.manual_seed(2)
    return Describer()


def apply(model: nn.Module, pictures: Tensor, batch: int) -> Tensor:
    """Run pictures through a model, some at a time, with the results in host memory."""
    with torch.inference_mode():
        return torch.cat([model(part.to(device)).cpu() for part in pictures.split(batch)])


def work(model: nn.Module, pictures: Tensor, *, batch: int) -> tuple[Tensor, int]:
    """Do a job's work within its share; the queue halves the batch if memory runs out."""
    job = vramx.current_job()
    with job.oversubscribe(block="2MiB") as session:
        session.manage(model)
        results = apply(model, pictures, batch)
        return results, session.stats().peak_resident


def main() -> int:
    """Run all jobs, and compare with runs without a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="256MiB" if has_gpu else "64MiB")
    parser.add_argument("--tile", type=int, default=16, help="side of the pictures, in pixels")
    parser.add_argument("--count", type=int, default=4, help="how many pictures")
    arguments = parser.parse_args()
    side = arguments.tile
    photograph = torch.from_numpy(data.astronaut()).float() / 255
    tiles = photograph.unfold(0, side, side).unfold(1, side, side)  # rows, columns, 3, side, side
    pictures = tiles.flatten(0, 1)[: arguments.count].contiguous()

    models = {
        "enlarge": (seeded_upscaler().eval(), "40MiB"),  # its weights alone are 64 MiB
        "restore": (seeded_restorer().eval(), None),  # measured, and alone on the card meanwhile
        "describe": (seeded_describer().eval(), "24MiB"),
    }
    with vramx.Queue(
        arguments.budget,
        backend="auto" if has_gpu else "simulated",
        card=None if has_gpu else "several models",
    ) as queue:
        jobs = {
            name: queue.submit(work, model, pictures, footprint=size, kind=name, batch=2, name=name)
            for name, (model, size) in models.items()
        }
        done = {name: job.result() for name, job in jobs.items()}

    print(f"{'job':<10}{'its share':<12}{'most on card':<14}{'batch':<7}same bits")
    right = True
    for name, (results, peak) in done.items():
        job = jobs[name]
        expected = apply(models[name][0].to(device), pictures, job.batch or 1)
        same = torch.equal(results, expected)
        right = right and same and peak <= job.budget
        shares = f"{format_size(job.budget):<12}{format_size(peak):<14}"
        print(f"{name:<10}{shares}{job.batch!s:<7}{'yes' if same else 'NO'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
