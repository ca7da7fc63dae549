"""Between tensors and addresses."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.dlpack import from_dlpack

from vramx import _core
from vramx.integrations.torch.internals.layout import storage_address


def as_bytes(memory: _core.Memory) -> torch.Tensor:
    """View a piece of a core's memory as a tensor that keeps it.

    Parameters
    ----------
    memory : _core.Memory
        The memory.

    Returns
    -------
    torch.Tensor
        Of dtype uint8 and shape ``(memory.nbytes,)``, on ``cpu`` for the simulated card.
    """
    return from_dlpack(memory)


def storage_range(tensor: torch.Tensor) -> tuple[int, int] | None:
    """Tell where a tensor's storage lies.

    Parameters
    ----------
    tensor : torch.Tensor
        Any tensor with plain storage.

    Returns
    -------
    (int, int) or None
        Address and bytes; None for no bytes. The address is the session's own where the storage
        points at a host copy, see ``csrc/core/pointers.hpp``.
    """
    try:
        storage = tensor.untyped_storage()
        address, nbytes = storage_address(storage), storage.nbytes()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, meta and lazy ones have none
        return None
    return (_core.card_address(address), nbytes) if address and nbytes else None


def view_like(tensor: torch.Tensor, raw: torch.Tensor, start: int = 0) -> torch.Tensor:
    """View bytes as another tensor views its storage.

    Parameters
    ----------
    tensor : torch.Tensor
        Whose dtype, offset, shape and strides to take.
    raw : torch.Tensor
        Bytes in place of its storage, alone in their own.
    start : int
        Which byte of the tensor's storage the first of them stands for: a multiple of its dtype's
        size.

    Returns
    -------
    torch.Tensor
        A tensor on the bytes.
    """
    # An inference tensor with the data of another kind is neither: its views fail on a card.
    with torch.inference_mode(tensor.is_inference()):
        made: Any = torch.empty(0, dtype=tensor.dtype, device=raw.device)
        offset = tensor.storage_offset() - start // tensor.itemsize
        made.set_(raw.untyped_storage(), offset, tensor.size(), tensor.stride())
    return cast("torch.Tensor", made)


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor's whole storage.

    Parameters
    ----------
    tensor : torch.Tensor
        Any tensor with plain storage.

    Returns
    -------
    torch.Tensor
        Of dtype uint8, on the same device.
    """
    raw: Any = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    raw.set_(tensor.untyped_storage())
    return cast("torch.Tensor", raw)
