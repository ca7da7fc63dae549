"""Enhancers of faces in ONNX files, like GFPGAN and CodeFormer."""

from __future__ import annotations

import numpy as np
import torch

from vramx.pipelines.onnx.faces import FaceFile
from vramx.pipelines.onnx.files import OnnxFile

#: What CodeFormer is told of how much to keep: 0 makes the best face, 1 the most like the given.
_FIDELITY = 0.5


class EnhancerFile(FaceFile):
    """Makes crops look better."""

    KNOWN = (
        "those like GFPGAN, a picture (n, 3, side, side) in and out, and like CodeFormer, with a "
        "number beside the picture"
    )
    _usual_size = 512
    value_range = (-1.0, 1.0)

    def __init__(self, file: OnnxFile) -> None:
        numbers = [each for each in file.inputs if not each.is_picture]
        super().__init__(
            file,
            beside={
                each.name: np.full((1,) * len(each.sides), _FIDELITY, each.dtype)
                for each in numbers
            },
        )

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        numbers = [each for each in file.inputs if not each.is_picture]
        return (
            len(file.inputs) == len(numbers) + 1
            and len(numbers) <= 1
            and all(each.sides in ((), (1,), (None,)) for each in numbers)
            and all(each.dtype.startswith("float") for each in numbers)
            and bool(file.outputs)
            and file.outputs[0].may_have(3)
        )

    def __call__(self, pictures: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        """Make crops look better."""
        return self._model.run_joined(self.file.outputs[0], pictures)
