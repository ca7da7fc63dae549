"""Results of another size than the network makes."""

from __future__ import annotations

import torch
from torch.nn import functional


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
