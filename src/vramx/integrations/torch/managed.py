"""A managed module: its bytes moved to a session's memory, its calls leased, and all put back."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from vramx import _core
from vramx.errors import ConfigError
from vramx.integrations.torch.digests import Digests
from vramx.integrations.torch.memory import as_bytes, storage_range, view_like
from vramx.integrations.torch.units import RootCall, Unit, leased_modules
from vramx.seeing.usage import ModuleStats, module_stats

if TYPE_CHECKING:
    from vramx.integrations.torch.bridge import TorchBridge

#: Bytes that are copied before their sources are let go.
_BATCH = 2**29

_owners: weakref.WeakKeyDictionary[nn.Module, TorchBridge] = weakref.WeakKeyDictionary()


def managing_session_of(module: nn.Module) -> TorchBridge | None:
    """Return the bridge of the session that manages a module, if one does."""
    return _owners.get(module)


def _refusal(tensor: torch.Tensor, device: torch.device) -> str | None:
    """Say why a tensor cannot be managed, or None."""
    if isinstance(tensor, UninitializedTensorMixin):
        return "has no shape yet: run the module once first"
    if tensor.is_meta:
        return "is a meta tensor without bytes: load or initialise the weights first"
    if tensor.layout != torch.strided:
        return f"has the layout {tensor.layout}; only strided tensors can be managed"
    if tensor.is_quantized or tensor.is_nested:
        return "is quantised or nested, which cannot be managed"
    if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
        return f"is a {type(tensor).__name__}; tensor subclasses cannot be managed"
    if tensor.device.type != "cpu" and tensor.device != device:
        return f"is on {tensor.device}; it must be on the CPU or on {device}"
    return None


class _Storage:
    """One storage of a module: shared by tied weights and views, moved as one."""

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw  # bytes, on the device the storage was found on
        self.home = raw.device
        self.tensors: list[torch.Tensor] = []
        self.is_weight = False


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    raw: Any = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    raw.set_(tensor.untyped_storage())
    return cast("torch.Tensor", raw)


def _batches(storages: list[_Storage]) -> Iterator[list[_Storage]]:
    """Take storages off a list, about `_BATCH` bytes at a time."""
    while storages:
        batch = [storages.pop(0)]
        size = batch[0].raw.numel()
        while storages and size + storages[0].raw.numel() <= _BATCH:
            size += storages[0].raw.numel()
            batch.append(storages.pop(0))
        yield batch


def _nothing(*_: Any) -> None:
    """Stand in for a hook in a copy of a managed module, which is not managed."""


def _return_nothing() -> Any:
    return _nothing


class _BeforeLoad:
    """Takes a module off the card before it is loaded: written in place, the host is faster."""

    def __init__(self, managed: ManagedModule) -> None:
        self._managed = managed

    def __call__(self, *_: Any) -> None:
        self._managed.evict()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _nothing

    def __reduce__(self) -> Any:
        return (_return_nothing, ())


class ManagedModule:
    """A module in a session's charge.

    Parameters
    ----------
    bridge : TorchBridge
        The session's torch side.
    module : torch.nn.Module
        The module.
    name : str
        How reports call it.

    Attributes
    ----------
    weights : set of int
        The addresses of the storages in memory for weights.

    Raises
    ------
    ConfigError
        If a tensor cannot be managed; nothing has changed.
    OutOfMemoryError
        If its memory cannot be had; nothing has changed.
    """

    def __init__(self, bridge: TorchBridge, module: nn.Module, name: str) -> None:
        self.module = module
        self.name = name
        self._bridge = bridge
        self._core = bridge.core
        self._homes: dict[int, torch.device] = {}
        self.weights: set[int] = set()
        self._groups: list[int] = []
        self._units: list[Unit] = []
        self._compiled: list[tuple[nn.Module, Any]] = []
        self._hook: Any = None
        self._versioned: list[torch.Tensor] = []
        self._versions = 0
        self._always_look = False
        self._digests: Digests | None = None
        self._everything = list(module.modules())
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._move_in()
                if bridge.keep_digests:
                    self._digests = Digests(dict(module.named_parameters()), bridge)
                self._lease_calls()
        except BaseException:
            self.put_back()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes in the session's charge."""
        return sum(end - start for start, end in self._spans())

    @property
    def units(self) -> int:
        """How many modules are leased."""
        return len(self._units)

    def usage(self) -> list[ModuleStats]:
        """Count what was done with the leased modules, in the order of registration."""
        return [
            module_stats(unit.name, unit.ranges, self._core.usage(unit.group))
            for unit in self._units
        ]

    def _spans(self) -> set[tuple[int, int]]:
        found = (storage_range(t) for t in self._tensors().values())
        return {(a, a + n) for a, n in (each for each in found if each) if a in self._homes}

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            **dict(self.module.named_parameters(remove_duplicate=False)),
            **dict(self.module.named_buffers(remove_duplicate=False)),
        }

    def _storages(self) -> list[_Storage]:
        """Collect the storages in order of registration, each once."""
        storages: dict[int, _Storage] = {}
        weights = {id(p) for p in self.module.parameters()}  # a scripted module's are plain tensors
        refused = []
        for name, tensor in self._tensors().items():
            refusal = _refusal(tensor, self._bridge.device)
            if refusal is not None:
                refused.append(f"{name} {refusal}")
                continue
            found = storage_range(tensor)
            if found is None:
                continue
            storage = storages.setdefault(found[0], _Storage(_bytes_of(tensor)))
            if not any(tensor is each for each in storage.tensors):
                storage.tensors.append(tensor)
            storage.is_weight |= id(tensor) in weights
        if refused:
            raise ConfigError(
                f"{self.name} cannot be managed: "
                + "; ".join(refused[:5])
                + (f"; and {len(refused) - 5} more" if len(refused) > 5 else "")
            )
        return list(storages.values())

    def _move_in(self) -> None:
        storages = self._storages()
        weights = [each for each in storages if each.is_weight]
        others = [each for each in storages if not each.is_weight]
        del storages
        self._move_in_batches(weights, _core.Use.WEIGHTS)
        self._move_in_batches(others, _core.Use.SCRATCH)
        for tensor in self._tensors().values():
            if tensor.numel() == 0 and tensor.device != self._bridge.device:
                tensor.data = tensor.data.to(self._bridge.device)

    def _move_in_batches(self, storages: list[_Storage], use: _core.Use) -> None:
        """Move batch by batch, so that the host holds little twice.

        Memory for the next batch is had while this one is copied: pinning clears pages with one
        thread of the system's, which takes longer than the copies do with many.
        """
        batches = _batches(storages)
        batch = next(batches, None)
        if batch is None:
            return
        with ThreadPoolExecutor(1) as ahead:

            def reserve(batch: list[_Storage]) -> Future[list[_core.Memory]]:
                sizes = [storage.raw.numel() for storage in batch]
                return ahead.submit(self._core.reserve, sizes, use)

            memories = reserve(batch)
            while batch is not None:
                present, mine = batch, memories.result()
                batch = next(batches, None)
                if batch is not None:
                    memories = reserve(batch)
                self._move_in_batch(present, mine)

    def _move_in_batch(self, batch: list[_Storage], memories: list[_core.Memory]) -> None:
        sources = [storage.raw.cpu() for storage in batch]
        self._core.store(
            [
                (memory.address, source.data_ptr(), memory.nbytes)
                for memory, source in zip(memories, sources)
            ]
        )
        for storage, memory in zip(batch, memories):
            raw = as_bytes(memory)
            self._homes[memory.address] = storage.home
            if storage.is_weight:
                self.weights.add(memory.address)
            for tensor in storage.tensors:
                grad, tensor.grad = tensor.grad, None
                tensor.data = view_like(tensor, raw)
                tensor.grad = None if grad is None else grad.to(self._bridge.device)

    def _lease_calls(self) -> None:
        names = {id(module): name for name, module in self.module.named_modules()}
        for module, tensors in leased_modules(self.module):
            found = [storage_range(tensor) for tensor in tensors]
            ranges = self._core.owned(sorted({each for each in found if each is not None}))
            if not ranges:
                continue
            name = ".".join(filter(None, (self.name, names[id(module)])))
            group = self._core.define(ranges, name)
            self._groups.append(group)
            unit = Unit(self._bridge, group, ranges, module, tensors, self, name)
            self._units.append(unit)
            self._replace_call(module, unit.call)
        self._core.guess(self._groups)
        self._versioned = [p for unit in self._units for p in unit.versioned]
        self._versions = _core.total_version(self._versioned)
        self._always_look = any(unit.always_written for unit in self._units)
        root = self.module
        inner = root.__dict__.get("_compiled_call_impl") or root._call_impl
        self._replace_call(root, RootCall(self._bridge, self._digests, inner, self))
        if not isinstance(root, torch.jit.ScriptModule):  # which takes no such hook
            self._hook = root.register_load_state_dict_pre_hook(_BeforeLoad(self))
        for module in self._everything:
            _owners[module] = self._bridge

    def _replace_call(self, module: nn.Module, call: Any) -> None:
        # Past __setattr__: a compiled module hands attributes on to the module it wraps.
        self._compiled.append((module, module.__dict__.get("_compiled_call_impl")))
        module.__dict__["_compiled_call_impl"] = call

    def note_writes(self) -> None:
        """Report parameters that were changed in place since the last look."""
        versions = _core.total_version(self._versioned)
        if versions == self._versions and not self._always_look:
            return
        self._versions = versions
        for unit in self._units:
            unit.note_writes()

    def evict(self) -> None:
        """Take everything off the card."""
        self.note_writes()
        self._core.evict([(start, end - start) for start, end in self._spans()])

    def forget_digests(self, ranges: list[tuple[int, int]]) -> None:
        """Accept the present bytes of written ranges; see `Digests`."""
        if self._digests is not None:
            self._digests.accept(ranges)

    def put_back(self) -> None:
        """Move everything back where it came from and restore the calls.

        Raises
        ------
        InUseError
            If a lease or a pin holds some of it; nothing has changed.
        """
        self.note_writes()
        by_address: dict[int, list[torch.Tensor]] = {}
        sizes: dict[int, int] = {}
        for tensor in self._tensors().values():
            found = storage_range(tensor)
            if found is not None and found[0] in self._homes:
                sizes[found[0]] = found[1]
                tensors = by_address.setdefault(found[0], [])
                if not any(tensor is each for each in tensors):
                    tensors.append(tensor)
        self._core.evict(list(sizes.items()))
        with torch.inference_mode(False), torch.no_grad():
            for address, tensors in by_address.items():
                raw = torch.empty(sizes[address], dtype=torch.uint8, device="cpu")
                self._core.load([(address, raw.data_ptr(), sizes[address])])
                raw = raw.to(self._homes[address])
                for tensor in tensors:
                    grad, tensor.grad = tensor.grad, None
                    tensor.data = view_like(tensor, raw)
                    tensor.grad = None if grad is None else grad.to(raw.device)
        while self._compiled:
            module, call = self._compiled.pop()
            if call is None:
                module.__dict__.pop("_compiled_call_impl", None)
            else:
                module.__dict__["_compiled_call_impl"] = call
        if self._hook is not None:
            self._hook.remove()
        if managing_session_of(self.module) is self._bridge:
            self._bridge.remember(self.usage())
        for group in self._groups:
            self._core.undefine(group)
        self._groups.clear()
        self._units.clear()
        for module in self._everything:
            _owners.pop(module, None)
