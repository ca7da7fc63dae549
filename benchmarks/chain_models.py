"""Five networks as a face swap has them, with seeded weights, and what is done between them.

They are not trained, so what they find and make means nothing; but every weight counts for every
frame that comes out, and what they compute, read and hand on is as large as in the real thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from frames import Frame
from models import DTYPE, DecoderBlock, materialise

HEAD = 64
EMBEDDING = 512
#: How much of what a network makes is added to its input.
GAIN = 0.1


@dataclass(frozen=True)
class Kind:
    """One of the networks.

    Attributes
    ----------
    share : float
        Of all weights.
    side, patch : int
        Of the pictures that it takes, in pixels, and of its patches.
    outputs : int
        Channels of what it gives.
    told : int
        Numbers that it is told besides.
    """

    share: float
    side: int
    patch: int
    outputs: int = 3
    told: int = 0


#: With 4 GiB in all the enhancer has 2 GiB and the swapper 1.
KINDS = {
    "detect": Kind(0.05, side=640, patch=16, outputs=1),
    "recognize": Kind(0.08, side=112, patch=8, outputs=2),
    "swap": Kind(0.25, side=256, patch=16, told=EMBEDDING),
    "enhance": Kind(0.50, side=512, patch=16),
    "parse": Kind(0.12, side=512, patch=16, outputs=1),
}


class Patches(nn.Module):
    """A vision transformer that gives a picture of its input's size.

    Parameters
    ----------
    kind : Kind
        What it takes and gives.
    width, depth : int
        Of its blocks.
    """

    def __init__(self, kind: Kind, width: int, depth: int) -> None:
        super().__init__()
        self.patch = kind.patch
        self.inward = nn.Conv2d(3, width, kind.patch, stride=kind.patch)
        self.told = nn.Linear(kind.told, width) if kind.told else None
        self.blocks = nn.ModuleList(DecoderBlock(width, width // HEAD) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outward = nn.Linear(width, kind.outputs * kind.patch**2)

    def forward(self, x: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """Make pictures (n, outputs, h, w) of pictures (n, 3, h, w)."""
        h = self.inward(x)
        rows = h.shape[-2]
        h = h.flatten(2).transpose(1, 2)
        if self.told is not None and told is not None:
            h = h + self.told(told)[:, None]
        for block in self.blocks:
            h = block(h)
        h = self.outward(self.norm(h)).transpose(1, 2).unflatten(2, (rows, -1))
        return functional.pixel_shuffle(h, self.patch)


def build_models(weights: int, depth: int) -> dict[str, nn.Module]:
    """Build the five networks on the CPU, of about `weights` bytes in all."""
    models = {}
    for name, kind in KINDS.items():
        of_block = 12 * DTYPE.itemsize * depth
        width = max(HEAD, round(math.sqrt(kind.share * weights / of_block) / HEAD) * HEAD)
        with torch.device("meta"):
            model = Patches(kind, width, depth)
        models[name] = materialise(model)
    return models


@dataclass(frozen=True)
class Shot:
    """A frame on its way.

    Attributes
    ----------
    picture : torch.Tensor
        Where models compute, (height, width, 3), bytes.
    top, left, side : int
        Where the face is.
    face : torch.Tensor
        What has become of it, (3, side, side), from 0 to 1.
    embedding : torch.Tensor or None
        Whose it is.
    """

    picture: torch.Tensor
    top: int
    left: int
    side: int
    face: torch.Tensor
    embedding: torch.Tensor | None = None


def _planes(picture: torch.Tensor) -> torch.Tensor:
    """Return values from 0 to 1, (3, h, w), of those or of bytes, (h, w, 3)."""
    return picture if picture.is_floating_point() else picture.permute(2, 0, 1).to(DTYPE) / 255


#: A step of the chain: takes a list and gives one of as many.
Step = Callable[[list[Any]], list[Any]]


def build_steps(models: dict[str, nn.Module], device: str, smaller: int = 1) -> dict[str, Step]:
    """Make what is done with each network, by its name and in order.

    Parameters
    ----------
    models : dict of str to torch.nn.Module
        What `build_models` built; called, but never moved.
    device : str
        Where they compute.
    smaller : int
        What the sides of the networks' pictures are divided by.

    Returns
    -------
    dict of str to callable
        The first takes frames, the last gives frames, both in host memory.
    """

    def resized(name: str, pictures: list[torch.Tensor]) -> torch.Tensor:
        kind = KINDS[name]
        side = -(-kind.side // (smaller * kind.patch)) * kind.patch
        # One by one: whole frames side by side would take much of a small budget.
        small = [
            functional.interpolate(_planes(each)[None], size=(side, side), mode="bilinear")
            for each in pictures
        ]
        return torch.cat(small)

    def detect(frames: list[Frame]) -> list[Shot]:
        pictures = [torch.from_numpy(frame).to(device, copy=True) for frame in frames]
        height, width = frames[0].shape[:2]
        seen = models["detect"](resized("detect", pictures))
        score = functional.avg_pool2d(seen, KINDS["detect"].patch)
        columns = score.shape[-1]
        side = min(height, width) // 3
        shots = []
        # As in a real one, the host has to know where faces are.
        for picture, place in zip(pictures, score.flatten(1).argmax(1).tolist()):
            top = place // columns * height // columns
            left = place % columns * width // columns
            top, left = min(top, height - side), min(left, width - side)
            face = picture[top : top + side, left : left + side]
            shots.append(Shot(picture, top, left, side, _planes(face)))
        return shots

    def recognize(shots: list[Shot]) -> list[Shot]:
        crops = resized("recognize", [shot.face for shot in shots])
        told = functional.adaptive_avg_pool2d(models["recognize"](crops), 16).flatten(1)
        told = functional.normalize(told, dim=1)
        return [replace(shot, embedding=each) for shot, each in zip(shots, told)]

    def touch(name: str, shots: list[Shot], *more: torch.Tensor) -> list[Shot]:
        crops = resized(name, [shot.face for shot in shots])
        made = (crops + GAIN * torch.tanh(models[name](crops, *more))).clamp(0, 1)
        return [replace(shot, face=each) for shot, each in zip(shots, made)]

    def swap(shots: list[Shot]) -> list[Shot]:
        return touch(
            "swap", shots, torch.stack([s.embedding for s in shots if s.embedding is not None])
        )

    def enhance(shots: list[Shot]) -> list[Shot]:
        return touch("enhance", shots)

    def parse(shots: list[Shot]) -> list[Frame]:
        faces = resized("parse", [shot.face for shot in shots])
        masks = torch.sigmoid(models["parse"](faces))
        side = shots[0].side
        both = functional.interpolate(
            torch.cat([faces, masks], 1), size=(side, side), mode="bilinear"
        )
        done = []
        for shot, each in zip(shots, both):
            rows, columns = slice(shot.top, shot.top + side), slice(shot.left, shot.left + side)
            face, mask = each[:3].permute(1, 2, 0) * 255, each[3:].permute(1, 2, 0)
            before = shot.picture[rows, columns]
            shot.picture[rows, columns] = (
                torch.lerp(before.to(DTYPE), face, mask).round().to(torch.uint8)
            )
            done.append(np.asarray(shot.picture.cpu()))
        return done

    return {
        "detect": detect,
        "recognize": recognize,
        "swap": swap,
        "enhance": enhance,
        "parse": parse,
    }
