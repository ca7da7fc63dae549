"""Linear layers of seeded weights, the plainest model there is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def no_work() -> None:
    """Stand for virtual work where the work is real."""


class Layer(nn.Module):
    """A linear layer; on the simulated device it also spends virtual compute time."""

    def __init__(self, width: int, weight: torch.Tensor, compute: Callable[[], None]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False, device="meta")
        self.linear.weight = nn.Parameter(weight, requires_grad=False)
        self._compute = compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to ``x`` of shape ``(tokens, width)``."""
        out: torch.Tensor = self.linear(x)
        self._compute()
        return out


def build(
    weights: int,
    width: int,
    dtype: torch.dtype,
    device: str,
    compute: Callable[[], None] = no_work,
) -> nn.Sequential:
    """Make layers of at most `weights` bytes in all, on the CPU; the device draws the weights."""
    layers = []
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(max(2, weights // (width * width * dtype.itemsize))):
        weight = torch.randn(width, width, dtype=dtype, device=device, generator=generator)
        layers.append(Layer(width, (weight / width**0.5).cpu(), compute))
    return nn.Sequential(*layers)


def bytes_of(model: nn.Module) -> int:
    """Sum the bytes of a model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
