"""A U-Net of the size and shape of SDXL's, of plain torch modules."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

HEAD = 64
GROUPS = 32
CONTEXT = 2048


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Apply attention to tensors of shape ``(batch, tokens, width)``."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def sinusoids(times: torch.Tensor, width: int) -> torch.Tensor:
    """Embed times of shape ``(batch,)`` as ``(batch, width)``."""
    ramp = torch.arange(width // 2, device=times.device) / (width // 2)
    angles = times[:, None].float() * torch.exp(-math.log(10000) * ramp)
    return torch.cat([angles.cos(), angles.sin()], -1)


class Residual(nn.Module):
    """Two convolutions with the time's embedding between them."""

    def __init__(self, inward: int, outward: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inward)
        self.conv1 = nn.Conv2d(inward, outward, 3, padding=1)
        self.time = nn.Linear(time, outward)
        self.norm2 = nn.GroupNorm(GROUPS, outward)
        self.conv2 = nn.Conv2d(outward, outward, 3, padding=1)
        self.shortcut = nn.Identity() if inward == outward else nn.Conv2d(inward, outward, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.time(functional.silu(time))[:, :, None, None]
        return self.shortcut(x) + self.conv2(functional.silu(self.norm2(h)))


class Attention(nn.Module):
    """Attention of `width` channels to a context."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(context, width, bias=False)
        self.v = nn.Linear(context, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Apply the attention."""
        return self.out(attend(self.q(x), self.k(context), self.v(context), self.heads))


class Transformer(nn.Module):
    """Self-attention, attention to the text, and a gated feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width, width)
        self.text = Attention(width, CONTEXT)
        self.up = nn.Linear(width, 8 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        h = self.norm1(x)
        x = x + self.own(h, h)
        x = x + self.text(self.norm2(x), text)
        h, gate = self.up(self.norm3(x)).chunk(2, -1)
        return x + self.down(h * functional.gelu(gate))


class Spatial(nn.Module):
    """Transformer blocks over the places of an image."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.inward = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Transformer(width) for _ in range(depth))
        self.outward = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Apply the blocks."""
        h = self.inward(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = block(h, text)
        return x + self.outward(h).transpose(1, 2).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A residual block, then transformer blocks and twice the resolution where asked."""

    def __init__(
        self, inward: int, outward: int, time: int, depth: int, *, grows: bool = False
    ) -> None:
        super().__init__()
        self.residual = Residual(inward, outward, time)
        self.spatial = Spatial(outward, depth) if depth else None
        self.grow = nn.Conv2d(outward, outward, 3, padding=1) if grows else None

    def forward(self, x: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Apply the stage."""
        x = self.residual(x, time)
        if self.spatial is not None:
            x = self.spatial(x, text)
        if self.grow is not None:
            x = self.grow(functional.interpolate(x, scale_factor=2.0))
        return x


class UNet(nn.Module):
    """A U-Net with a skip from each stage on the way down to one on the way up.

    Parameters
    ----------
    width : int
        Channels at the full resolution; SDXL has 320.
    depths : tuple of int
        Transformer blocks a stage at each resolution; SDXL has 0, 2 and 10.
    """

    def __init__(self, width: int = 320, depths: tuple[int, ...] = (0, 2, 10)) -> None:
        super().__init__()
        time = 4 * width
        levels = [(width * 2**level, depth) for level, depth in enumerate(depths)]
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.inward = nn.Conv2d(4, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        at, skips = width, [width]
        for outward, depth in levels:
            if self.down:
                self.down.append(nn.Conv2d(at, at, 3, stride=2, padding=1))
                skips.append(at)
            for _ in range(2):
                self.down.append(Stage(at, outward, time, depth))
                at = outward
                skips.append(at)
        self.middle = nn.ModuleList([Stage(at, at, time, depths[-1]), Stage(at, at, time, 0)])
        for level, (outward, depth) in reversed(list(enumerate(levels))):
            for place in range(3):
                grows = place == 2 and level > 0
                self.up.append(Stage(at + skips.pop(), outward, time, depth, grows=grows))
                at = outward
        self.norm = nn.GroupNorm(GROUPS, width)
        self.outward = nn.Conv2d(width, 4, 3, padding=1)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """Apply the network to latents, a time for each, and the text's states."""
        time = self.time(sinusoids(timestep, self.width).to(sample.dtype))
        x = self.inward(sample)
        skips = [x]
        for stage in self.down:
            x = stage(x, time, text) if isinstance(stage, Stage) else stage(x)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, time, text)
        for stage in self.up:
            x = stage(torch.cat([x, skips.pop()], 1), time, text)
        return self.outward(functional.silu(self.norm(x)))
