"""Small networks with seeded weights, of known scale, stride and reach."""

from __future__ import annotations

import torch
from torch import nn


class Dense(nn.Module):
    """A residual-in-residual block as super-resolution networks have them, but tiny."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(features, features, 3, padding=1)
        self.b = nn.Conv2d(2 * features, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.b(torch.cat((x, nn.functional.leaky_relu(self.a(x), 0.2)), dim=1))


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give all parameters values that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.uniform_(-spread, spread, generator=generator)
    return network.eval()


def enlarger(scale: int = 2, channels: int = 3, features: int = 6) -> nn.Module:
    """Convolutions and a pixel shuffle; it looks at most 6 pixels far."""
    return seeded(
        nn.Sequential(
            nn.Conv2d(channels, features, 3, padding=1),
            Dense(features),
            Dense(features),
            nn.Conv2d(features, channels * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
            nn.Sigmoid(),
        )
    )


def strided(stride: int = 4) -> nn.Module:
    """Shrinks and enlarges by a stride, so sides must be its multiples; doubles the size."""
    return seeded(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, stride, stride=stride),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 3 * (2 * stride) ** 2, 3, padding=1),
            nn.PixelShuffle(2 * stride),
            nn.Sigmoid(),
        )
    )


class Glare(nn.Module):
    """Looks at the whole picture: no overlap is enough."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x + 0.5 * x.mean((-2, -1), keepdim=True)
