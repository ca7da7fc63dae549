"""Show what a session does: its report, and a picture of which layer was on the card when.

The pictures in docs are made by it where there is no GPU, as ``make pictures`` does.
"""

import argparse

import torch
from torch import nn

import vramx

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--picture", default="residency.html", help="a .html or .png file")
parser.add_argument("--policy", default="adaptive", help="adaptive, lru, mru or clairvoyant")
parser.add_argument("--unpack-rate", help="of the simulated card, such as 1TB/s; packs weights")
parser.add_argument("--trace", help="a .json file for https://ui.perfetto.dev")
arguments = parser.parse_args()

has_gpu = torch.cuda.is_available()
WIDTH = 1024
BLOCK = 2 * WIDTH * WIDTH  # one layer's weight
LINK = 25e9  # of the simulated card, bytes a second


class Layer(nn.Linear):
    """A layer that on the simulated card takes half as long as its weight takes to arrive."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, and let virtual time pass."""
        if not has_gpu:
            session.device.compute(0.5 * BLOCK / LINK)
        return super().forward(x)


with vramx.simulate(link=LINK, unpack_rate=arguments.unpack_rate):
    session = vramx.oversubscribe(
        12 * BLOCK,
        backend="auto" if has_gpu else "simulated",
        policy=arguments.policy,
        block=BLOCK,
    )
torch.manual_seed(0)  # how far weights pack depends on them
model = nn.Sequential(*(Layer() for _ in range(24))).eval()
with session, torch.inference_mode():
    session.manage(model, name="net")
    x = torch.randn(8, WIDTH, dtype=torch.bfloat16, device="cuda" if has_gpu else "cpu")
    with session.trace(arguments.trace) as trace:
        for _ in range(6):
            model(x)
trace.picture(arguments.picture)
print(session.report())
print("picture:", arguments.picture)
