"""Swappers of faces in ONNX files: another face, by its embedding."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from vramx.errors import ConfigError
from vramx.pipelines.onnx.faces import FaceFile, picture_of
from vramx.pipelines.onnx.files import OnnxFile, Value


class SwapperFile(FaceFile):
    """Gives crops another face, like inswapper.

    inswapper brings a matrix, its last initializer, that no node of the graph takes: embeddings are
    multiplied by it and normalised before they are given. Where there is none they are given as
    they are.
    """

    KNOWN = (
        "those like inswapper: a picture (n, 3, side, side) and an embedding (n, d) in, a picture "
        "out, or that and a mask (n, 1, side, side)"
    )
    _usual_size = 128

    def __init__(self, file: OnnxFile) -> None:
        super().__init__(file)
        self._source = _source_of(file)
        length, spare = self._source.sides[1], file.spare
        self._map: torch.Tensor | None = None
        if spare is not None and spare.ndim == 2 and spare.shape[1] == (length or spare.shape[0]):
            self._map = torch.from_numpy(spare.astype(np.float32))

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        return (
            [each.is_picture for each in file.inputs].count(True) == 1
            and sorted(len(each.sides) for each in file.inputs) == [2, 4]
            and len(file.outputs) in (1, 2)
            and file.outputs[0].may_have(3)
            and all(each.may_have(1) for each in file.outputs[1:])
        )

    def __call__(
        self, pictures: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Give crops the faces of embeddings."""
        (embeddings,) = more
        latent = self._mapped(embeddings.float().cpu())
        both = pictures, latent
        if self.file.inputs[0] is self._source:
            both = latent, pictures
        made = [torch.cat(each) for each in zip(*self._model.run(self.file.outputs, *both))]
        return made[0] if len(made) == 1 else (made[0], made[1])

    def _mapped(self, embeddings: torch.Tensor) -> torch.Tensor:
        wanted = self._source.sides[1] if self._map is None else len(self._map)
        if wanted not in (None, embeddings.shape[1]):
            raise ConfigError(
                f"{self.file.path} takes embeddings of {wanted} numbers, but the recognizer's or "
                f"the source's have {embeddings.shape[1]}"
            )
        if self._map is None:
            return embeddings
        return functional.normalize(embeddings @ self._map)


def _source_of(file: OnnxFile) -> Value:
    picture = picture_of(file)
    return next(each for each in file.inputs if each is not picture)
