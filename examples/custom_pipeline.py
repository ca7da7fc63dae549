"""A pipeline of one's own: a detector, a restorer that few frames need, and an enlarger.

The three share a budget of half their weights. Dark frames, in which the detector finds nothing,
skip the restorer, whose weights then need not come.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import vramx


@dataclass
class Frame:
    """What goes from stage to stage.

    Parameters
    ----------
    picture : Tensor
        Shape (3, height, width), from 0 to 1.
    score : float
        What the detector said of it.
    """

    picture: Tensor
    score: float = 0.0


def convolutions(features: int, depth: int, outputs: int) -> nn.Sequential:
    """Make a stack of convolutions with seeded weights: a stand-in for a trained network."""
    layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1, bias=False)]
    for _ in range(depth):
        layers += [nn.ReLU(), nn.Conv2d(features, features, 3, padding=1, bias=False)]
    return nn.Sequential(
        *layers, nn.ReLU(), nn.Conv2d(features, outputs, 3, padding=1, bias=False)
    ).eval()


def build_networks(features: int) -> dict[str, nn.Module]:
    """Make the networks of the three stages.

    Parameters
    ----------
    features : int
        Their width: weights grow with its square.

    Returns
    -------
    dict of str to Module
        By stage, on the CPU.
    """
    torch.manual_seed(0)
    return {
        "detect": convolutions(features, 2, 1),
        "restore": convolutions(features, 6, 3),
        "enlarge": nn.Sequential(convolutions(features, 4, 12), nn.PixelShuffle(2)),
    }


def detect(network: nn.Module, device: str, frame: Frame) -> Frame:
    """Score a frame."""
    picture = frame.picture.to(device)
    return Frame(picture, network(picture[None]).mean().item())


def restore(network: nn.Module, frame: Frame) -> Frame:
    """Add a correction to a frame."""
    return Frame(frame.picture + 0.1 * network(frame.picture[None])[0], frame.score)


def enlarge(network: nn.Module, frames: list[Frame]) -> list[Tensor]:
    """Enlarge frames of one size together, so that the weights come once for all of them."""
    return [*network(torch.stack([frame.picture for frame in frames])).cpu()]


def main() -> None:
    """Run the pipeline, and say what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=128, help="width of the networks")
    parser.add_argument("--frames", type=int, default=8, help="how many frames to run")
    parser.add_argument("--size", type=int, default=64, help="their side in pixels")
    arguments = parser.parse_args()

    has_gpu = torch.cuda.is_available()
    device = "cuda" if has_gpu else "cpu"
    print("device:", torch.cuda.get_device_name() if has_gpu else "simulated card (no GPU found)")
    networks = build_networks(arguments.features)
    weights = sum(p.nbytes for network in networks.values() for p in network.parameters())
    dark = torch.zeros(3, arguments.size, arguments.size)
    frames = [
        Frame(dark if number % 2 else torch.rand_like(dark)) for number in range(arguments.frames)
    ]

    stages = {
        "detect": vramx.Stage(partial(detect, networks["detect"], device), [networks["detect"]]),
        "restore": vramx.Stage(
            partial(restore, networks["restore"]),
            [networks["restore"]],
            when=lambda frame: frame.score != 0,
        ),
        "enlarge": vramx.Stage(
            partial(enlarge, networks["enlarge"]), [networks["enlarge"]], batched=True
        ),
    }
    with vramx.pipeline(
        stages,
        batch=4,
        budget=max(weights // 2, 2**20),
        block="256KiB",
        backend="auto" if has_gpu else "simulated",
    ) as chain:
        results = [*chain.run(frames)]
        stats = chain.session.stats()
        print(f"{len(results)} pictures of {tuple(results[0].shape)}")
        for name, count in chain.counts.items():
            print(f"  {name}: ran {count.ran}, skipped {count.skipped}")
        print(
            f"weights {weights} B, at most {stats.peak_resident} B of {stats.budget} B on the card"
        )


if __name__ == "__main__":
    main()
