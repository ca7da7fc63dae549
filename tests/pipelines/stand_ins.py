"""As much of spandrel's interface as vramx uses, after its documentation and published source."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


class ModelTiling(enum.Enum):
    SUPPORTED = 1
    DISCOURAGED = 2
    INTERNAL = 3


@dataclass
class SizeRequirements:
    minimum: int = 0
    multiple_of: int = 1
    square: bool = False


class ImageModelDescriptor:
    """Takes one picture at a time, pads it to its size requirements, and notes what it saw."""

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: int = 2,
        channels: tuple[int, int] = (3, 3),
        purpose: str = "SR",
        size_requirements: SizeRequirements | None = None,
        tiling: ModelTiling = ModelTiling.SUPPORTED,
        supports_half: bool = True,
    ) -> None:
        self.model = model
        self.scale = scale
        self.input_channels, self.output_channels = channels
        self.purpose = purpose
        self.size_requirements = size_requirements or SizeRequirements()
        self.tiling = tiling
        self.supports_half = supports_half
        self.supports_bfloat16 = True
        self.seen: list[tuple[int, ...]] = []

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[0] == 1, "documented for one picture"
        self.seen.append(tuple(image.shape[-2:]))
        height, width = image.shape[-2:]
        needed = self.size_requirements
        sides = [max(side, needed.minimum) for side in (height, width)]
        sides = [-(-side // needed.multiple_of) * needed.multiple_of for side in sides]
        fill = (0, sides[1] - width, 0, sides[0] - height)
        made = self.model(nn.functional.pad(image, fill, mode="replicate")).clamp_(0, 1)
        return made[..., : height * self.scale, : width * self.scale]


class UnsupportedModelError(Exception):
    pass


def make_module(build: Callable[[dict[str, Any]], ImageModelDescriptor]) -> types.ModuleType:
    """A module named spandrel whose loader builds one kind of network."""
    module: Any = types.ModuleType("spandrel")

    class ModelLoader:
        def __init__(self, device: Any = None) -> None:
            self.device = torch.device(device or "cpu")

        def load_from_state_dict(self, state: dict[str, Any]) -> ImageModelDescriptor:
            try:
                return build(state)
            except (KeyError, RuntimeError) as error:
                raise UnsupportedModelError("no architecture fits") from error

    def canonicalize_state_dict(state: dict[str, Any]) -> dict[str, Any]:
        if all(name.startswith("module.") for name in state):
            return {name.removeprefix("module."): tensor for name, tensor in state.items()}
        return state

    module.ModelLoader = ModelLoader
    module.canonicalize_state_dict = canonicalize_state_dict
    module.ImageModelDescriptor = ImageModelDescriptor
    module.ModelTiling = ModelTiling
    module.UnsupportedModelError = UnsupportedModelError
    return module
