"""MTCNN finds faces and five landmarks by a cascade of three small networks (Zhang et al., 2016).

Its trained weights are files of the package facenet-pytorch, which is not imported: it asks for an
old torch, so that it is installed by ``pip install --no-deps facenet-pytorch==2.6.0``.
"""

from __future__ import annotations

import hashlib
import io
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import vramx

PACKAGE, VERSION = "facenet-pytorch", "2.6.0"
DIGESTS = {
    "pnet": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}
#: The least face that P-Net sees, in pixels, and by what the pyramid shrinks from step to step.
CELL, STRIDE, FACTOR = 12, 2, 0.709
#: The least score that passes each network, and the most that boxes may overlap after it.
PASSES = (0.6, 0.7, 0.7)
WITHIN_SCALE, OVERLAP = 0.5, 0.7


class PNet(nn.Module):
    """Looks for faces everywhere in a picture, in cells of 12 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (n, rows, columns) and how boxes move (n, 4, rows, columns)."""
        x = functional.max_pool2d(self.prelu1(self.conv1(x)), 2, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_1(x).softmax(1)[:, 1], self.conv4_2(x)


class RNet(nn.Module):
    """Looks at crops of 24 pixels, and refines their boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (n,) and how boxes move (n, 4)."""
        x = functional.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = functional.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.dense4(_flattened(x)))
        return self.dense5_1(x).softmax(1)[:, 1], self.dense5_2(x)


class ONet(nn.Module):
    """Looks at crops of 48 pixels, refines their boxes and finds landmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2 = nn.Linear(256, 2), nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores (n,), how boxes move (n, 4), and landmarks (n, 10): all x, then all y."""
        x = functional.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = functional.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = functional.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.dense5(_flattened(x)))
        return self.dense6_1(x).softmax(1)[:, 1], self.dense6_2(x), self.dense6_3(x)


