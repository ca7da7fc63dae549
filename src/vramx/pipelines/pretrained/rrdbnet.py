"""RRDBNet, ESRGAN's network: residual-in-residual dense blocks, then two doublings of the size.

Parameters are named as in the published checkpoints, which load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

RESIDUAL_SCALE = 0.2
NEGATIVE_SLOPE = 0.2


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _activate(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads all that came before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = _conv(features, growth)
        self.conv2 = _conv(features + growth, growth)
        self.conv3 = _conv(features + 2 * growth, growth)
        self.conv4 = _conv(features + 3 * growth, growth)
        self.conv5 = _conv(features + 4 * growth, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        grown = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            grown = torch.cat((grown, _activate(conv(grown))), dim=1)
        change: Tensor = self.conv5(grown)
        return x + RESIDUAL_SCALE * change


class ResidualDenseBlocks(nn.Module):
    """Three dense blocks inside one residual connection."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        change: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + RESIDUAL_SCALE * change


class RRDBNet(nn.Module):
    """Enlarges RGB pictures four times; values run from 0 to 1.

    Parameters
    ----------
    features : int
        Channels between blocks.
    blocks : int
        How many residual groups of three dense blocks.
    growth : int
        Channels that each convolution of a dense block adds.
    """

    def __init__(self, features: int = 64, blocks: int = 23, growth: int = 32) -> None:
        super().__init__()
        self.conv_first = _conv(3, features)
        self.body = nn.Sequential(*(ResidualDenseBlocks(features, growth) for _ in range(blocks)))
        self.conv_body = _conv(features, features)
        self.conv_up1 = _conv(features, features)
        self.conv_up2 = _conv(features, features)
        self.conv_hr = _conv(features, features)
        self.conv_last = _conv(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures four times as large as `x`, whose shape is (n, 3, height, width)."""
        shallow = self.conv_first(x)
        deep = shallow + self.conv_body(self.body(shallow))
        deep = _activate(self.conv_up1(_double(deep)))
        deep = _activate(self.conv_up2(_double(deep)))
        picture: Tensor = self.conv_last(_activate(self.conv_hr(deep)))
        return picture
