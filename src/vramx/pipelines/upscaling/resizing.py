"""Results of another size than the network makes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from vramx.errors import ConfigError
from vramx.pipelines.chain import as_count


@dataclass(frozen=True)
class Wanted:
    """What size results have.

    Attributes
    ----------
    scale : float, optional
        How much larger than the pictures they are; as the network makes them unless given.
    height, width : int, optional
        Their sides in pixels; of one alone the other follows.
    """

    scale: float | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.scale is not None:
            known = isinstance(self.scale, (int, float)) and not isinstance(self.scale, bool)
            if not (known and 0 < self.scale < 1e6):
                raise ConfigError(f"scale {self.scale!r} is not a number above 0")
            if self.height is not None or self.width is not None:
                raise ConfigError(
                    "scale= says the size already: leave out height= and width=, or it"
                )
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                as_count(getattr(self, name), name)

    def __str__(self) -> str:
        return f"scale {self.scale}, height {self.height}, width {self.width}"

    def size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Tell the height and width of what becomes of a picture.

        Parameters
        ----------
        height, width : int
            The picture's.
        scale : int
            How much larger the network makes it.

        Returns
        -------
        (int, int)
            At least 1.
        """
        if self.height is None and self.width is None:
            by_height = by_width = float(scale if self.scale is None else self.scale)
        else:
            by_height = (self.height or 0) / height
            by_width = (self.width or 0) / width
        return (
            self.height or max(1, round(height * (by_height or by_width))),
            self.width or max(1, round(width * (by_width or by_height))),
        )


def resize(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize pictures by bicubic interpolation, which sees all pixels where it shrinks.

    Parameters
    ----------
    pictures : torch.Tensor
        Of shape ``(n, channels, height, width)``, from 0 to 1.
    size : (int, int)
        Height and width.

    Returns
    -------
    torch.Tensor
        Clipped to 0 to 1.
    """
    if pictures.shape[-2:] == size:
        return pictures
    made = functional.interpolate(
        pictures, size=size, mode="bicubic", align_corners=False, antialias=True
    )
    return made.clamp_(0, 1)
