"""Run a network in plain torch under a cap on memory, and print why it failed, as JSON, or null.

Started by `super_resolution.py` as a process of its own, since torch's cap lasts as long as the
process: ``stock_trial.py MODEL BYTES WIDTH HEIGHT``.
"""

from __future__ import annotations

import json
import sys

import torch
from safetensors.torch import load_file

from vramx.pipelines import pretrained


def run_capped(model: str, budget: int, width: int, height: int) -> str | None:
    """Run one picture through the network, with all weights on the GPU.

    Parameters
    ----------
    model : str
        The network's name.
    budget : int
        The most bytes that torch may allocate.
    width, height : int
        The picture's size.

    Returns
    -------
    str or None
        Torch's error where the budget does not suffice.
    """
    card = torch.cuda.get_device_properties(0)
    torch.cuda.set_per_process_memory_fraction(min(budget / card.total_memory, 1.0))
    network = pretrained.build(model)
    network.load_state_dict(load_file(pretrained.weights(model)))
    try:
        network.half().to("cuda")
        with torch.inference_mode():
            network(torch.rand(1, 3, height, width, dtype=torch.float16, device="cuda"))
        torch.cuda.synchronize()
    except torch.OutOfMemoryError as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    print(json.dumps(run_capped(sys.argv[1], *map(int, sys.argv[2:]))))
