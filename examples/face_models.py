"""Small models for `swap_faces.py`, made by hand: not trained, but what they do can be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def astronaut() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return scikit-image's photograph of an astronaut, (512, 512, 3)."""
    from skimage import data

    return data.astronaut()  # type: ignore[no-any-return, no-untyped-call]


def _grey(pictures: Tensor) -> Tensor:
    return pictures.mean(1, keepdim=True)


class Touch(nn.Module):
    """A convolutional network with seeded weights that adds a little to pictures."""

    def __init__(self, stride: int, seed: int, features: int = 96, layers: int = 6) -> None:
        super().__init__()
        torch.manual_seed(seed)
        inner = [nn.Conv2d(features, features, 3, padding=1) for _ in range(layers)]
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(stride),
            nn.Conv2d(3 * stride**2, features, 1),
            *(layer for conv in inner for layer in (conv, nn.LeakyReLU(0.2))),
            nn.Conv2d(features, 3 * stride**2, 1),
            nn.PixelShuffle(stride),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Change pictures whose sides are multiples of the stride."""
        return pictures + 0.02 * torch.tanh(self.layers(pictures))


class ColourRecognizer(nn.Module):
    """Takes the mean colour of a face for its identity."""

    def __init__(self) -> None:
        super().__init__()
        self.touch = Touch(stride=8, seed=1)

    def forward(self, crops: Tensor) -> Tensor:
        """Give embeddings (n, 3)."""
        return self.touch(crops)[..., 40:100, 30:82].mean((-2, -1))


class TintSwapper(nn.Module):
    """Gives a face the colour that the embedding is."""

    def __init__(self) -> None:
        super().__init__()
        self.touch = Touch(stride=4, seed=2)
        place = torch.linspace(-1, 1, 128)
        outside = (place[None] / 0.62) ** 2 + ((place[:, None] - 0.2) / 0.8) ** 2
        self.register_buffer("mask", ((1.2 - outside) / 0.4).clamp(0, 1)[None, None])

    def forward(self, crops: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Give crops of the same shape, and masks of a face's oval."""
        colour = embeddings / embeddings.amax(1, keepdim=True).clamp(min=1e-6)
        tinted = 0.3 * self.touch(crops) + 0.9 * _grey(crops) * colour[..., None, None]
        return tinted, self.mask.expand(len(crops), -1, -1, -1)


class Sharpener(nn.Module):
    """Makes edges stand out."""

    def __init__(self) -> None:
        super().__init__()
        self.touch = Touch(stride=8, seed=3)

    def forward(self, crops: Tensor) -> Tensor:
        """Give crops of the same shape."""
        blurred = nn.functional.avg_pool2d(crops, 9, stride=1, padding=4, count_include_pad=False)
        return self.touch(crops + 0.5 * (crops - blurred))


def save_portrait(path: Path) -> None:
    """Write the astronaut in green, as the face to put in."""
    from PIL import Image

    pixels = astronaut() * np.array([0.6, 1.0, 0.6])
    Image.fromarray(pixels.round().astype(np.uint8)).save(path)


def save_clip(path: Path, frames: int, height: int = 192, width: int = 256) -> None:
    """Write a clip that moves over the photograph, with a tone; at its end the face has left it."""
    import av

    photograph = astronaut()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "14"})
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(frames):
            part = number / frames
            top, left = round(60 * part), round(100 + 60 * np.sin(6 * part))
            if part >= 0.8:
                top = 250
            picture = np.ascontiguousarray(photograph[top : top + height, left : left + width])
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        for start in range(0, 16000 * frames // 25, 1024):
            wave = 0.2 * np.sin(np.arange(start, start + 1024) * 0.15).astype(np.float32)
            tone = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 16000, start
            container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
