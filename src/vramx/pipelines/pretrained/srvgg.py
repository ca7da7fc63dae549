"""SRVGGNetCompact, Real-ESRGAN's small network: convolutions at the picture's size, then a shuffle.

Parameters are named as in the published checkpoints, which load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class SRVGGNetCompact(nn.Module):
    """Enlarges RGB pictures; values run from 0 to 1.

    Parameters
    ----------
    features : int
        Channels between convolutions.
    convolutions : int
        How many there are besides the first and the last.
    upscale : int
        How much larger the shuffle makes pictures.
    scale : int
        How much larger they become in all: what is more is taken back by bicubic interpolation.
    """

    def __init__(
        self, features: int = 64, convolutions: int = 16, upscale: int = 4, scale: int = 4
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        self.body = nn.Sequential(*layers, nn.Conv2d(features, 3 * upscale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures `scale` times as large as `x`, whose shape is (n, 3, height, width)."""
        base = functional.interpolate(x, scale_factor=self.upscale, mode="nearest")
        picture = functional.pixel_shuffle(self.body(x), self.upscale) + base
        if self.scale == self.upscale:
            return picture
        return functional.interpolate(
            picture, scale_factor=self.scale / self.upscale, mode="bicubic", align_corners=False
        )
