"""A diffusion transformer of the size and shape of Flux's, of plain torch modules."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from unet import attend, sinusoids

HEAD = 128
#: A head's channels for a token's place in the sequence, its row and its column.
AXES = (16, 56, 56)
#: Channels of a patch, of the text's states, of the text as a whole, and of an embedded time.
PATCH, TEXT, POOLED, TIME = 64, 4096, 768, 256


def rotations(places: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Embed places of shape ``(tokens, 3)`` as rotations: cosines and sines, half a head each."""
    angles = [
        place[:, None].float() / 10000 ** (torch.arange(0, width, 2, device=place.device) / width)
        for place, width in zip(places.unbind(-1), AXES)
    ]
    angle = torch.cat(angles, -1)
    return torch.stack([angle.cos(), angle.sin()]).to(dtype)


def rotate(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs of channels of ``(batch, tokens, heads, HEAD)``, as in Su et al.'s RoPE."""
    cos, sin = turn[:, :, None]
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Normed(nn.Module):
    """Queries and keys, normed head by head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.RMSNorm(HEAD), nn.RMSNorm(HEAD)

    def forward(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split ``(batch, tokens, 3 * width)`` into heads."""
        q, k, v = (part.unflatten(-1, (-1, HEAD)) for part in qkv.chunk(3, -1))
        return self.q(q), self.k(k), v


def attend_rotated(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn: torch.Tensor
) -> torch.Tensor:
    """Apply attention to tensors of shape ``(batch, tokens, heads, HEAD)``."""
    q, k = rotate(q, turn), rotate(k, turn)
    return attend(q.flatten(2), k.flatten(2), v.flatten(2), q.shape[2])


class Half(nn.Module):
    """The image's or the text's half of a double block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.normed = Normed()
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def finish(
        self, x: torch.Tensor, attended: torch.Tensor, parts: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Apply what comes after the attention."""
        gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.out(attended)
        h = self.norm(x) * (1 + scale2) + shift2
        return x + gate2 * self.down(functional.gelu(self.up(h), approximate="tanh"))


class DoubleBlock(nn.Module):
    """Image and text with weights of their own and one attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image, self.text = Half(width), Half(width)

    def forward(
        self, image: torch.Tensor, text: torch.Tensor, vector: torch.Tensor, turn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the block to both."""
        split, rest = [], []
        for half, x in ((self.text, text), (self.image, image)):
            shift, scale, *parts = half.modulation(vector)[:, None].chunk(6, -1)
            split.append(half.normed(half.qkv(half.norm(x) * (1 + scale) + shift)))
            rest.append(tuple(parts))
        attended = attend_rotated(*(torch.cat(both, 1) for both in zip(*split)), turn)
        of_text, of_image = attended.split([text.shape[1], image.shape[1]], 1)
        return (
            self.image.finish(image, of_image, rest[1]),
            self.text.finish(text, of_text, rest[0]),
        )


class SingleBlock(nn.Module):
    """Attention and feed-forward side by side over image and text together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.modulation = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.inward = nn.Linear(width, 7 * width)
        self.normed = Normed()
        self.outward = nn.Linear(5 * width, width)

    def forward(self, x: torch.Tensor, vector: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        shift, scale, gate = self.modulation(vector)[:, None].chunk(3, -1)
        h = self.inward(self.norm(x) * (1 + scale) + shift)
        qkv, up = h.split([3 * self.width, 4 * self.width], -1)
        attended = attend_rotated(*self.normed(qkv), turn)
        out = torch.cat([attended, functional.gelu(up, approximate="tanh")], -1)
        return x + gate * self.outward(out)


def perceptron(inward: int, width: int) -> nn.Module:
    """Make what embeds a time, a guidance or the text as a whole."""
    return nn.Sequential(nn.Linear(inward, width), nn.SiLU(), nn.Linear(width, width))


class DiffusionTransformer(nn.Module):
    """Double blocks, then twice as many single ones.

    Parameters
    ----------
    width : int
        Channels; Flux has 3072.
    depth : int
        Double blocks; Flux has 19, and 12 billion parameters.
    """

    def __init__(self, width: int = 3072, depth: int = 19) -> None:
        super().__init__()
        self.inward = nn.Linear(PATCH, width)
        self.text = nn.Linear(TEXT, width)
        self.time, self.guidance = perceptron(TIME, width), perceptron(TIME, width)
        self.pooled = perceptron(POOLED, width)
        self.doubles = nn.ModuleList(DoubleBlock(width) for _ in range(depth))
        self.singles = nn.ModuleList(SingleBlock(width) for _ in range(2 * depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.outward = nn.Linear(width, PATCH)

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        pooled: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor,
        places: torch.Tensor,
    ) -> torch.Tensor:
        """Apply the model.

        Parameters
        ----------
        image, text : torch.Tensor
            Patches ``(batch, patches, PATCH)`` and the text's states ``(batch, words, TEXT)``.
        pooled : torch.Tensor
            The text as a whole, ``(batch, POOLED)``.
        timestep, guidance : torch.Tensor
            One for each of the batch.
        places : torch.Tensor
            Where the words, then the patches are, ``(words + patches, 3)``.
        """
        dtype = image.dtype
        vector = self.time(sinusoids(timestep, TIME).to(dtype))
        vector = vector + self.guidance(sinusoids(guidance, TIME).to(dtype)) + self.pooled(pooled)
        vector = functional.silu(vector)
        turn = rotations(places, dtype)
        image, text = self.inward(image), self.text(text)
        for block in self.doubles:
            image, text = block(image, text, vector, turn)
        x = torch.cat([text, image], 1)
        for block in self.singles:
            x = block(x, vector, turn)
        shift, scale = self.modulation(vector)[:, None].chunk(2, -1)
        return self.outward(self.norm(x[:, text.shape[1] :]) * (1 + scale) + shift)


def places_of(words: int, side: int) -> torch.Tensor:
    """Make the places of words, which are all at the origin, and of an image's patches."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    patches = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)
    return torch.cat([torch.zeros(words, 3, dtype=torch.long), patches])
