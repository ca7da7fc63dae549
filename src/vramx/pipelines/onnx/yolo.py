"""YOLO-face: one output of candidates in columns."""

from __future__ import annotations

import numpy as np

from vramx.pipelines.onnx.boxes import Floats
from vramx.pipelines.onnx.detector import Candidates, DetectorFile, takes_a_picture
from vramx.pipelines.onnx.files import OnnxFile

#: Of a candidate: middle and sides of its box, a score, and x, y and visibility of five landmarks.
_ROWS = 4 + 1 + 5 * 3


class YoloFace(DetectorFile):
    """Boxes, scores and landmarks in pixels of the picture."""

    KNOWN = f"YOLO-face with one output (n, {_ROWS}, candidates): boxes, scores, landmarks"
    _multiple = 32

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        sides = [each.sides for each in file.outputs]
        return (
            takes_a_picture(file)
            and [each[1:2] for each in sides] == [(_ROWS,)]
            and len(sides[0]) == 3
        )

    def _candidates(self, made: list[Floats], side: int) -> Candidates:
        (rows,) = made
        if len(rows) != _ROWS:
            raise self._misfit(made, side)
        middles, sides, scores = rows[:2].T, rows[2:4].T, rows[4]
        boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
        return Candidates(boxes, scores, rows[5:].T.reshape(-1, 5, 3)[..., :2])
