"""Pictures as tensors: reading, cropping and writing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

ASTRONAUT_FACE = (115, 222)  # row and column of the face's middle


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels.

    Parameters
    ----------
    top, left : int
        Its first row and column.
    height, width : int
        Its size.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The row after its last."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The column after its last."""
        return self.left + self.width

    def cut(self, picture: Tensor) -> Tensor:
        """Return the view of a picture that lies inside this box."""
        return picture[..., self.top : self.bottom, self.left : self.right]


def load_picture(path: Path | None) -> tuple[Tensor, tuple[int, int]]:
    """Read a picture, or take scikit-image's photograph of an astronaut.

    Parameters
    ----------
    path : Path or None
        The file to read; None takes the photograph.

    Returns
    -------
    picture : Tensor
        Shape (1, 3, height, width), from 0 to 1.
    focus : tuple of int
        Row and column of what matters in it: the face, or the middle.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not a picture.
    """
    if path is None:
        from skimage import data

        return _to_tensor(data.astronaut()), ASTRONAUT_FACE  # type: ignore[no-untyped-call]
    if not path.is_file():
        raise FileNotFoundError(f"no such picture: {path}")
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return _to_tensor(pixels), (pixels.shape[0] // 2, pixels.shape[1] // 2)


def require_picture_name(path: Path) -> None:
    """Refuse a file name whose suffix names no format that can be written.

    Parameters
    ----------
    path : Path
        The file to be written.

    Raises
    ------
    ValueError
        No known format has that suffix.
    """
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"cannot write {path}: {path.suffix!r} is no picture format; try .png")


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture, creating the folders on the way.

    Parameters
    ----------
    picture : Tensor
        Shape (1, 3, height, width); what lies outside 0 to 1 is clipped.
    path : Path
        The file; its suffix chooses the format.
    """
    pixels = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)


def choose_crop(text: str, height: int, width: int, focus: tuple[int, int]) -> Box:
    """Turn a crop given as text into a box.

    Parameters
    ----------
    text : str
        ``whole``; ``WIDTHxHEIGHT`` around the focus, shrunk to the picture where that is smaller;
        or ``WIDTHxHEIGHT+LEFT+TOP``, which must lie inside the picture.
    height, width : int
        The picture's size.
    focus : tuple of int
        Row and column around which a crop without a place lies.

    Returns
    -------
    Box
        Inside the picture.

    Raises
    ------
    ValueError
        The text says none of these, or the crop is empty or reaches outside the picture.
    """
    if text == "whole":
        return Box(0, 0, height, width)
    match = re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+)\+(\d+))?", text)
    if match is None:
        raise ValueError(f"crop {text!r} is not 'whole', WIDTHxHEIGHT or WIDTHxHEIGHT+LEFT+TOP")
    crop_width, crop_height = int(match[1]), int(match[2])
    if min(crop_width, crop_height) == 0:
        raise ValueError(f"crop {text!r} is empty")
    if match[3] is None:
        crop_height, crop_width = min(crop_height, height), min(crop_width, width)
        top = min(max(focus[0] - crop_height // 2, 0), height - crop_height)
        left = min(max(focus[1] - crop_width // 2, 0), width - crop_width)
        return Box(top, left, crop_height, crop_width)
    box = Box(int(match[4]), int(match[3]), crop_height, crop_width)
    if box.bottom > height or box.right > width:
        raise ValueError(f"crop {text!r} reaches outside the picture of {width}x{height}")
    return box


def _to_tensor(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
