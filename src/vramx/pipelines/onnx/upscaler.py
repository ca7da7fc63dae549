"""Networks in ONNX files that enlarge pictures, like Real-ESRGAN's."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import torch

from vramx.checkpoints.onnx import read_onnx
from vramx.errors import ConfigError
from vramx.pipelines.onnx.files import OnnxFile, kind_of, read_file
from vramx.pipelines.onnx.footprint import live_bytes
from vramx.pipelines.onnx.running import OnnxModel
from vramx.pipelines.upscaling.tiles import reflect
from vramx.session import Session

#: The side of the picture by which it is told what a pixel takes.
_SIDE = 128


class OnnxUpscaler:
    """Enlarges pictures; called as a torch network is.

    Parameters
    ----------
    path : Path
        An ONNX file.

    Attributes
    ----------
    file : OnnxFile
        What it says.
    tile : (int, int) or None
        Height and width of the only pictures that it takes; None if it takes any. Smaller pictures
        are extended to that by reflection, and what becomes of that is cut off.
    scale : int or None
        How much larger pictures become, where the file says it.
    batch : int or None
        How many pictures it takes at once; None for any number.

    Raises
    ------
    ConfigError
        If it is no such network, or as `read_file`.
    """

    KNOWN: ClassVar[str] = (
        "those like Real-ESRGAN: one picture (n, 3 or 1, height, width) in floating point in, and "
        "one out that is larger by a whole number"
    )

    def __init__(self, path: Path) -> None:
        file = read_file(path)
        kind_of(file, "network that enlarges pictures", (OnnxUpscaler,))
        self.file = file
        self._model = OnnxModel(file)
        self._taken = file.inputs[0].sides[2:]
        height, width = self._taken
        least = height or width
        self.tile = None if least is None else (height or least, width or least)
        self.scale = _scale(file)
        self.batch = file.inputs[0].sides[0]

    @staticmethod
    def fits(file: OnnxFile) -> bool:
        """Tell whether a file is of this kind, by names and shapes."""
        if (len(file.inputs), len(file.outputs)) != (1, 1):
            return False
        (given,), (made,) = file.inputs, file.outputs
        channels = given.sides[1:2]
        return channels in ((1,), (3,)) and all(each.may_have(*channels) for each in (given, made))

    def within(self, session: Session) -> AbstractContextManager[None]:
        """Have it in a session for a scope; see `OnnxModel.within`."""
        return self._model.within(session)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Enlarge pictures ``(n, channels, height, width)`` of values from 0 to 1."""
        given = pictures.shape[-2:]
        height, width = (side or length for side, length in zip(self._taken, given))
        if height < given[0] or width < given[1]:
            raise ConfigError(
                f"{self.file.path} takes pictures of {width}x{height}, not {given[1]}x{given[0]}"
            )
        made = self._model.run_joined(self.file.outputs[0], reflect(pictures, height, width))
        if (height, width) != tuple(given):
            scale = made.shape[-1] // width
            made = made[..., : given[0] * scale, : given[1] * scale]
        return made.to(pictures.device)

    @property
    def weight_bytes(self) -> int:
        """What its weights take."""
        return sum(each.nbytes for each in read_onnx(self.file.path))

    def pixel_bytes(self) -> float:
        """Tell what a pixel of a picture takes while it runs."""
        height, width = (side or _SIDE for side in self._taken)
        channels = self.file.inputs[0].sides[1] or 0
        return max(live_bytes(self.file.path, (1, channels, height, width)) / (height * width), 1.0)


def _scale(file: OnnxFile) -> int | None:
    """Read how much larger pictures become from shapes, where all four sides are fixed."""
    given, made = file.inputs[0].sides[2:], file.outputs[0].sides[2:]
    if None in given or None in made:
        return None
    scale = (made[0] or 0) // (given[0] or 1)
    if scale < 1 or made != tuple((side or 0) * scale for side in given):
        raise ConfigError(f"{file.path} {file}: that is not larger by a whole number")
    return scale
