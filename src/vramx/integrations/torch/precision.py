"""In what floating point a network computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from vramx.errors import ConfigError

#: By the names that people use.
DTYPES = {
    "float": torch.float32,
    "float32": torch.float32,
    "half": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}
#: What a descriptor of spandrel's says of them.
_SUPPORTS = {torch.float16: "supports_half", torch.bfloat16: "supports_bfloat16"}

M = TypeVar("M")


def takes(model: Any, dtype: torch.dtype) -> bool:
    """Tell whether a network can compute in a dtype, as far as its descriptor says."""
    return bool(getattr(model, _SUPPORTS.get(dtype, ""), True))


def in_dtype(model: M, dtype: torch.dtype) -> M:
    """Let a network compute in another dtype.

    Parameters
    ----------
    model : torch.nn.Module or spandrel.ImageModelDescriptor
        Not managed yet.
    dtype : torch.dtype
        One of `DTYPES`.

    Returns
    -------
    same type
        The model, whose floating point weights are changed.

    Raises
    ------
    ConfigError
        If its descriptor says that it does not compute in that.
    """
    module: Any = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"a {type(model).__name__} has no weights that could be {_name(dtype)}: leave dtype out"
        )
    if not takes(model, dtype):
        known = ", ".join(
            _name(each) for each in dict.fromkeys(DTYPES.values()) if takes(model, each)
        )
        raise ConfigError(
            f"{type(module).__name__} does not compute in {_name(dtype)}, as spandrel says: "
            f"it does in {known}"
        )
    module.to(dtype=dtype)
    return model


def prevalent(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """Tell in which dtype most values of a file are; float32 where none is floating point."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if tensor.dtype in _SUPPORTS or tensor.dtype == torch.float32:
            counts[tensor.dtype] += tensor.numel()
    return max(counts, key=lambda each: counts[each], default=torch.float32)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
