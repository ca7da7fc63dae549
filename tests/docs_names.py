"""The names that blocks in the pages use without making them, and files beside them.

The pages speak of gigabytes and cards. Here a size in text means a thousandth of it, a session's
card is simulated, and torch's ``"cuda"`` is the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

import vramx.cards.watcher
import vramx.queue.line
from pipelines import stand_ins
from pipelines.clips import picture, write_clip
from pipelines.face_networks import (
    Brightener,
    MeanColour,
    Painter,
    PatchDetector,
    background,
    draw_face,
    portrait,
)
from pipelines.networks import enlarger
from vramx.session import cores, options, session
from vramx.units import parse_size

FRAMES = 6


class CudaIsTheCpu(TorchFunctionMode):
    """Torch's calls make and move tensors on the CPU where the text says ``"cuda"``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def moved(x: Any) -> Any:
            is_card = isinstance(x, (str, torch.device)) and str(x).startswith("cuda")
            return "cpu" if is_card else x

        return func(*map(moved, args), **{name: moved(x) for name, x in (kwargs or {}).items()})


def _a_thousandth(value: Any, name: str) -> int:
    return parse_size(value, name) // (1024 if isinstance(value, str) else 1)


def shrunk(text: str) -> str:
    """Make layers 32 times as narrow, which is a thousandth of their bytes."""
    return text.replace("4096", "128")


def simulate_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions and queues have a simulated card, and a thousandth of what is asked for."""
    for module in (session, options, vramx.cards.watcher, vramx.queue.line):
        monkeypatch.setattr(module, "parse_size", _a_thousandth)
    for module in (cores, vramx.queue.line):
        real = module.open_card

        def open_simulated(_: str, *rest: Any, real: Any = real, **options: Any) -> Any:
            return real("simulated", *rest, **options)

        monkeypatch.setattr(module, "open_card", open_simulated)


class Network(nn.Module):
    """Four layers of half a mebibyte in all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(192, 192) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class DiffusionPipeline:
    """As much of diffusers' as the pages use."""

    def __init__(self, **components: Any) -> None:
        self.components = components

    @classmethod
    def from_pretrained(cls, name: str, torch_dtype: torch.dtype) -> DiffusionPipeline:
        assert name
        assert torch_dtype.is_floating_point
        return cls(text_encoder=Network(), unet=Network(), vae=Network(), scheduler=object())

    @torch.no_grad()
    def __call__(self, prompt: str, num_inference_steps: int = 2) -> SimpleNamespace:
        assert prompt
        x = self.components["text_encoder"](torch.ones(1, 192))
        for _ in range(num_inference_steps):
            x = self.components["unet"](x)
        self.components["vae"](x)
        return SimpleNamespace(images=[Image.new("RGB", (8, 8))])


def _diffusers() -> ModuleType:
    module: Any = ModuleType("diffusers")
    module.DiffusionPipeline = DiffusionPipeline
    return module


def _clip_frame(number: int) -> np.ndarray[Any, Any]:
    return draw_face(background(), "green", 20, 20 + number)


def _small_frame(number: int) -> np.ndarray[Any, Any]:
    return picture(number, 24, 32)


def write_files(folder: Path) -> None:
    """Write the files that the pages name."""
    torch.manual_seed(0)
    save_file(Network().state_dict(), folder / "network.safetensors")
    torch.save(enlarger().state_dict(), folder / "upscaler.pth")
    Image.fromarray(background(24, 32)).save(folder / "small.png")
    Image.fromarray(background(24, 32)).save(folder / "small.jpg")
    Image.fromarray(portrait("red")).save(folder / "me.jpg", quality=95)
    Image.fromarray(_clip_frame(0)).save(folder / "group.jpg", quality=95)
    write_clip(folder / "small.mp4", FRAMES, audio=False, draw=_small_frame)
    write_clip(folder / "clip.mp4", FRAMES, audio=False, draw=_clip_frame)


def _described(_: dict[str, Any]) -> stand_ins.ImageModelDescriptor:
    return stand_ins.ImageModelDescriptor(enlarger())


def packages() -> dict[str, ModuleType]:
    """Packages that the pages import and that need not be installed."""
    return {"diffusers": _diffusers(), "spandrel": stand_ins.make_module(_described)}


def names() -> dict[str, Callable[[], Any]]:
    """The names that blocks use without making them, and what makes each."""
    torch.manual_seed(0)

    def open_session() -> vramx.Session:
        return vramx.oversubscribe(budget="1GiB")

    return {
        "Image": lambda: Image,
        "Network": lambda: Network,
        "batches": lambda: [torch.rand(2, 192) for _ in range(3)],
        "detector": PatchDetector,
        "enlarger": enlarger,
        "find_faces": lambda: lambda frame: frame,
        "frames": lambda: [torch.rand(1, 192) for _ in range(3)],
        "has_face": lambda: lambda frame: bool(frame.mean() > 0.5),
        "model": Network,
        "network": enlarger,
        "paths": lambda: [f"{number}.png" for number in range(3)],
        "picture": lambda: Image.open("small.png"),
        "read_pictures": lambda: lambda _, count: torch.rand(count, 192),
        "recognizer": MeanColour,
        "restorer": Brightener,
        "session": open_session,
        "show": lambda: lambda _: None,
        "swap_faces": lambda: lambda frame: frame,
        "swapper": Painter,
        "torch": lambda: torch,
        "vramx": lambda: vramx,
        "x": lambda: torch.rand(2, 192),
    }


def namespace_for(code: Any) -> dict[str, Any]:
    """Make the names that a block uses, and only those: some open a session."""
    makers = names()
    used = set(code.co_names)
    pending = [each for each in code.co_consts if hasattr(each, "co_names")]
    while pending:
        inner = pending.pop()
        used |= set(inner.co_names)
        pending += [each for each in inner.co_consts if hasattr(each, "co_names")]
    return {"__name__": "a_page", **{name: makers[name]() for name in used & set(makers)}}
