"""Models with seeded random weights, cheap to make, in bf16 on the CPU."""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from benchmarks.quantised import KINDS, bytes_held

DTYPE = torch.bfloat16
#: Channels of SDXL's text's states, and of Flux's patches, text's states and text as a whole.
CONTEXT, PATCH, TEXT, POOLED = 2048, 64, 4096, 768


@dataclass
class Workload:
    """A model, on the CPU, with its blocks in lists for offloaders, and the keywords of a call."""

    module: nn.Module
    inputs: dict[str, Any]

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return bytes_held(self.module)

    def inputs_on(self, device: str) -> dict[str, Any]:
        """Copy the inputs to a device."""
        return tree_map_only(torch.Tensor, lambda each: each.to(device), self.inputs)


def call(run: Callable[..., Any], inputs: dict[str, Any]) -> torch.Tensor:
    """Run a pass; return its output."""
    out = run(**inputs)
    return out[0] if isinstance(out, tuple) else out


def noise(*shape: int) -> torch.Tensor:
    """Draw an input."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DTYPE)


@torch.no_grad()
def materialise(make: Callable[[], nn.Module], device: str = "cpu", seed: int = 0) -> nn.Module:
    """Make a module and give it its weights, on a device.

    One tensor is drawn for each shape and scaled a little differently for each parameter, so that a
    parameter taken for another shows in the output.
    """
    with torch.device("meta"):
        module = make()
    nn.Module.to(module, DTYPE)  # diffusers' own warns, even where it keeps nothing in float32
    module.to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(seed)
    drawn: dict[torch.Size, torch.Tensor] = {}
    for place, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        if parameter.shape not in drawn:
            weight = torch.empty_like(parameter).normal_(generator=generator)
            drawn[parameter.shape] = weight / math.sqrt(parameter[0].numel())
        torch.mul(drawn[parameter.shape], 1 - place % 16 / 160, out=parameter)
    return module


class Stack(nn.Module):
    """Blocks one after another."""

    def __init__(self, blocks: Iterable[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        # Without a module beside its list of blocks, diffusers would not bring blocks ahead.
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the blocks."""
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
        """Apply the block to ``x`` of shape ``(batch, tokens, width)``."""
        h = self.norm1(x)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def linear(weights: int, tokens: int, width: int = 8192) -> Workload:
    """Make linear layers of at most `weights` bytes; `tokens` sets how much they compute."""
    depth = max(2, weights // (width * width * DTYPE.itemsize))

    def make() -> nn.Module:
        layers = (nn.Linear(width, width, bias=False) for _ in range(depth))
        return Stack(layers, nn.LayerNorm(width, elementwise_affine=False))

    return Workload(materialise(make), {"x": noise(tokens, width)})


def decode(weights: int, tokens: int, width: int | None = None) -> Workload:
    """Make a transformer of 24 layers, as wide as `weights` bytes allow unless told.

    Its pass over one token reads every weight and computes little.
    """
    depth = 24
    if width is None:
        width = max(1, math.isqrt(weights // (depth * 12 * DTYPE.itemsize)) // 128) * 128

    def make() -> nn.Module:
        return Stack((DecoderBlock(width, width // 128) for _ in range(depth)), nn.LayerNorm(width))

    return Workload(materialise(make), {"x": noise(1, tokens, width)})


def dit(weights: int, tokens: int, width: int = 3072, words: int = 512) -> Workload:
    """Make diffusers' Flux over patches of an image; 22 GiB make it as deep as it is."""
    from diffusers import FluxTransformer2DModel

    depth = max(1, round(weights / (66 * width * width * DTYPE.itemsize)))
    module = materialise(
        lambda: FluxTransformer2DModel(
            num_layers=depth,
            num_single_layers=2 * depth,
            num_attention_heads=width // 128,
            guidance_embeds=True,
        )
    )
    side = math.isqrt(tokens)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inputs = {
        "hidden_states": noise(1, side * side, PATCH),
        "encoder_hidden_states": noise(1, words, TEXT),
        "pooled_projections": noise(1, POOLED),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1),
        "txt_ids": torch.zeros(words, 3, dtype=torch.long),
        "return_dict": False,
    }
    return Workload(module, inputs)


def unet(
    weights: int,  # noqa: ARG001
    tokens: int,
    width: int = 320,
    depths: tuple[int, ...] = (1, 2, 10),
) -> Workload:
    """Make diffusers' U-Net in SDXL's configuration over latents of `tokens` places."""
    from diffusers import UNet2DConditionModel

    cross_down, cross_up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    module = materialise(
        lambda: UNet2DConditionModel(
            down_block_types=("DownBlock2D", cross_down, cross_down),
            up_block_types=(cross_up, cross_up, "UpBlock2D"),
            block_out_channels=(width, 2 * width, 4 * width),
            attention_head_dim=(width // 64, width // 32, width // 16),
            transformer_layers_per_block=depths,
            cross_attention_dim=CONTEXT,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    )
    inputs = {
        "sample": noise(1, 4, math.isqrt(tokens), math.isqrt(tokens)),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": noise(1, 77, CONTEXT),
        "added_cond_kwargs": {"text_embeds": noise(1, 1280), "time_ids": noise(1, 6)},
        "return_dict": False,
    }
    return Workload(module, inputs)


def picture_decoder(widths: tuple[int, ...] = (128, 256, 512, 512)) -> nn.Module:
    """Make SDXL's decoder, which makes pictures of eight times the latents' sides."""
    from diffusers.models.autoencoders.vae import Decoder as PictureDecoder

    return materialise(
        lambda: PictureDecoder(
            in_channels=4,
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
        )
    )


def quantised(kind: str, weights: int, tokens: int, width: int = 4096) -> Workload:
    """Make decoder blocks of at least `weights` bytes, quantised where they will compute."""
    device, blocks = "cuda" if torch.cuda.is_available() else "cpu", list[nn.Module]()
    make = functools.partial(DecoderBlock, width, max(1, width // 128))
    while not blocks or sum(map(bytes_held, blocks)) < weights:
        blocks.append(KINDS[kind](materialise(make, device, seed=len(blocks))))
    return Workload(nn.Sequential(*blocks), {"input": noise(1, tokens, width)})


MODELS: dict[str, Callable[..., Workload]] = {
    "linear": linear,
    "decode": decode,
    "dit": dit,
    "unet": unet,
    **{kind: functools.partial(quantised, kind) for kind in KINDS},
}
#: The tokens of a pass unless told; for the U-Net the latents' places.
TOKENS = {"linear": 2048, "decode": 1, "dit": 4096, "unet": 16384, **dict.fromkeys(KINDS, 1)}


def build(name: str, weights: int, tokens: int | None, width: int | None = None) -> Workload:
    """Build one of `MODELS` of about so many bytes; the U-Net's follow from its width."""
    options = {} if width is None else {"width": width}
    return MODELS[name](weights, tokens or TOKENS[name], **options)
