"""What torch keeps of a tensor: its storage, who else has that, and how often it was changed."""

from __future__ import annotations

from typing import Any

import torch

from vramx import _core

#: A shape of as many axes as a tensor has room for without allocating.
_MOST_AXES = (1, 1, 1, 1, 4)


def has_version(tensor: torch.Tensor) -> bool:
    """Tell whether torch counts a tensor's in-place changes: not so those of inference mode."""
    try:
        return tensor._version >= 0
    except RuntimeError:
        return False


def find_layout() -> bool:
    """Show the core where torch keeps what it else asks for one by one.

    Returns
    -------
    bool
        Whether it found that.
    """
    with torch.inference_mode(False), torch.no_grad():
        # A buffer of the program's: of those the storage keeps the address of the bytes once. With
        # fewer axes, what a tensor has room for is as earlier objects have left it.
        tensor = torch.frombuffer(bytearray(4), dtype=torch.uint8).view(_MOST_AXES)
        return _core.find_layout(tensor, tensor.view(_MOST_AXES), tensor.data)


_data_ptr: Any = torch._C.StorageBase.data_ptr  # type: ignore[attr-defined]


def storage_address(storage: torch.UntypedStorage) -> int:
    """Tell where a storage's bytes begin, past what watches for programs that ask."""
    address: int = _data_ptr(storage)
    return address


def _use_count(storage: torch.UntypedStorage) -> int:
    counted: int = torch._C._storage_Use_Count(storage._cdata)
    return counted


def _uncounted() -> int | None:
    """Tell how many uses a storage has beside those of tensors; None where that is not so."""
    try:
        tensor = torch.zeros(1, device="cpu")
        alone = _use_count(tensor.untyped_storage())
        alias = tensor.view(1)
        return alone - 1 if _use_count(alias.untyped_storage()) == alone + 1 else None
    except (AttributeError, TypeError, RuntimeError):
        return None


_UNCOUNTED = _uncounted()

#: Whether `tensors_on` tells.
COUNTS_USES = _UNCOUNTED is not None


def tensors_on(storage: torch.UntypedStorage) -> int:
    """Tell how many tensors look at a storage, in torch and in other libraries; 0 if unknown."""
    return 0 if _UNCOUNTED is None else _use_count(storage) - _UNCOUNTED


FOUND_LAYOUT = find_layout()
