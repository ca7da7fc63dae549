"""Faces that are patches of one colour, and small models that find, tell apart and change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

#: Where the landmarks of a patch lie, as parts of its sides: nearly as in the templates.
PLACES = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]])
PERSONS = ("red", "green", "blue")


def background(height: int = 96, width: int = 128, shift: int = 0) -> np.ndarray[Any, Any]:
    """Part of a photograph, greyed so that nothing in it is a face."""
    from skimage import data

    part = data.astronaut()[shift : shift + height, 40 : 40 + width].mean(-1, keepdims=True)
    return np.ascontiguousarray(part.repeat(3, -1).round().astype(np.uint8))


def draw_face(
    picture: np.ndarray[Any, Any], person: str, top: int, left: int, side: int = 40
) -> np.ndarray[Any, Any]:
    """Draw a face into a picture of bytes."""
    ramp = np.linspace(0, 40, side).round().astype(np.uint8)
    patch = np.full((side, side, 3), 20, np.uint8) + ramp[:, None, None]
    patch[..., PERSONS.index(person)] = 210 + ramp[None, :]
    picture[top : top + side, left : left + side] = patch
    return picture


def portrait(person: str) -> np.ndarray[Any, Any]:
    """A picture of one person."""
    return draw_face(background(), person, 20, 50)


class PatchDetector(nn.Module):
    """Finds at most one face of each colour. Its weights say which colours."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Parameter(1.5 * torch.eye(3) - 0.5)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        self.calls.append(tuple(pictures.shape))
        strength = torch.einsum("pc,nchw->nphw", self.colours.float(), pictures.float())
        return [self._rows(each) for each in strength]

    def _rows(self, strength: torch.Tensor) -> torch.Tensor:
        found = [self._row(*(plane > 0.4).nonzero(as_tuple=True)) for plane in strength]
        return torch.stack([row for row in found if row is not None] or [torch.zeros(15)])

    def _row(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor | None:
        if len(rows) == 0:
            return None
        corner = torch.stack([columns.min(), rows.min()]).float()
        sides = torch.stack([columns.max(), rows.max()]) + 1.0 - corner
        landmarks = corner + torch.from_numpy(PLACES).float() * sides
        return torch.cat([corner, corner + sides, torch.tensor([0.9]), landmarks.flatten()])


class MeanColour(nn.Module):
    """An embedding of three numbers: the middle's colour, through weights that keep it."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.layers = keeping(layers)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        middle = crops[..., 50:80, 40:70].contiguous()
        return self.layers(middle).mean((-2, -1)) ** 2  # squares set persons apart


class Painter(nn.Module):
    """Gives crops the colour of the embedding, by a part."""

    def __init__(self, part: float = 0.5, layers: int = 1) -> None:
        super().__init__()
        self.part = part
        self.layers = keeping(layers)
        self.calls: list[int] = []

    def forward(self, crops: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(crops))
        return self.layers(crops) * (1 - self.part) + embeddings[..., None, None] * self.part


class Brightener(nn.Module):
    """Makes crops a little brighter."""

    def __init__(self, gain: float = 1.25, layers: int = 1) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.layers = keeping(layers)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self.layers(crops) * self.gain


class Keep(nn.Module):
    """Multiplies by a diagonal that is one, of weights that take a block of 64 KiB."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight.diagonal().mean()


def keeping(layers: int) -> nn.Sequential:
    """Make modules of a block each that change nothing, if their weights are there."""
    return nn.Sequential(*(Keep() for _ in range(layers)))
