"""Boxes of faces: which of them mean the same face, and where landmarks lie in one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

#: The largest part that two faces' boxes share of what they cover, as insightface has it.
_OVERLAP = 0.4
#: Where landmarks lie in a box, as parts of its sides: the mean of seven faces in two photographs
#: in which MTCNN found them, made symmetric.
_PLACES = np.array(
    [(0.29, 0.41), (0.71, 0.41), (0.5, 0.63), (0.3, 0.755), (0.7, 0.755)], np.float32
)


def without_duplicates(boxes: Floats, scores: Floats) -> npt.NDArray[np.intp]:
    """Find the best box of each face.

    Pixels at both edges count as inside, as insightface counts.

    Parameters
    ----------
    boxes : numpy.ndarray
        Of shape ``(n, 4)``: left, top, right, bottom.
    scores : numpy.ndarray
        Of shape ``(n,)``.

    Returns
    -------
    numpy.ndarray
        The numbers of those that are kept, the best first.
    """
    left, top, right, bottom = boxes.T
    areas = (right - left + 1) * (bottom - top + 1)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        wide = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest]) + 1
        high = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest]) + 1
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        order = rest[shared / (areas[best] + areas[rest] - shared) <= _OVERLAP]
    return np.array(kept, np.intp)


def usual_landmarks(boxes: Floats) -> Floats:
    """Place landmarks in boxes as those of upright faces lie.

    Parameters
    ----------
    boxes : numpy.ndarray
        Of shape ``(n, 4)``.

    Returns
    -------
    numpy.ndarray
        Of shape ``(n, 5, 2)``.
    """
    corners = boxes[:, None, :2]
    return np.asarray(corners + _PLACES * (boxes[:, None, 2:] - corners), np.float32)
