"""Five networks as a face swap has them, with seeded weights, and what is done between them.

They are not trained, so what they make means nothing; but every weight counts for every frame that
comes out, and what they compute, read and hand on is as large as in the real thing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.workloads import DTYPE, DecoderBlock, Stack, materialise

HEAD = 64
#: How much of what a network makes is added to its input.
GAIN = 0.1
#: Takes frames, or what has become of them, and gives as many.
Step = Callable[[list[Any]], list[Any]]
#: Their shares of all weights, and the sides in pixels of their pictures and patches. With 4 GiB in
#: all the enhancer has 2 GiB and the swapper 1.
KINDS = {
    "detect": (0.05, 640, 16),
    "recognize": (0.08, 112, 8),
    "swap": (0.25, 256, 16),
    "enhance": (0.50, 512, 16),
    "parse": (0.12, 512, 16),
}


class Patches(nn.Module):
    """A vision transformer that gives a picture of its input's size."""

    def __init__(self, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patch = patch
        self.inward = nn.Conv2d(3, width, patch, stride=patch)
        blocks = (DecoderBlock(width, width // HEAD) for _ in range(depth))
        self.stack = Stack(blocks, nn.LayerNorm(width))
        self.outward = nn.Linear(width, 3 * patch**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Make pictures (n, 3, h, w) of pictures."""
        h = self.inward(x)
        rows = h.shape[-2]
        h = (
            self.outward(self.stack(h.flatten(2).transpose(1, 2)))
            .transpose(1, 2)
            .unflatten(2, (rows, -1))
        )
        return functional.pixel_shuffle(h, self.patch)


def build_networks(weights: int, depth: int) -> dict[str, nn.Module]:
    """Build the five networks on the CPU, of about `weights` bytes in all."""
    networks = {}
    for name, (share, _, patch) in KINDS.items():
        of_block = 12 * DTYPE.itemsize * depth
        width = max(HEAD, round(math.sqrt(share * weights / of_block) / HEAD) * HEAD)
        networks[name] = materialise(functools.partial(Patches, patch, width, depth))
    return networks


def build_steps(networks: dict[str, nn.Module], device: str, smaller: int) -> dict[str, Step]:
    """Make what is done with each network, by its name and in order.

    The first takes frames in host memory and the last gives such. Each brings the middle of the
    pictures to its network's size, divided by `smaller`, and what that makes back; the first has
    the host wait for what it found, as who looks for faces has to.
    """

    def step(name: str, values: list[Any]) -> list[Any]:
        _, seen, patch = KINDS[name]
        if name == "detect":
            values = [torch.from_numpy(frame).to(device, copy=True) for frame in values]
        height, width = values[0].shape[:2]
        side = min(height, width) // 3
        where = slice(side, 2 * side), slice(side, 2 * side)
        faces = [each[where].permute(2, 0, 1)[None].to(DTYPE) / 255 for each in values]
        size = -(-seen // (smaller * patch)) * patch
        # One by one: whole frames side by side would take much of a small budget.
        small = [functional.interpolate(face, size=(size, size), mode="bilinear") for face in faces]
        made = torch.tanh(networks[name](torch.cat(small)))
        if name == "detect":
            made.flatten(1).argmax(1).tolist()
        made = functional.interpolate(made, size=(side, side), mode="bilinear")
        for each, face, change in zip(values, faces, made):
            changed = (face[0] + GAIN * change).clamp(0, 1) * 255
            each[where] = changed.permute(1, 2, 0).round().to(torch.uint8)
        return [np.asarray(each.cpu()) for each in values] if name == "parse" else values

    return {name: functools.partial(step, name) for name in KINDS}
