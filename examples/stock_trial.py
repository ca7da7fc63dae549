"""Run both models in plain torch under a memory cap and print what became of it, as JSON.

Started by `trials` as a process of its own, since torch's cap lasts as long as the process:
``stock_trial.py BYTES TILE [WEIGHTS]``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from trials import build_models


def run_capped(budget: int, tile: int, weights_file: Path | None) -> str | None:
    """Run one tile through both models, all on the GPU at once.

    Parameters
    ----------
    budget : int
        The most bytes that torch may allocate.
    tile : int
        The tile's height and width.
    weights_file : Path or None
        The upscaler's weights; None takes seeded ones.

    Returns
    -------
    str or None
        Torch's error where the budget does not suffice.
    """
    card = torch.cuda.get_device_properties(0)
    torch.cuda.set_per_process_memory_fraction(min(budget / card.total_memory, 1.0))
    models = build_models(weights_file)
    try:
        for model in models:
            model.to("cuda")
        picture = torch.rand(1, 3, tile, tile, device="cuda")
        with torch.inference_mode():
            for model in models:
                picture = model(picture)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    weights = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    print(json.dumps({"error": run_capped(int(sys.argv[1]), int(sys.argv[2]), weights)}))
