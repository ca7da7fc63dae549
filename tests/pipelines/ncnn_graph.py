"""What a network in ncnn's format computes, layer by layer as its ``.param`` says."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def run(layers: str, weights: dict[str, dict[str, torch.Tensor]], x: torch.Tensor) -> torch.Tensor:
    """Run a picture through the layers in their order."""
    blobs = {"data": x}
    for line in layers.splitlines()[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        split, first = int(inputs), int(inputs) + int(outputs)
        options = dict(word.split("=") for word in rest[first:])
        if kind != "Input":
            made = KINDS[kind]([blobs[each] for each in rest[:split]], options, weights.get(name))
            blobs.update(dict.fromkeys(rest[split:first], made))
    return blobs["output"]


def _convolution(given: Any, options: dict[str, str], held: Any) -> torch.Tensor:
    made = functional.conv2d(given[0], held["weight"], held["bias"], padding=int(options["4"]))
    if options.get("9") == "2":  # a leaky ReLU with an array of one number
        return functional.leaky_relu(made, float(options["-23310"].split(",")[1]))
    return made


def _sum(given: Any, options: dict[str, str], _: Any) -> torch.Tensor:
    factors = options.get("-23301", "2,1,1").split(",")[1:]
    return given[0] * float(factors[0]) + given[1] * float(factors[1])


def _interpolation(given: Any, options: dict[str, str], _: Any) -> torch.Tensor:
    mode = {"1": "nearest", "3": "bicubic"}[options["0"]]
    assert options["1"] == options["2"]
    return functional.interpolate(given[0], scale_factor=float(options["1"]), mode=mode)


KINDS: dict[str, Any] = {
    "BinaryOp": _sum,
    "Concat": lambda given, *_: torch.cat(given, 1),
    "Convolution": _convolution,
    "Eltwise": _sum,
    "Interp": _interpolation,
    "PReLU": lambda given, _, held: functional.prelu(given[0], held["weight"]),
    "PixelShuffle": lambda given, options, _: functional.pixel_shuffle(given[0], int(options["0"])),
    "Split": lambda given, *_: given[0],
}
