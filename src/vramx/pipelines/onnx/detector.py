"""Detectors of faces in ONNX files: from what one gives to faces, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from vramx.errors import ConfigError
from vramx.pipelines.onnx.boxes import Floats, without_duplicates
from vramx.pipelines.onnx.faces import FaceFile
from vramx.pipelines.onnx.files import OnnxFile


class Candidates(NamedTuple):
    """What may be faces.

    Attributes
    ----------
    boxes : numpy.ndarray
        Of shape ``(n, 4)``: left, top, right and bottom in pixels.
    scores : numpy.ndarray
        Of shape ``(n,)``.
    landmarks : numpy.ndarray
        Of shape ``(n, 5, 2)``.
    """

    boxes: Floats
    scores: Floats
    landmarks: Floats

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Candidates:
        """Return some of them."""
        return Candidates(*(each[chosen] for each in self))


class DetectorFile(FaceFile):
    """A detector, of one of the kinds.

    Parameters
    ----------
    file : OnnxFile
        The file.
    least : float
        The least score of a face.
    """

    _usual_size = 640

    def __init__(self, file: OnnxFile, least: float) -> None:
        super().__init__(file, together=all(len(each.sides) == 3 for each in file.outputs))
        self._least = np.float32(least)

    def __call__(self, pictures: torch.Tensor, *_: torch.Tensor) -> list[torch.Tensor]:
        """Find the faces in pictures: rows of 15 numbers of each, the best first."""
        side = pictures.shape[-1]
        return [self._rows(self._candidates(made, side)) for made in self._each(pictures)]

    def _each(self, pictures: torch.Tensor) -> Iterator[list[Floats]]:
        """Run it; of each picture give what each output says: ``(rows, numbers)``."""
        for made in self._model.run(self.file.outputs, pictures):
            arrays = [each.float().numpy() for each in made]
            if all(each.ndim == 3 for each in arrays):
                yield from map(list, zip(*arrays))
            else:  # of one picture, without an axis for it
                yield arrays

    def _candidates(self, made: list[Floats], side: int) -> Candidates:
        """Read what it gave for a picture of so many pixels a side."""
        raise NotImplementedError

    def _rows(self, found: Candidates) -> torch.Tensor:
        sure = found.where(found.scores >= self._least)
        best = sure.where(without_duplicates(sure.boxes, sure.scores))
        rows = np.c_[best.boxes, best.scores, best.landmarks.reshape(-1, 10)]
        return torch.from_numpy(rows.astype(np.float32))

    def _misfit(self, made: list[Floats], side: int) -> ConfigError:
        shapes = ", ".join(str(each.shape) for each in made)
        return ConfigError(
            f"{self.file.path} gave {shapes} for a picture of {side} pixels a side, which is not "
            f"what a detector of its kind gives; that is {self.KNOWN}"
        )


def takes_a_picture(file: OnnxFile) -> bool:
    """Tell whether a picture is all that a file takes."""
    return len(file.inputs) == 1 and file.inputs[0].is_picture
