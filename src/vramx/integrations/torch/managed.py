"""A managed module: its bytes moved to a session's memory, its calls leased, and all put back."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from vramx import _core
from vramx.errors import ConfigError
from vramx.integrations.torch.digests import Digests
from vramx.integrations.torch.memory import as_bytes, storage_range, view_like
from vramx.integrations.torch.own_calls import compiled_call
from vramx.integrations.torch.storages import (
    Placement,
    Storage,
    empty_twin,
    set_data,
    storage_key,
    tensors_of,
)
from vramx.integrations.torch.units import RootCall, Unit, leased_modules
from vramx.integrations.torch.wholes import Whole, most_bytes, whole_modules
from vramx.seeing.usage import ModuleStats, module_stats

if TYPE_CHECKING:
    from vramx.integrations.torch.bridge import TorchBridge
    from vramx.integrations.torch.loading import Incoming

#: Bytes that are copied before their sources are let go.
_BATCH = 2**29

_owners: weakref.WeakKeyDictionary[nn.Module, TorchBridge] = weakref.WeakKeyDictionary()


def managing_session_of(module: nn.Module) -> TorchBridge | None:
    """Return the bridge of the session that manages a module, if one does."""
    return _owners.get(module)


def refuse(module: nn.Module, name: str, device: torch.device, *, meta: bool) -> None:
    """Refuse a module with tensors that cannot be managed.

    Parameters
    ----------
    module : torch.nn.Module
        The module.
    name : str
        How errors call it.
    device : torch.device
        The card as torch calls it.
    meta : bool
        Whether meta tensors are welcome, since their bytes come from elsewhere.

    Raises
    ------
    ConfigError
        Which names them.
    """
    refused = [
        f"{place} {refusal}"
        for place, tensor in tensors_of(module).items()
        if (refusal := _refusal(tensor, device, meta=meta)) is not None
    ]
    if refused:
        raise ConfigError(
            f"{name} cannot be managed: "
            + "; ".join(refused[:5])
            + (f"; and {len(refused) - 5} more" if len(refused) > 5 else "")
        )


def _refusal(tensor: torch.Tensor, device: torch.device, *, meta: bool) -> str | None:
    """Say why a tensor cannot be managed, or None."""
    if isinstance(tensor, UninitializedTensorMixin):
        return "has no shape yet: run the module once first"
    if tensor.is_meta and not meta:
        return "is a meta tensor without bytes: load or initialise the weights first"
    if tensor.layout != torch.strided:
        return f"has the layout {tensor.layout}; only strided tensors can be managed"
    if tensor.is_quantized or tensor.is_nested:
        return "is quantised or nested, which cannot be managed"
    if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
        return f"is a {type(tensor).__name__}; tensor subclasses cannot be managed"
    if tensor.device.type not in ("cpu", "meta") and tensor.device != device:
        return f"is on {tensor.device}; it must be on the CPU or on {device}"
    return None


def _batches(storages: list[Storage]) -> Iterator[list[Storage]]:
    """Take storages off a list, about `_BATCH` bytes at a time."""
    while storages:
        batch = [storages.pop(0)]
        size = batch[0].nbytes
        while storages and size + storages[0].nbytes <= _BATCH:
            size += storages[0].nbytes
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
    incoming : Incoming, optional
        Bytes to take in place of the module's own.

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

    def __init__(
        self,
        bridge: TorchBridge,
        module: nn.Module,
        name: str,
        incoming: Incoming | None = None,
    ) -> None:
        self.module = module
        self.name = name
        self._bridge = bridge
        self._core = bridge.core
        self._homes: dict[int, torch.device] = {}
        self.weights: set[int] = set()
        # The core writes to these until it points them back, though all tensors of them be gone.
        self._pointed: list[torch.UntypedStorage] = []
        self._groups: list[int] = []
        self._units: list[Unit] = []
        self._wholes: list[Whole] = []
        self._compiled: list[tuple[nn.Module, Any]] = []
        self._hook: Any = None
        self._written = _core.Versions([])
        self._lost = _core.Versions([])
        self._always_look = False
        self._digests: Digests | None = None
        self._everything = list(module.modules())
        refuse(module, name, bridge.device, meta=incoming is not None)
        placement = Placement(module, revocable=incoming is not None)
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._move_in(placement, incoming)
                if bridge.keep_digests:
                    self._digests = Digests(dict(module.named_parameters()), bridge)
                self._lease_calls()
        except BaseException:
            placement.revoke()
            self.put_back()
            raise
        placement.settle()

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
        rows = {
            unit.group: module_stats(unit.name, unit.ranges, self._core.usage(unit.group))
            for unit in self._units
        }
        for whole in self._wholes:
            usage = self._core.usage(whole.unit.group)
            stalled = usage.stall_seconds
            for part in whole.parts:
                rows[part.group] += ModuleStats(part.name, uses=usage.uses, stall_seconds=stalled)
                stalled = 0.0  # it waited before the first of them
        return list(rows.values())

    def _spans(self) -> set[tuple[int, int]]:
        found = (storage_range(t) for t in tensors_of(self.module).values())
        return {(a, a + n) for a, n in (each for each in found if each) if a in self._homes}

    def _storages(self, incoming: Incoming | None) -> list[Storage]:
        """Collect the storages in order of registration, each once."""
        storages: dict[Hashable, Storage] = {}
        weights = {id(p) for p in self.module.parameters()}  # a scripted module's are plain tensors
        for tensor in tensors_of(self.module).values():
            key = storage_key(tensor)
            if key is None:
                continue
            if key not in storages:
                storages[key] = Storage(tensor) if incoming is None else incoming.storage(tensor)
            storages[key].add(tensor, is_weight=id(tensor) in weights)
        return list(storages.values())

    def _by_use(self, incoming: Incoming | None) -> dict[_core.Use, list[Storage]]:
        by_use: dict[_core.Use, list[Storage]] = {_core.Use.WEIGHTS: [], _core.Use.SCRATCH: []}
        # Of weights with two copies it must be known which one was written last.
        may_differ = self._bridge.two_copies
        for storage in self._storages(incoming):
            is_weight = storage.is_weight and (storage.counts_writes or not may_differ)
            by_use[_core.Use.WEIGHTS if is_weight else _core.Use.SCRATCH].append(storage)
        return by_use

    def _move_in(self, placement: Placement, incoming: Incoming | None) -> None:
        for use, storages in self._by_use(incoming).items():
            self._move_in_batches(placement, storages, use)
        for tensor in tensors_of(self.module).values():
            if tensor.numel() == 0 and tensor.device != self._bridge.device:
                placement.put(tensor, empty_twin(tensor, self._bridge.device))

    def _move_in_batches(
        self, placement: Placement, storages: list[Storage], use: _core.Use
    ) -> None:
        """Move batch by batch, so that the host holds little twice.

        Memory for the next batch is had while this one is copied: pinning takes the system longer
        than the copies do.
        """
        batches = _batches(storages)
        batch = next(batches, None)
        if batch is None:
            return
        with ThreadPoolExecutor(1) as ahead:

            def reserve(batch: list[Storage]) -> Future[list[_core.Memory]]:
                sizes = [storage.nbytes for storage in batch]
                return ahead.submit(self._core.reserve, sizes, use)

            memories = reserve(batch)
            while batch is not None:
                present, mine = batch, memories.result()
                batch = next(batches, None)
                if batch is not None:
                    memories = reserve(batch)
                self._move_in_batch(placement, present, mine, use)

    def _move_in_batch(
        self,
        placement: Placement,
        batch: list[Storage],
        memories: list[_core.Memory],
        use: _core.Use,
    ) -> None:
        sources = [storage.content() for storage in batch]
        self._core.store(
            [
                (memory.address, source.data_ptr(), memory.nbytes)
                for memory, source in zip(memories, sources)
            ]
        )
        for storage, memory in zip(batch, memories):
            raw = as_bytes(memory)
            self._homes[memory.address] = storage.home
            if use is _core.Use.WEIGHTS:
                self.weights.add(memory.address)
                pointed = raw.untyped_storage()
                self._core.point(pointed._cdata, memory.address, memory.nbytes)
                self._pointed.append(pointed)
            for tensor in storage.tensors:
                placement.put(tensor, storage.view(tensor, raw))

    def _lease_calls(self) -> None:
        names = {id(module): name for name, module in self.module.named_modules()}

        def lease(module: nn.Module, tensors: list[torch.Tensor], *, whole: bool) -> Unit | None:
            found = [storage_range(tensor) for tensor in tensors]
            ranges = self._core.owned(sorted({each for each in found if each is not None}))
            if not ranges:
                return None
            name = ".".join(filter(None, (self.name, names[id(module)])))
            group = self._core.define(ranges, name)
            self._groups.append(group)
            unit = Unit(self._bridge, group, ranges, module, tensors, self, name, whole=whole)
            self._replace_call(module, unit.call)
            return unit

        leased = list(leased_modules(self.module))
        units = {id(module): lease(module, own, whole=False) for module, own in leased}
        self._units = [unit for unit in units.values() if unit is not None]
        most = most_bytes(self._core.stats().budget)
        for module, parts in whole_modules(self.module, leased, most):
            within = [unit for part, _ in parts if (unit := units[id(part)]) is not None]
            whole = lease(module, [tensor for _, own in parts for tensor in own], whole=True)
            if whole is not None:
                self._wholes.append(Whole(whole, within))
        instead = {part.group: each.unit.group for each in self._wholes for part in each.parts}
        order = (instead.get(unit.group, unit.group) for unit in self._units)
        self._core.guess(list(dict.fromkeys(order)))
        self._written = _core.Versions([p for unit in self._units for p in unit.versioned])
        self._lost = _core.Versions(
            [p for unit in self._units if unit.call.loses_writes for p in unit.versioned]
        )
        self._always_look = any(unit.always_written for unit in self._units)
        root = self.module
        inner = compiled_call(root) or root._call_impl
        self._replace_call(root, RootCall(self._bridge, self._digests, inner, self))
        if not isinstance(root, torch.jit.ScriptModule):  # which has no such hooks
            self._hook = root.register_load_state_dict_pre_hook(_BeforeLoad(self))
        for module in self._everything:
            _owners[module] = self._bridge

    def _replace_call(self, module: nn.Module, call: Any) -> None:
        # Past __setattr__: a compiled module hands attributes on to the module it wraps.
        self._compiled.append((module, compiled_call(module)))
        module.__dict__["_compiled_call_impl"] = call

    def _restore_calls(self) -> None:
        while self._compiled:
            module, call = self._compiled.pop()
            if call is None:
                module.__dict__.pop("_compiled_call_impl", None)
            else:
                module.__dict__["_compiled_call_impl"] = call

    def note_writes(self) -> None:
        """Report parameters that were changed in place since the last look."""
        if self._written.changed() or self._always_look:
            for unit in self._units:
                unit.call.note_writes()

    def note_writes_that_leave(self) -> None:
        """Report those that would be lost where something leaves the card."""
        if self._lost.changed() or self._always_look:
            self.note_writes()

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
        for tensor in tensors_of(self.module).values():
            found = storage_range(tensor)
            if found is not None and found[0] in self._homes:
                sizes[found[0]] = found[1]
                tensors = by_address.setdefault(found[0], [])
                if not any(tensor is each for each in tensors):
                    tensors.append(tensor)
        self._core.evict(list(sizes.items()))
        self._bridge.finish()  # what the program wrote to host copies
        with torch.inference_mode(False), torch.no_grad():
            for address, tensors in by_address.items():
                raw = torch.empty(sizes[address], dtype=torch.uint8, device="cpu")
                self._core.load([(address, raw.data_ptr(), sizes[address])])
                raw = raw.to(self._homes[address])
                for tensor in tensors:
                    set_data(tensor, view_like(tensor, raw))
        for address in self._homes:
            self._core.unpoint(address, 1)
        self._pointed.clear()
        self._restore_calls()
        if self._hook is not None:
            self._hook.remove()
        if managing_session_of(self.module) is self._bridge:
            self._bridge.remember(self.usage())
        for group in self._groups:
            self._core.undefine(group)
        self._groups.clear()
        self._units.clear()
        self._wholes.clear()
        for module in self._everything:
            _owners.pop(module, None)
