"""The storages of a module: where their bytes come from, and who looks at them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Hashable
from typing import cast

import torch
from torch import nn

from vramx.integrations.torch.internals.layout import has_version
from vramx.integrations.torch.memory import bytes_of, storage_range, view_like
from vramx.integrations.torch.tensors import each_once


def storage_key(tensor: torch.Tensor) -> Hashable:
    """Tell which storage a tensor lies in; None for one without bytes.

    Tensors made of the same memory by other libraries have one address and several storages; meta
    tensors have no address.
    """
    if tensor.is_meta:
        storage = tensor.untyped_storage()
        return ("meta", storage._cdata) if storage.nbytes() else None
    found = storage_range(tensor)
    return None if found is None else found[0]


def layout(tensor: torch.Tensor) -> Hashable:
    """Tell how a tensor looks at its storage."""
    return (tensor.dtype, tensor.storage_offset(), tensor.size(), tensor.stride())


def empty_twin(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Make an uninitialised tensor of the same shape, strides and type elsewhere."""
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)


def set_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """Give a tensor other bytes; its gradient goes to the same device."""
    grad, tensor.grad = tensor.grad, None
    tensor.data = data
    tensor.grad = None if grad is None else grad.to(data.device)


class Storage:
    """Bytes of a module that are moved as one: a storage, shared by tied weights and views.

    Parameters
    ----------
    tensor : torch.Tensor
        A tensor that lies in it.
    start : int
        The first byte of the tensor's storage that belongs to it.
    size : int, optional
        How many do; all from there on unless given.

    Attributes
    ----------
    tensors : list of torch.Tensor
        All of the module's tensors that lie in it, each once.
    home : torch.device
        Where its bytes are put back to.
    origin : object
        The same for all parts of one storage.
    start : int
        Where in that it begins.
    is_weight : bool
        Whether a parameter lies in it.
    """

    def __init__(self, tensor: torch.Tensor, start: int = 0, size: int | None = None) -> None:
        self.home = torch.device("cpu") if tensor.is_meta else tensor.device
        self.tensors: list[torch.Tensor] = []
        self.is_weight = False
        self.origin = object()
        self.start = start
        raw = bytes_of(tensor)
        self._raw = raw.narrow(0, start, raw.numel() - start if size is None else size)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self._raw.numel()

    def add(self, tensor: torch.Tensor, *, is_weight: bool) -> None:
        """Note that a tensor lies in it."""
        if not any(tensor is each for each in self.tensors):
            self.tensors.append(tensor)
        self.is_weight |= is_weight

    @property
    def counts_writes(self) -> bool:
        """Whether torch counts the in-place changes of all of its tensors."""
        return all(has_version(tensor) for tensor in self.tensors)

    def content(self) -> torch.Tensor:
        """Return its bytes on the CPU."""
        return self._raw.cpu()

    def view(self, tensor: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """View bytes in the storage's place as one of its tensors views them."""
        return view_like(tensor, raw, self.start)


def shared_storages(tensors: list[torch.Tensor]) -> dict[object, list[torch.Tensor]]:
    """Group tensors by the storage that they lie in, each once; those without bytes by None."""
    found: dict[object, list[torch.Tensor]] = {}
    for tensor in each_once(tensors):
        found.setdefault(storage_key(tensor), []).append(tensor)
    return found


#: What a part of a storage begins and ends at, so that its tensors are aligned as they were.
_ALIGNED = 64


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Tell where in its storage the bytes begin that a tensor uses, and how many there are."""
    count = 1
    if tensor.numel() > 0:
        count += sum((size - 1) * step for size, step in zip(tensor.size(), tensor.stride()))
    return int(tensor.storage_offset()) * tensor.itemsize, count * tensor.itemsize


def split(tensors: list[torch.Tensor]) -> list[tuple[int, int, list[torch.Tensor]]]:
    """Part tensors of one storage where their bytes do not overlap.

    Parameters
    ----------
    tensors : list of torch.Tensor
        Each once, all of one storage.

    Returns
    -------
    list of (int, int, list of torch.Tensor)
        Where a part begins, its bytes, and the tensors in it; the whole storage where its tensors
        cannot be parted.
    """
    total = tensors[0].untyped_storage().nbytes()
    parts: list[tuple[int, int, list[torch.Tensor]]] = []
    for tensor in sorted(tensors, key=_span):
        first, used = _span(tensor)
        start = first - first % _ALIGNED
        size = min(first + used, total) - start
        before, taken, held = parts[-1] if parts else (0, 0, [])
        if start < before + taken:
            parts[-1] = (before, max(taken, start + size - before), [*held, tensor])
        else:
            parts.append((start, size, [tensor]))
    return parts if len(parts) > 1 else [(0, total, tensors)]


class FilledStorage(Storage):
    """A storage whose bytes come from elsewhere, such as a file.

    Parameters
    ----------
    tensor : torch.Tensor
        A tensor that lies in it; it may be a meta tensor.
    copies : list of (torch.Tensor, torch.Tensor)
        What is to be copied: into tensors that look at the storage, from tensors of the same shape.
    keep_dtype : bool
        Whether it takes the sources' type, where it holds one tensor, instead of its own.
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        copies: list[tuple[torch.Tensor, torch.Tensor]],
        *,
        keep_dtype: bool,
    ) -> None:
        super().__init__(tensor)
        self._copies = copies
        self._keep_dtype = keep_dtype

    @property
    def _alone(self) -> torch.Tensor | None:
        """A meta tensor like the only one that looks at the storage, if there is only one."""
        target, source = self._copies[-1]
        if len({layout(each) for each in [*self.tensors, *(to for to, _ in self._copies)]}) > 1:
            return None
        dtype = source.dtype if self._keep_dtype else target.dtype
        made = torch.empty_like(target, device="meta", dtype=dtype)
        return made if made.stride() == target.stride() else None

    @property
    def nbytes(self) -> int:
        """Bytes that will be had."""
        alone = self._alone
        return super().nbytes if alone is None else alone.nbytes

    def content(self) -> torch.Tensor:
        """Return the sources' bytes as the storage is to hold them; in place if they are so."""
        alone = self._alone
        if alone is None:
            raw = torch.zeros_like(self._raw, device="cpu")
            if not self._raw.is_meta:
                raw.copy_(self._raw)
            for target, source in self._copies:
                view_like(target, raw).copy_(source)
            return raw
        source = self._copies[-1][1].detach()
        if source.dtype != alone.dtype or source.stride() != alone.stride() or source.is_conj():
            source = torch.empty_like(alone, device="cpu").copy_(source)
        return source.as_strided((alone.numel(),), (1,)).view(torch.uint8)

    def view(self, tensor: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """View bytes in the storage's place as one of its tensors views them."""
        alone = self._alone
        return view_like(tensor if alone is None else alone, raw)


class Placement:
    """Gives a module's tensors new bytes, and can take all of it back.

    A tensor keeps its identity, but for meta tensors, which cannot: new ones take their places.

    Parameters
    ----------
    module : torch.nn.Module
        The module.
    revocable : bool
        Whether what was there is kept until `settle`.
    """

    def __init__(self, module: nn.Module, *, revocable: bool) -> None:
        self._module = module
        self._undo = contextlib.ExitStack()
        self._revocable = revocable

    def put(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        """Give a tensor other bytes.

        Parameters
        ----------
        tensor : torch.Tensor
            One of the module's.
        data : torch.Tensor
            Of its shape.
        """
        if tensor.is_meta:
            self._replace(tensor, data)
            return
        if self._revocable:
            self._undo.callback(set_data, tensor, tensor.data)
        set_data(tensor, data)

    def _replace(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        made = data
        if isinstance(tensor, nn.Parameter):
            can = data.is_floating_point() or data.is_complex()
            made = nn.Parameter(data, requires_grad=tensor.requires_grad and can)
        made.__dict__.update(tensor.__dict__)
        for owner, name in self._slots[id(tensor)]:
            self._undo.callback(setattr, owner, name, tensor)
            setattr(owner, name, made)

    @functools.cached_property
    def _slots(self) -> dict[int, list[tuple[nn.Module, str]]]:
        """Where the module has its meta tensors, by `id`: none dies before `settle`."""
        found: dict[int, list[tuple[nn.Module, str]]] = {}
        for owner in self._module.modules():
            for tensors in (owner._parameters, owner._buffers):
                for name, tensor in cast("dict[str, torch.Tensor | None]", tensors).items():
                    if tensor is not None and tensor.is_meta:
                        found.setdefault(id(tensor), []).append((owner, name))
        return found

    def settle(self) -> None:
        """Let go of what was there before."""
        self._undo.pop_all()

    def revoke(self) -> None:
        """Put everything back as it was."""
        self._undo.close()
