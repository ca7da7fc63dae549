"""What nodes and their networks do by what their environment says, in each of Ray's workers."""

from __future__ import annotations

import os
import threading
from typing import Any

import torch
from torch import nn

from pipelines.networks import enlarger, seeded

#: How large a node's card is, and which of the functions below its workers call as they start.
CAPACITY, DOING = "VRAMX_TEST_CAPACITY", "VRAMX_TEST_DOING"
#: What makes a node's weights differ.
SEED = "VRAMX_TEST_WEIGHTS"


def set_up() -> None:
    """Runs in each of Ray's workers, as it starts: what the simulated cards are."""
    import vramx

    vramx.simulate(capacity=os.environ.get(CAPACITY, "2GiB"), granule="4KiB")
    if doing := os.environ.get(DOING):
        globals()[doing]()


def write_elsewhere() -> None:
    """Pictures are not where others see them, as in a folder that is not shared."""
    from vramx.engines.worker import Done, Worker

    make_picture = Worker.make_picture

    def make(self: Worker, picture: Any) -> Done:
        done = make_picture(self, picture)
        picture.target.unlink()
        return done

    Worker.make_picture = make  # type: ignore[method-assign]


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
