"""Models with seeded random weights, cheap to make, in bf16 on the CPU."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dit import PATCH, POOLED, TEXT, DiffusionTransformer, places_of
from unet import CONTEXT, UNet, attend
from vramx.bench.layers import bytes_of

DTYPE = torch.bfloat16


@dataclass
class Workload:
    """A model and what it is called with.

    Attributes
    ----------
    module : torch.nn.Module
        The model, on the CPU. Its blocks are in lists, so that offloaders find them.
    inputs : dict
        Keyword arguments of a call: tensors, dicts of them and constants.
    """

    module: nn.Module
    inputs: dict[str, Any]

    @property
    def weights(self) -> int:
        """Bytes of the parameters."""
        return bytes_of(self.module)

    def inputs_on(self, device: str) -> dict[str, Any]:
        """Copy the inputs to a device."""
        return _on(self.inputs, device)


def _on(value: Any, device: str) -> Any:
    if isinstance(value, dict):
        return {key: _on(each, device) for key, each in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DTYPE)


@torch.no_grad()
def materialise(module: nn.Module) -> nn.Module:
    """Give a module made on the meta device its weights.

    One tensor is drawn for each shape and scaled a little differently for each parameter, so that a
    parameter taken for another shows in the output.
    """
    module.to(DTYPE).to_empty(device="cpu").requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    drawn: dict[torch.Size, torch.Tensor] = {}
    for place, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        if parameter.shape not in drawn:
            weight = torch.randn(parameter.shape, dtype=DTYPE, generator=generator)
            drawn[parameter.shape] = weight / math.sqrt(parameter[0].numel())
        torch.mul(drawn[parameter.shape], 1 - place % 16 / 160, out=parameter)
    return module


class Stack(nn.Module):
    """Linear layers one after another."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        # Without a module beside its list of blocks, diffusers would not bring blocks ahead.
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layers to ``x`` of shape ``(tokens, width)``."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class DecoderBlock(nn.Module):
    """Self-attention and a feed-forward, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        h = self.norm1(x)
        x = x + self.out(attend(self.q(h), self.k(h), self.v(h), self.heads))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """A transformer whose pass over one token reads every weight and computes little."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DecoderBlock(width, width // 128) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the blocks to ``x`` of shape ``(batch, tokens, width)``."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def linear(weights: int, tokens: int, width: int = 8192) -> Workload:
    """Make linear layers of at most `weights` bytes; `tokens` sets how much they compute."""
    depth = max(2, weights // (width * width * DTYPE.itemsize))
    module = materialise(_on_meta(lambda: Stack(width, depth)))
    return Workload(module, {"x": _noise(tokens, width)})


def decode(weights: int, tokens: int, width: int | None = None) -> Workload:
    """Make a transformer of 24 layers, as wide as `weights` bytes allow unless told."""
    depth = 24
    if width is None:
        width = max(1, math.isqrt(weights // (depth * 12 * DTYPE.itemsize)) // 128) * 128
    module = materialise(_on_meta(lambda: Decoder(width, depth)))
    return Workload(module, {"x": _noise(1, tokens, width)})


def dit(weights: int, tokens: int, width: int = 3072, words: int = 512) -> Workload:
    """Make a diffusion transformer of about `weights` bytes over `tokens` patches of an image.

    At its own width 22 GiB make it as deep as Flux.
    """
    depth = max(1, round(weights / (66 * width * width * DTYPE.itemsize)))
    module = materialise(_on_meta(lambda: DiffusionTransformer(width, depth)))
    side = math.isqrt(tokens)
    inputs = {
        "image": _noise(1, side * side, PATCH),
        "text": _noise(1, words, TEXT),
        "pooled": _noise(1, POOLED),
        "timestep": torch.tensor([500.0]),
        "guidance": torch.tensor([3500.0]),
        "places": places_of(words, side),
    }
    return Workload(module, inputs)


def plain_unet(tokens: int, width: int = 320, depths: tuple[int, ...] = (0, 2, 10)) -> Workload:
    """Make a U-Net of plain torch modules over latents of `tokens` places."""
    module = materialise(_on_meta(lambda: UNet(width, depths)))
    inputs = {
        "sample": _noise(1, 4, math.isqrt(tokens), math.isqrt(tokens)),
        "timestep": torch.tensor([500.0]),
        "text": _noise(1, 77, CONTEXT),
    }
    return Workload(module, inputs)


def diffusers_unet(tokens: int, width: int = 320) -> Workload:
    """Make diffusers' U-Net in SDXL's configuration over latents of `tokens` places."""
    from diffusers import UNet2DConditionModel

    cross_down, cross_up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    module = materialise(
        _on_meta(
            lambda: UNet2DConditionModel(
                down_block_types=("DownBlock2D", cross_down, cross_down),
                up_block_types=(cross_up, cross_up, "UpBlock2D"),
                block_out_channels=(width, 2 * width, 4 * width),
                attention_head_dim=(width // 64, width // 32, width // 16),
                transformer_layers_per_block=(1, 2, 10),
                cross_attention_dim=CONTEXT,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            )
        )
    )
    inputs = {
        "sample": _noise(1, 4, math.isqrt(tokens), math.isqrt(tokens)),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": _noise(1, 77, CONTEXT),
        "added_cond_kwargs": {"text_embeds": _noise(1, 1280), "time_ids": _noise(1, 6)},
        "return_dict": False,
    }
    return Workload(module, inputs)


#: The models, and the tokens of a pass unless told.
TOKENS = {"linear": 2048, "decode": 1, "dit": 4096, "unet": 16384}


def build(name: str, weights: int, tokens: int, width: int | None = None) -> Workload:
    """Build a model.

    Parameters
    ----------
    name : str
        One of `TOKENS`; the U-Net is diffusers' own where it is installed.
    weights : int
        Bytes of parameters to aim at; the U-Net's follow from its width.
    tokens : int
        The tokens of a pass; for the U-Net the latents' places.
    width : int, optional
        The channels; each model has its own unless given.
    """
    options = {"tokens": tokens} if width is None else {"tokens": tokens, "width": width}
    if name == "unet":
        has_diffusers = importlib.util.find_spec("diffusers") is not None
        return diffusers_unet(**options) if has_diffusers else plain_unet(**options)
    return {"linear": linear, "decode": decode, "dit": dit}[name](weights, **options)
