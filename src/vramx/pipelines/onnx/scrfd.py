"""SCRFD, and RetinaFace as insightface has it: distances from the corners of cells."""

from __future__ import annotations

import warnings

import numpy as np

from vramx.pipelines.onnx.boxes import Floats, usual_landmarks
from vramx.pipelines.onnx.detector import Candidates, DetectorFile, takes_a_picture
from vramx.pipelines.onnx.files import OnnxFile

#: The strides of levels, by how many there are.
_STRIDES = {3: (8, 16, 32), 5: (8, 16, 32, 64, 128)}
#: The levels and kinds of outputs, by how many there are.
_COUNTS = {6: (3, 2), 9: (3, 3), 10: (5, 2), 15: (5, 3)}
#: How many numbers a score, a box and landmarks are.
_WIDTHS = (1, 4, 10)


class Scrfd(DetectorFile):
    """Scores, boxes, and landmarks unless it has none, of the anchors in cells of several levels.

    Warns
    -----
    RuntimeWarning
        If it has none.
    """

    KNOWN = (
        "SCRFD with 6 or 9 outputs (scores, boxes, landmarks of strides 8 to 32), or 10 or 15 "
        "(of strides 8 to 128)"
    )
    value_range = (-127.5 / 128, 127.5 / 128)

    def __init__(self, file: OnnxFile, least: float) -> None:
        super().__init__(file, least)
        levels, self._kinds = _COUNTS[len(file.outputs)]
        self._strides = _STRIDES[levels]
        self._multiple = self._strides[-1]
        if self._kinds == 2:
            warnings.warn(
                f"{file.path} finds boxes alone: landmarks are taken to lie in them as those of "
                "upright faces do that look ahead, so that others are swapped askew; a detector "
                "that gives landmarks too finds them where they are",
                RuntimeWarning,
                stacklevel=2,
            )

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        sides = [each.sides for each in file.outputs]
        return (
            takes_a_picture(file)
            and len(sides) in _COUNTS
            and all(
                not each or (len(each) in (2, 3) and each[-1] in (*_WIDTHS, None)) for each in sides
            )
        )

    def _candidates(self, made: list[Floats], side: int) -> Candidates:
        kinds = [  # from the finest level to the coarsest, in whatever order they come
            sorted((each for each in made if each.shape[-1] == width), key=len, reverse=True)
            for width in _WIDTHS[: self._kinds]
        ]
        found = []
        for level, stride in enumerate(self._strides):
            cells = (side // stride) ** 2
            parts = [kind[level] for kind in kinds if len(kind) == len(self._strides)]
            counts = {len(each) for each in parts}
            if len(parts) < self._kinds or len(counts) > 1 or (count := counts.pop()) % cells:
                raise self._misfit(made, side)
            found.append(_level(parts, stride, side // stride, count // cells))
        return Candidates(*(np.concatenate(each) for each in zip(*found)))


def _level(parts: list[Floats], stride: int, across: int, anchors: int) -> Candidates:
    rows, columns = np.mgrid[:across, :across].astype(np.float32) * stride
    corners = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2).repeat(anchors, 0)
    scores, distances, *offsets = (each.astype(np.float32) for each in parts)
    near, far = np.split(distances.reshape(-1, 2, 2) * stride, 2, axis=1)
    boxes = np.concatenate([corners - near, corners + far], axis=1).reshape(-1, 4)
    if offsets:
        landmarks = corners + offsets[0].reshape(-1, 5, 2) * stride
    else:
        landmarks = usual_landmarks(boxes)
    return Candidates(boxes, scores[:, 0], landmarks)
