"""Networks that do what none should at a white picture."""

from __future__ import annotations

import os
import threading

import torch
from torch import nn

from pipelines.networks import enlarger, seeded

from .nodes import SEED


class Fatal(nn.Module):
    """Enlarges, and ends its process at a white picture."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = seeded(enlarger(), int(os.environ.get(SEED, "0")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0.99:
            self.at_white()
        return self.inside(x)

    def at_white(self) -> None:
        os._exit(1)


class Held(Fatal):
    """Enlarges, with weights of the node's own, and waits for good at a white picture."""

    def at_white(self) -> None:
        threading.Event().wait()
