"""Checkpoints of super-resolution and restoration networks, read by spandrel.

Spandrel tells the architecture from the weights. Its descriptors are what
`vramx.super_resolution` takes; those of face restoration take aligned faces, as
`vramx.pipelines.faces` cuts them out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any

from vramx.errors import ConfigError
from vramx.integrations.torch.loading import map_weights
from vramx.integrations.torch.naming import unwrapped
from vramx.integrations.torch.precision import in_dtype, prevalent, takes
from vramx.integrations.torchvision import mismatch


def load(path: str | os.PathLike[str]) -> Any:
    """Read a checkpoint and build its network, on the CPU.

    Parameters
    ----------
    path : str or path
        A safetensors file or a torch checkpoint, under whatever name.

    Returns
    -------
    spandrel.ImageModelDescriptor or spandrel.MaskedImageModelDescriptor
        The network as ``.model``, with what spandrel knows of it: ``.scale``, ``.purpose``,
        ``.size_requirements``. Weights of half precision stay so, and it computes in that, where
        spandrel says that the network can; otherwise in float32.

    Raises
    ------
    ConfigError
        If spandrel is not installed, or the file is not there, damaged, or of no architecture that
        it knows.
    """
    path = Path(path)
    weights = map_weights(path)
    try:
        import spandrel
    except Exception as error:  # torchvision's operations fail in ways of their own
        advice = _mismatch() or "pip install 'vramx[upscalers]'"
        raise ConfigError(
            f"{path}: which network a checkpoint is for is told by spandrel, which cannot be "
            f"imported ({error}): {advice}, or name the "
            "network by package.module:factory and give the file as its weights"
        ) from error
    try:
        named = {unwrapped(name): tensor for name, tensor in weights.items()}
        state = spandrel.canonicalize_state_dict(named)
        found = spandrel.ModelLoader(device="cpu").load_from_state_dict(state)
    except Exception as error:  # whatever it meets in weights of another network
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"{path} is not a checkpoint that spandrel can read: {type(error).__name__}"
            + (f": {reason[0]}" if reason else "")
        ) from error
    dtype = prevalent(weights.values())
    return in_dtype(found, dtype) if takes(found, dtype) else found


def _mismatch() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return mismatch(*map(importlib.metadata.version, ("torch", "torchvision")))
    return None
