"""A U-Net with batch norm that touches up a picture: the demo's second, different model."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 256, 512)
RESIDUAL_GAIN = 0.02


class Stage(nn.Sequential):
    """Two convolutions, each with batch norm and a ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Restorer(nn.Module):
    """Adds a small correction to a picture of any size.

    Parameters
    ----------
    widths : tuple of int
        Channels at each level, from the full size down; each level halves the size.
    gain : float
        How much of the correction is added.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, gain: float = RESIDUAL_GAIN) -> None:
        super().__init__()
        self.gain = gain
        self.multiple = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList(
            Stage(inputs, outputs) for inputs, outputs in pairwise((3, *widths))
        )
        upward = list(pairwise(reversed(widths)))
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, kernel_size=2, stride=2) for deep, shallow in upward
        )
        self.decoder = nn.ModuleList(Stage(2 * shallow, shallow) for _, shallow in upward)
        self.head = nn.Conv2d(widths[0], 3, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures of the shape of `x`, which is (n, 3, height, width)."""
        height, width = x.shape[-2:]
        fill = (0, -width % self.multiple, 0, -height % self.multiple)
        deep = functional.pad(x, fill, mode="replicate")
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            deep = stage(deep if level == 0 else functional.max_pool2d(deep, 2))
            skips.append(deep)
        skips.pop()
        for enlarge, stage in zip(self.enlarge, self.decoder, strict=True):
            deep = stage(torch.cat((skips.pop(), enlarge(deep)), dim=1))
        correction = torch.tanh(self.head(deep))[..., :height, :width]
        return x + self.gain * correction


def seeded_restorer(seed: int = 1) -> Restorer:
    """Return a restorer with random weights and random batch-norm statistics.

    Parameters
    ----------
    seed : int
        The same seed gives the same weights; the caller's generator is left alone.

    Returns
    -------
    Restorer
        In evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        restorer = Restorer()
        for module in restorer.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Fresh statistics, mean 0 and variance 1, would hide a lost buffer.
                module.get_buffer("running_mean").normal_(std=0.05)
                module.get_buffer("running_var").uniform_(0.05, 0.2)
    return restorer.eval()
