"""Running networks of the chain that swaps faces by themselves, and what onnxruntime makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import vramx

#: Of pictures, in pixels.
SIDE = 128
BLOCK = 64 * 2**10
Pixels = np.ndarray[Any, Any]


@contextmanager
def computing(network: Any, budget: Any = "16MiB") -> Iterator[Any]:
    with vramx.oversubscribe(budget=budget, block=BLOCK, backend="simulated") as session:
        with network.within(session), torch.inference_mode():
            yield network


def photograph(side: int = SIDE, seed: int = 0) -> Pixels:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[20 * seed :, 512 - max(side, 412) :][:side, :side])


def planes(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def embedding(seed: int = 0) -> Pixels:
    values = np.random.default_rng(seed).standard_normal(512)
    return (values / np.linalg.norm(values)).astype(np.float32)


def reference(path: Path) -> Any:
    """Make what sums in the order of vramx: weights are not packed."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def resaved(change: Callable[[Any], None], write: Callable[[Path], None], path: Path) -> Path:
    """Write a model, and change its graph."""
    write(path)
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path
