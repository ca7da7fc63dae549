"""Networks for tests of the service: one that waits for a gate, also across processes."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import nn

from pipelines.networks import enlarger

LIMIT = 60
#: Open unless a test closes it; a video that comes to it says so.
GATE, REACHED = threading.Event(), threading.Event()
GATE.set()
#: How many calls go through before one waits at the gate, or for the end of the process.
BEFORE = 8


class Held(nn.Module):
    """Enlarges, and waits at the gate after some calls; what it makes is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = enlarger()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > BEFORE and not GATE.is_set():
            REACHED.set()
            assert GATE.wait(LIMIT)
        return self.inside(x)


class HeldForGood(Held):
    """Waits while there is a file ``hold`` in the current folder, until the process is killed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.calls == BEFORE and Path("hold").exists():
            Path("reached").touch()
            threading.Event().wait(LIMIT)
        return super().forward(x)


def doubling() -> nn.Module:
    """Repeats pixels: what costs the least to load and to look at."""
    return nn.Upsample(scale_factor=2)
