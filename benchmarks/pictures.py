"""A photograph, trained networks, and plain torch with everything on the card."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from vramx.bench.measuring import times_by
from vramx.pipelines import pretrained
from vramx.units import format_size

Pixels = np.ndarray[Any, Any]


def photograph(width: int, height: int) -> Pixels:
    """Return scikit-image's astronaut in a size, as bytes (height, width, 3)."""
    from skimage import data

    picture = Image.fromarray(data.astronaut())
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))


def median_seconds(work: Callable[[], Any], rounds: int) -> float:
    """Return the median seconds of passes that end on the host, after one."""
    work()
    return statistics.median(times_by(time.perf_counter, work, rounds)[0])


def trained(name: str, dtype: str) -> nn.Module:
    """Return a network with its weights, on the CPU."""
    network: nn.Module = pretrained.build(name).requires_grad_(False)
    network.load_state_dict(load_file(pretrained.weights(name)))
    return network.to(getattr(torch, dtype))


def as_bytes(made: torch.Tensor) -> Pixels:
    """Round values (1, 3, h, w) to bytes (h, w, 3) on the host."""
    rounded = (made[0].float().clamp(0, 1) * 255).round().to(torch.uint8)
    return rounded.permute(1, 2, 0).contiguous().cpu().numpy()


class Stock:
    """Torch with everything on the card."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.network = network.to(device)
        self._device = device
        self._dtype = next(network.parameters()).dtype

    def values(self, pixels: Pixels) -> torch.Tensor:
        """Return bytes as values from 0 to 1, (1, 3, h, w), on the card."""
        placed = torch.from_numpy(pixels).to(self._device)
        return placed.permute(2, 0, 1)[None].to(self._dtype) / 255

    def whole(self, pixels: Pixels) -> Pixels:
        """Enlarge a picture at once."""
        return as_bytes(self.network(self.values(pixels)))

    def tiled(self, pixels: Pixels, side: int, padding: int, scale: int) -> Pixels:
        """Enlarge a picture in tiles that see some pixels beyond their own."""
        height, width = pixels.shape[:2]
        given = self.values(pixels)
        made = given.new_empty((1, 3, scale * height, scale * width))
        for top in range(0, height, side):
            for left in range(0, width, side):
                above, before = min(padding, top), min(padding, left)
                rows = slice(top - above, top + side + padding)
                tile = self.network(given[:, :, rows, left - before : left + side + padding])
                right, bottom = left + side, top + side
                whole = made[..., scale * top : scale * bottom, scale * left : scale * right]
                own = tile[:, :, scale * above :, scale * before :]
                whole.copy_(own[..., : whole.shape[-2], : whole.shape[-1]])
        return as_bytes(made)


def told(sr: Any, pixels: Pixels) -> dict[str, Any]:
    """Return what a session of `vramx.super_resolution` tells."""
    stats, way = sr.session.stats(), sr.forecast(pixels)
    moved = f"moved {format_size(stats.moved_in)} in, {format_size(stats.moved_out)} out"
    return {"peak": stats.peak_resident, "note": f"{way.describe()}; {moved}", **way.figures()}
