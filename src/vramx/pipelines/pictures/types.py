"""A picture of a file: its pixels, and what is kept beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Beside:
    """What belongs to a picture beside its pixels, as far as the file has it.

    Attributes
    ----------
    icc_profile, exif, xmp : bytes, optional
        As they are in files. EXIF and XMP data do not tell of a turn, which is in the pixels.
    dpi : (float, float), optional
        The resolution.
    jpeg_tables : mapping of int to sequence of int, optional
        The quantisation tables of a JPEG file.
    lossless : bool
        Whether it comes from a WebP file that lost nothing.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    jpeg_tables: Mapping[int, Sequence[int]] | None = None
    lossless: bool = False


@dataclass(frozen=True)
class FilePicture:
    """A picture as it is shown.

    Attributes
    ----------
    pixels : numpy.ndarray
        Of shape ``(height, width)`` or ``(height, width, channels)``: uint8, uint16, or float32
        from 0 to 1. Upright; grey, grey and alpha, RGB, or RGB and alpha.
    beside : Beside
        What belongs to it.
    """

    pixels: Pixels
    beside: Beside

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        height, width = self.pixels.shape[:2]
        return width, height
