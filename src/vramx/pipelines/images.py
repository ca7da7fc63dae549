"""Pictures of any common type as planes for a network, and back to the same type."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vramx.errors import ConfigError

#: How far beyond 0 and 1 floating point values may lie; they are clipped.
_SLACK = 1e-3
_COLOURS = {1: (1, False), 2: (1, True), 3: (3, False), 4: (3, True)}
_PIL_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "F")
_KEPT = ("icc_profile", "exif", "xmp", "dpi")


@dataclass(frozen=True)
class Home:
    """Where pictures are worked on: on the CPU those that are too large for another device.

    Attributes
    ----------
    device : torch.device
        The device.
    most : int
        The most pixels that a picture of bytes may have there; of others a quarter of that.
    """

    device: torch.device
    most: int

    def of(self, pixels: int, white: float = 255) -> torch.device:
        """Return where a picture of so many pixels is worked on."""
        takes = pixels if white == 255 else 4 * pixels
        return self.device if takes <= self.most else torch.device("cpu")


ON_CPU = Home(torch.device("cpu"), 0)


@dataclass
class Planes:
    """One or more pictures of one size, as float32.

    Attributes
    ----------
    colour : torch.Tensor
        Of shape ``(n, 1 or 3, height, width)``, from 0 to 1.
    alpha : torch.Tensor or None
        Of shape ``(n, 1, height, width)``.
    white : float
        What white is in what was given: 255, 65535 or 1.
    restore_steps : callable
        Makes what was given from what `steps` gives, ``(n, channels, height, width)``, on any
        device, alpha last.
    device : torch.device
        Where what was given lies.
    """

    colour: torch.Tensor
    alpha: torch.Tensor | None
    white: float
    restore_steps: Callable[[torch.Tensor], Any]
    device: torch.device

    def steps(self, values: torch.Tensor) -> torch.Tensor:
        """Return values from 0 to 1 in the steps that it has; bytes where they are bytes."""
        return _steps(values, self.white)

    def restore(self, values: torch.Tensor) -> Any:
        """Make what was given from values from 0 to 1, ``(n, channels, height, width)``."""
        return self.restore_steps(self.steps(values))


def is_picture(x: Any) -> bool:
    """Return whether something is a single picture, or a batch of them, of a type that is known."""
    return isinstance(x, (np.ndarray, np.generic, torch.Tensor)) or _is_pil(x)


def _is_pil(x: Any) -> bool:
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(x, pil.Image)


def to_planes(x: Any, home: Home = ON_CPU) -> Planes:
    """Take a picture apart.

    Parameters
    ----------
    x : PIL.Image.Image, numpy.ndarray or torch.Tensor
        As `vramx.super_resolution` documents.
    home : Home
        Where the planes are put.

    Returns
    -------
    Planes
        Its colour and alpha.

    Raises
    ------
    ConfigError
        If it is of a type, mode, shape or range that is not supported; it is named.
    """
    if _is_pil(x):
        return _from_pil(x, home)
    if isinstance(x, torch.Tensor):
        return _from_torch(x, home)
    if isinstance(x, np.ndarray):
        return _from_numpy(x, home)
    raise ConfigError(
        f"{type(x).__name__} is not a picture: give a PIL image, a numpy array, a torch tensor or "
        "an iterable of them"
    )


def _largest(dtype: object) -> float | None:
    """Return what white is in a dtype, or None if it holds no pictures."""
    known = {"uint8": 255.0, "uint16": 65535.0}
    name = str(dtype).removeprefix("torch.")
    return known.get(name, 1.0 if "float" in name else None)


def _divide(
    pixels: torch.Tensor,
    white: float,
    restore: Callable[[torch.Tensor], Any],
    given: str,
    device: torch.device = ON_CPU.device,
) -> Planes:
    """Divide ``(n, channels, height, width)`` into planes."""
    count, channels, height, width = pixels.shape
    if channels not in _COLOURS:
        raise ConfigError(
            f"{given} has {channels} channels: give 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 "
            "(RGB and alpha)"
        )
    if 0 in (count, height, width):
        raise ConfigError(f"{given} has no pixels")
    # By a number, cards multiply with its reciprocal: other bits than a processor's.
    planes = pixels.float() / torch.tensor(white, dtype=torch.float32, device=pixels.device)
    if white == 1:
        low, high = planes.min().item(), planes.max().item()
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise ConfigError(
                f"{given} has values from {low:g} to {high:g}; floating point pictures run from 0 "
                "to 1"
            )
        planes = planes.clamp(0, 1)
    colours, has_alpha = _COLOURS[channels]
    alpha = planes[:, colours:] if has_alpha else None
    return Planes(planes[:, :colours], alpha, white, restore, device)


def _steps(values: torch.Tensor, white: float) -> torch.Tensor:
    """Return values from 0 to 1 in the steps that a type has; bytes where they are bytes."""
    if white == 1:
        return values
    steps = (values * white).round_()
    return steps.to(torch.uint8) if white == 255 else steps


def _from_numpy(x: npt.NDArray[Any], home: Home) -> Planes:
    given = f"an array of shape {x.shape} and dtype {x.dtype}"
    white = _largest(x.dtype)
    if white is None:
        raise ConfigError(f"{given} is no picture: give uint8, uint16, or floats from 0 to 1")
    if x.ndim not in (2, 3):
        raise ConfigError(
            f"{given} is no picture: give (height, width) or (height, width, channels)"
        )
    flat = x.ndim == 2
    pixels = np.array(
        x[:, :, None] if flat else x, dtype=np.uint8 if white == 255 else np.float32, order="C"
    )

    def restore(result: torch.Tensor) -> npt.NDArray[Any]:
        turned = result[0].permute(1, 2, 0).contiguous().cpu().numpy()
        return (turned[:, :, 0] if flat else turned).astype(x.dtype, copy=False)

    placed = torch.from_numpy(pixels).to(home.of(x.shape[0] * x.shape[1], white))
    planes = placed.permute(2, 0, 1).contiguous()  # while it is bytes: a quarter of the work
    return _divide(planes[None], white, restore, given)


def _from_torch(x: torch.Tensor, home: Home) -> Planes:
    given = f"a tensor of shape {tuple(x.shape)} and dtype {x.dtype}"
    white = _largest(x.dtype)
    if white is None:
        raise ConfigError(f"{given} is no picture: give floats from 0 to 1, uint8 or uint16")
    if x.ndim not in (3, 4):
        raise ConfigError(
            f"{given} is no picture: give (channels, height, width) or "
            "(pictures, channels, height, width)"
        )
    single = x.ndim == 3

    def restore(result: torch.Tensor) -> torch.Tensor:
        pixels = result.to(x.device).to(x.dtype).contiguous()
        return pixels[0] if single else pixels

    pixels = x.detach().to(home.of(x.shape[-2:].numel(), white))
    return _divide(pixels[None] if single else pixels, white, restore, given, x.device)


def pil_to_array(image: Any) -> npt.NDArray[Any]:
    """Take the pixels of a PIL image as they lie: grey or RGB, with alpha where it has some.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode that has such pixels.

    Returns
    -------
    numpy.ndarray
        ``(height, width)`` or ``(height, width, channels)``; uint8, uint16 or float32.

    Raises
    ------
    ConfigError
        If it is of another mode.
    """
    if image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("L", "RGB") and "transparency" in image.info:
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode not in _PIL_MODES:
        raise ConfigError(
            f"a PIL image of mode {image.mode} cannot be taken: convert it to one of "
            f"{', '.join(_PIL_MODES)}"
        )
    pixels = np.asarray(image)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _from_pil(image: Any, home: Home) -> Planes:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    planes = _from_numpy(pil_to_array(image), home)
    kept = {key: image.info[key] for key in _KEPT if key in image.info}

    def restore(result: torch.Tensor) -> Any:
        made = Image.fromarray(planes.restore_steps(result))
        made.info.update(kept)
        return made

    return Planes(planes.colour, planes.alpha, planes.white, restore, planes.device)