class MTCNN(nn.Module):
    """A detector for `vramx.face_swap`, with trained weights.

    Parameters
    ----------
    least : int
        The least face that is looked for, in pixels.
    """

    def __init__(self, least: int = 20) -> None:
        super().__init__()
        self.least = least
        self.pnet, self.rnet, self.onet = PNet(), RNet(), ONet()
        for name, network in self.named_children():
            network.load_state_dict(read_weights(name))
        self.eval()

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return the faces (m, 15) of each picture of (n, 3, height, width), RGB from 0 to 1."""
        return [self._faces(picture * 2 - 1) for picture in pictures]

    def _faces(self, picture: Tensor) -> Tensor:
        boxes = self._proposals(picture)
        if len(boxes):
            boxes = self._refined(picture, boxes)
        if not len(boxes):
            return picture.new_zeros(0, 15)
        scores, moves, landmarks = self.onet(crops(picture, boxes, 48))
        sides = (boxes[:, 2:] - boxes[:, :2])[:, :, None]
        # Landmarks are parts of the box from its edge, and a pixel's middle is a whole number.
        places = boxes[:, :2, None] + sides * landmarks.float().view(-1, 2, 5) - 0.5
        rows = torch.cat([moved(boxes, moves), scores[:, None], places.mT.flatten(1)], 1)
        rows = rows[scores > PASSES[2]]
        return rows[suppress(rows[:, :4], rows[:, 4], OVERLAP, of_smaller=True)].to(picture.dtype)

    def _proposals(self, picture: Tensor) -> Tensor:
        """Find square boxes (m, 4) that may hold a face, at all sizes."""
        height, width = picture.shape[-2:]
        found = []
        scale = CELL / self.least
        while min(height, width) * scale >= CELL:
            size = (int(height * scale + 1), int(width * scale + 1))
            scores, moves = self.pnet(functional.interpolate(picture[None], size, mode="area"))
            rows, columns = (scores[0] >= PASSES[0]).nonzero(as_tuple=True)
            corner = torch.stack([columns, rows], 1) * STRIDE
            boxes = torch.cat([corner, corner + CELL], 1) / scale
            boxes = torch.cat(
                [boxes, moves[0, :, rows, columns].mT, scores[0, rows, columns, None]], 1
            )
            found.append(boxes[suppress(boxes[:, :4], boxes[:, -1], WITHIN_SCALE)])
            scale *= FACTOR
        boxes = torch.cat(found) if found else picture.new_zeros(0, 9)
        boxes = boxes[suppress(boxes[:, :4], boxes[:, -1], OVERLAP)]
        return squared(moved(boxes[:, :4], boxes[:, 4:8]))

    def _refined(self, picture: Tensor, boxes: Tensor) -> Tensor:
        scores, moves = self.rnet(crops(picture, boxes, 24))
        passes = scores > PASSES[1]
        boxes, scores, moves = boxes[passes], scores[passes], moves[passes]
        kept = suppress(boxes, scores, OVERLAP)
        return squared(moved(boxes[kept], moves[kept]))


def read_weights(name: str) -> dict[str, Any]:
    """Read a network's weights from the files of the installed package.

    Parameters
    ----------
    name : str
        ``"pnet"``, ``"rnet"`` or ``"onet"``.

    Returns
    -------
    dict of str to torch.Tensor
        The state dict.

    Raises
    ------
    vramx.ConfigError
        If the package is not installed, or a file is not the one that is meant.
    """
    install = f"pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise vramx.ConfigError(f"MTCNN's weights come with {PACKAGE}: {install}") from error
    with open(str(package.locate_file(f"facenet_pytorch/data/{name}.pt")), "rb") as file:
        content = file.read()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGESTS[name]:
        raise vramx.ConfigError(
            f"{name}.pt of {PACKAGE} has the SHA-256 digest {found}, not {DIGESTS[name]}: {install}"
        )
    weights: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return weights


def crops(picture: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut boxes (m, 4) out of a picture (3, height, width) from -1 to 1; grey lies around it."""
    height, width = picture.shape[-2:]
    made = []
    first, last = boxes.round().int().split(2, 1)
    edges = torch.cat([first, torch.maximum(last, first + 1)], 1)
    for left, top, right, bottom in edges.tolist():
        columns = [min(max(edge, 0), width) for edge in (left, right)]
        rows = [min(max(edge, 0), height) for edge in (top, bottom)]
        cut = picture[None, :, slice(*rows), slice(*columns)]
        around = (columns[0] - left, right - columns[1], rows[0] - top, bottom - rows[1])
        made.append(functional.interpolate(functional.pad(cut, around), (side, side), mode="area"))
    return torch.cat(made)


def moved(boxes: Tensor, moves: Tensor) -> Tensor:
    """Move the edges of boxes (m, 4) by parts of their sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + moves.float() * torch.cat([sides, sides], 1)


def squared(boxes: Tensor) -> Tensor:
    """Make boxes (m, 4) squares with the same middles."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([middle - half, middle + half], 1)


def suppress(boxes: Tensor, scores: Tensor, most: float, *, of_smaller: bool = False) -> Tensor:
    """Choose boxes that do not overlap one with a better score.

    Parameters
    ----------
    boxes : Tensor
        Of shape (m, 4).
    scores : Tensor
        Of shape (m,).
    most : float
        The most that two boxes may overlap: their intersection over their union, or over the
        smaller of them.
    of_smaller : bool
        Which of the two.

    Returns
    -------
    Tensor
        Indices, the best first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = scores.argsort(descending=True)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        smaller = torch.minimum(areas[best], areas[rest])
        union = areas[best] + areas[rest] - shared
        order = rest[shared / (smaller if of_smaller else union) <= most]
    return torch.stack(kept) if kept else order


def _flattened(x: Tensor) -> Tensor:
    """Flatten (n, channels, height, width) in the order in which the weights were trained."""
    return x.permute(0, 3, 2, 1).flatten(1)
