"""ESRGAN's network: residual-in-residual dense blocks, then two doublings of the size.

Module names are those of the published checkpoints, so their weights load as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = 4
RESIDUAL_SCALE = 0.2
NEGATIVE_SLOPE = 0.2
SEEDED_GAIN = 0.02


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _activate(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads all that came before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = _conv(features, growth)
        self.conv2 = _conv(features + growth, growth)
        self.conv3 = _conv(features + 2 * growth, growth)
        self.conv4 = _conv(features + 3 * growth, growth)
        self.conv5 = _conv(features + 4 * growth, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        grown = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            grown = torch.cat((grown, _activate(conv(grown))), dim=1)
        change: Tensor = self.conv5(grown)
        return x + RESIDUAL_SCALE * change


class ResidualDenseBlocks(nn.Module):
    """Three dense blocks inside one residual connection."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        change: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + RESIDUAL_SCALE * change


class RRDBNet(nn.Module):
    """Enlarges RGB pictures four times; values run from 0 to 1.

    Parameters
    ----------
    features : int
        Channels between blocks.
    blocks : int
        How many residual groups of three dense blocks.
    growth : int
        Channels that each convolution of a dense block adds.
    """

    def __init__(self, features: int = 64, blocks: int = 23, growth: int = 32) -> None:
        super().__init__()
        self.conv_first = _conv(3, features)
        self.body = nn.Sequential(*(ResidualDenseBlocks(features, growth) for _ in range(blocks)))
        self.conv_body = _conv(features, features)
        self.conv_up1 = _conv(features, features)
        self.conv_up2 = _conv(features, features)
        self.conv_hr = _conv(features, features)
        self.conv_last = _conv(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures four times as large as `x`, whose shape is (n, 3, height, width)."""
        shallow = self.conv_first(x)
        deep = shallow + self.conv_body(self.body(shallow))
        deep = _activate(self.conv_up1(_double(deep)))
        deep = _activate(self.conv_up2(_double(deep)))
        picture: Tensor = self.conv_last(_activate(self.conv_hr(deep)))
        return picture


class OverBicubic(nn.Module):
    """Adds a little of an untrained network's output to a bicubic enlargement.

    The picture stays sane, and every weight still reaches every pixel.
    """

    def __init__(self, network: RRDBNet, gain: float = SEEDED_GAIN) -> None:
        super().__init__()
        self.network = network
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures four times as large as `x`, whose shape is (n, 3, height, width)."""
        smooth = functional.interpolate(x, scale_factor=SCALE, mode="bicubic", align_corners=False)
        touch: Tensor = self.network(x)
        return smooth + self.gain * touch


def seeded_upscaler(seed: int = 0) -> OverBicubic:
    """Return the network with random weights over a bicubic enlargement.

    Parameters
    ----------
    seed : int
        The same seed gives the same weights; the caller's generator is left alone.

    Returns
    -------
    OverBicubic
        In evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        upscaler = OverBicubic(RRDBNet())
    return upscaler.eval()


def trained_upscaler(path: Path) -> RRDBNet:
    """Return the network with the weights of a file.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or a torch checkpoint: the state dictionary itself, or one that
        holds it under ``params_ema`` or ``params``.

    Returns
    -------
    RRDBNet
        In evaluation mode, in float32.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file cannot be read, or does not hold this network's tensors.
    """
    tensors = _read_tensors(path)
    network = RRDBNet()
    _require_same_tensors(path, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return network.eval()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no such weights file: {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    if not isinstance(content, dict):
        raise ValueError(f"weights file {path} holds a {type(content).__name__}, not named tensors")
    for wrapper in ("params_ema", "params"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"reading {path} needs the safetensors package") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"weights file {path} is not a safetensors file: {error}") from error


def _read_checkpoint(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler and archive reader raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"weights file {path} is not a torch checkpoint: {reason}") from error


def _require_same_tensors(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {kind} (such as {names[0]})"
        for kind, names in (("missing", missing), ("unknown", unknown), ("misshapen", reshaped))
        if names
    ]
    if faults:
        raise ValueError(f"weights file {path} is not for RRDBNet 4x: tensors {', '.join(faults)}")
