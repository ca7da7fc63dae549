"""RetinaFace: offsets from boxes that lie in cells."""

from __future__ import annotations

import numpy as np
import torch

from vramx.pipelines.onnx.boxes import Floats
from vramx.pipelines.onnx.detector import Candidates, DetectorFile, takes_a_picture
from vramx.pipelines.onnx.files import OnnxFile

#: The sides of the boxes in each cell, by its stride.
_PRIORS = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
#: What offsets of middles and logarithms of sides are multiplied by.
_MIDDLE, _SIDE = 0.1, 0.2
#: Numbers of a box, of scores for none and a face, and of landmarks.
_WIDTHS = (4, 2, 10)
#: What is subtracted, of blue, green and red.
_MEANS = (104.0, 117.0, 123.0)


class RetinaFace(DetectorFile):
    """Offsets of boxes, scores and offsets of landmarks, of all levels one after another."""

    KNOWN = (
        "RetinaFace with three outputs (n, candidates, 4), (n, candidates, 2) and "
        "(n, candidates, 10): boxes, scores, landmarks"
    )
    value_range = (0.0, 255.0)
    order = "BGR"
    _multiple = 32

    def __init__(self, file: OnnxFile, least: float) -> None:
        super().__init__(file, least)
        self._are_parts = "Softmax" in file.operators

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        sides = [each.sides for each in file.outputs]
        return (
            takes_a_picture(file)
            and all(len(each) == 3 for each in sides)
            and sorted(each[-1] or 0 for each in sides) == sorted(_WIDTHS)
        )

    def __call__(self, pictures: torch.Tensor, *_: torch.Tensor) -> list[torch.Tensor]:
        """Find the faces in pictures: rows of 15 numbers of each, the best first."""
        means = torch.tensor(_MEANS, dtype=pictures.dtype, device=pictures.device)
        return super().__call__(pictures - means[:, None, None])

    def _candidates(self, made: list[Floats], side: int) -> Candidates:
        by_width = {each.shape[-1]: each for each in made}
        offsets, scores, landmarks = (by_width.get(width) for width in _WIDTHS)
        priors = _priors(side)
        if (
            offsets is None
            or scores is None
            or landmarks is None
            or len({len(priors), *map(len, made)}) > 1
        ):
            raise self._misfit(made, side)
        if not self._are_parts:
            scores = np.exp(scores - scores.max(1, keepdims=True))
            scores = scores / scores.sum(1, keepdims=True)
        middles, sides = priors[:, None, :2], priors[:, None, 2:]
        moved = middles + offsets[:, None, :2] * _MIDDLE * sides
        half = sides * np.exp(offsets[:, None, 2:] * _SIDE) / 2
        boxes = np.concatenate([moved - half, moved + half], axis=1).reshape(-1, 4)
        points = middles + landmarks.reshape(-1, 5, 2) * _MIDDLE * sides
        return Candidates(boxes, scores[:, 1], points)


def _priors(side: int) -> Floats:
    """Return the boxes in cells of a picture: middles and sides in pixels, ``(n, 4)``."""
    found = []
    for stride, sizes in _PRIORS.items():
        rows, columns = (np.mgrid[: side // stride, : side // stride] + 0.5) * stride
        middles = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2).repeat(len(sizes), 1)
        sides = np.broadcast_to(np.array(sizes)[None, :, None], middles.shape)
        found.append(np.concatenate([middles, sides], axis=-1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)
