"""How often torch says that a tensor was changed in place."""

from __future__ import annotations

import torch

from vramx import _core


def has_version(tensor: torch.Tensor) -> bool:
    """Tell whether torch counts a tensor's in-place changes: not so those of inference mode."""
    try:
        return tensor._version >= 0
    except RuntimeError:
        return False


def show_place() -> bool:
    """Show the core where torch keeps the counts, which it else asks for one by one.

    Returns
    -------
    bool
        Whether it found them.
    """
    with torch.inference_mode(False), torch.no_grad():
        tensor = torch.zeros(1, device="cpu")
        return _core.find_versions(tensor, tensor.view(1), tensor.data)


show_place()
