"""ArcFace in ONNX files: an embedding of an aligned face."""

from __future__ import annotations

import torch

from vramx.pipelines.onnx.detector import takes_a_picture
from vramx.pipelines.onnx.faces import FaceFile
from vramx.pipelines.onnx.files import OnnxFile

#: How the nodes' names begin of models that normalise what they are given themselves, both.
_OWN = (("Sub", "_minus"), ("Mul", "_mul"))


class ArcFace(FaceFile):
    """Makes embeddings of crops."""

    KNOWN = "ArcFace with one output (n, d), of pictures (n, 3, 112, 112)"
    _usual_size = 112

    def __init__(self, file: OnnxFile) -> None:
        super().__init__(file)
        normalises = all(
            any(name.startswith(begins) for name in file.first_nodes) for begins in _OWN
        )
        self.value_range = (0.0, 255.0) if normalises else (-1.0, 1.0)

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        return takes_a_picture(file) and [len(each.sides) for each in file.outputs] == [2]

    def __call__(self, pictures: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        """Make embeddings of crops."""
        return self._model.run_joined(self.file.outputs[0], pictures)
