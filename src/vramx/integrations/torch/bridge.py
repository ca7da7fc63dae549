"""What a session does with torch: one object between its core and the framework."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.dlpack import from_dlpack

from vramx import _core
from vramx.arrays import checked_bytes
from vramx.errors import ConfigError
from vramx.integrations.torch.allocator import route
from vramx.integrations.torch.caching import Cache
from vramx.integrations.torch.components import components_of
from vramx.integrations.torch.core import TorchCore
from vramx.integrations.torch.internals.layout import FOUND_LAYOUT
from vramx.integrations.torch.internals.watching import watch, watch_no_more
from vramx.integrations.torch.loading import Incoming, incoming_for
from vramx.integrations.torch.managed import ManagedModule, passes_of
from vramx.integrations.torch.memory import as_bytes, storage_range
from vramx.integrations.torch.module_memory import refuse
from vramx.integrations.torch.passes import Passes
from vramx.integrations.torch.tensors import parts_of, tensors_of
from vramx.integrations.torch.unleased import UnleasedAccesses
from vramx.seeing.usage import ModuleStats
from vramx.session.packing import Packing
from vramx.units import format_size

_bridges: weakref.WeakSet[TorchBridge] = weakref.WeakSet()
_adding = threading.Lock()


def in_a_session(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor lies in the memory of an open or closed session."""
    found = storage_range(tensor)
    with _adding:
        bridges = [*_bridges]
    return found is not None and any(bridge.core.owned([found]) for bridge in bridges)


class TorchBridge:
    """A session's torch side, over what `TorchCore` is made of."""

    def __init__(
        self, core: _core.Core, device: _core.Device, *, check: bool, packing: Packing
    ) -> None:
        self.core = core
        self._torch_core = TorchCore(core, device, packing, check=check)
        #: Returns the handle of the calling thread's current stream.
        self.stream = self._torch_core.stream
        self.cache = Cache(core, device.ordinal)
        self.passes: Passes[ManagedModule] = Passes(self._torch_core, self.cache)
        self._unleased: UnleasedAccesses | None = None
        sees_all = self._torch_core.computes_on_host or check
        if sees_all or not self._torch_core.keeps_raw:
            self._unleased = UnleasedAccesses(
                core, self.stream, self._is_watched, self.passes.wrote, warn=check
            )
            if not sees_all:
                self.passes.outside_mode = self._unleased.outside
        with _adding:
            _bridges.add(self)

    @property
    def unleased_accesses(self) -> int:
        """Uses of managed memory outside any lease, as far as the device shows them."""
        return self._unleased.count if self._unleased is not None else 0

    @contextlib.contextmanager
    def route(self) -> Iterator[None]:
        """Serve the calling thread's CUDA allocations, for a scope."""
        with contextlib.ExitStack() as scope:
            if self._unleased is not None:
                scope.enter_context(self._unleased)
            if not self._torch_core.computes_on_host:
                scope.enter_context(route(self.core, self._torch_core.ordinal))
            self.cache.watch()
            yield

    def _is_watched(self, address: int) -> bool:
        """Tell whether operations outside leases are to be seen: they fault, or a check asks."""
        if self._torch_core.computes_on_host and not self.core.host_address(address):
            return True
        if not self._torch_core.keeps_raw:
            return _core.weight_at(address) != 0
        return self._torch_core.check and self._weight_at(address) is not None

    def explain(self, error: BaseException) -> None:
        """Add vramx's figures to torch's own out-of-memory error."""
        failure = _core.last_failure()
        if failure and isinstance(error, torch.OutOfMemoryError) and sys.version_info >= (3, 11):
            error.add_note(f"vramx: {failure}")

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype | None) -> torch.Tensor:
        """Make an uninitialised tensor in the core's memory."""
        dtype = dtype or torch.get_default_dtype()
        nbytes = checked_bytes(shape, dtype.itemsize)
        if nbytes == 0:
            return torch.empty(shape, dtype=dtype, device=self._torch_core.device)
        memory = self.core.empty(nbytes, self.stream())
        return as_bytes(memory)[:nbytes].view(dtype).view(shape)

    def ranges(self, x: Any) -> list[tuple[int, int]] | None:
        """Tell where the bytes of a tensor, module, pipeline or DLPack array lie; else None."""
        if isinstance(x, torch.Tensor):
            parts = (storage_range(part) for _, part in parts_of(x))
            return [each for each in parts if each is not None]
        if isinstance(x, nn.Module):
            found = (storage_range(each) for each in tensors_of(x).values())
            ranges = [*dict.fromkeys(each for each in found if each is not None)]
            # What of a managed module could not be taken in is no concern of a session's.
            return self.core.owned(ranges) if self.manages(x) else ranges
        if (components := components_of(x)) is not None:
            return [each for part in components.values() for each in self.ranges(part) or []]
        if not isinstance(x, type) and hasattr(type(x), "__dlpack__"):
            try:
                return self.ranges(from_dlpack(x))
            except (BufferError, RuntimeError) as error:
                raise ConfigError(
                    f"{type(x).__name__} does not give its memory by DLPack: {error}"
                ) from error
        return None

    def manage(self, module: Any, name: str | None) -> None:
        """Take charge of a module or a pipeline's modules; see `Session.manage`."""
        name = name or type(module).__name__
        components = components_of(module)
        begun = self.passes.modules
        try:
            if components is None:
                self._manage_one(module, name)
            else:
                for part, each in components.items():
                    self._manage_one(each, f"{name}.{part}")
        except BaseException:
            self._put_back([each for each in self.passes.modules if each not in begun])
            raise

    def load(
        self,
        module: Any,
        path: str | os.PathLike[str],
        name: str | None,
        *,
        strict: bool,
        dtype: str,
    ) -> None:
        """Take charge of a module with a file's weights; see `Session.load`."""
        name = name or type(module).__name__
        self._check_free(module, name)
        refuse(module, name, self._torch_core.device, meta=True)
        incoming = incoming_for(module, path, name, strict=strict, dtype=dtype)
        self._take_charge(module, name, incoming)

    def _manage_one(self, module: Any, name: str) -> None:
        self._check_free(module, name)
        refuse(module, name, self._torch_core.device, meta=False)
        self._take_charge(module, name, None)

    def _take_charge(self, module: nn.Module, name: str, incoming: Incoming | None) -> None:
        """Manage a module that was checked."""
        if self._torch_core.points_elsewhere and not FOUND_LAYOUT and not self.passes.modules:
            warnings.warn(
                f"torch {torch.__version__} does not keep storages where vramx looks, so weights "
                "lie in unified memory instead of mapped, which is slower; see vramx doctor",
                RuntimeWarning,
                stacklevel=5,
            )
        watch(self)
        ManagedModule(self.passes, module, name, incoming)  # which adds itself
        self._torch_core.packing.pack([each.memory.places for each in self.passes.modules])

    def _check_free(self, module: Any, name: str) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"{type(module).__name__} is not a torch.nn.Module, nor a pipeline with modules "
                "among its components"
            )
        for each in module.modules():
            if passes_of(each) is not None:
                raise ConfigError(
                    f"{type(each).__name__} in {type(module).__name__} is managed already, by this "
                    "session or another; unmanage it there first"
                )
            if getattr(each, "_hf_hook", None) is not None:
                raise ConfigError(
                    f"{type(each).__name__} in {name} has a hook of accelerate, which moves its "
                    "weights by itself; remove it first: pipe.remove_all_hooks(), or "
                    "accelerate.hooks.remove_hook_from_module(model, recurse=True)"
                )
        for place, tensor in tensors_of(module).items():
            if in_a_session(tensor):
                raise ConfigError(
                    f"{place} lies in the memory of a session already: manage modules that share "
                    "weights as one, for example in a ModuleList, and copy out what session.empty "
                    "made"
                )

    def manages(self, module: Any) -> bool:
        """Tell whether it has charge of a module; see `Session.manages`."""
        return isinstance(module, nn.Module) and passes_of(module) is self.passes

    def unmanage(self, module: Any) -> None:
        """Put a module or a pipeline's modules back; see `Session.unmanage`."""
        components = components_of(module)
        parts = [module] if components is None else list(components.values())
        found = [each for each in self.passes.modules if any(each.module is part for part in parts)]
        if len(found) < len(parts):
            raise ConfigError(
                f"{type(module).__name__} is not a module that this session manages, nor a "
                "pipeline of such"
            )
        for managed in found:
            managed.check_idle()
        for managed in found:
            managed.evict()  # refused while one of them is in use, before any is put back
        self._put_back(found)

    def budget_changed(self) -> None:
        """Follow a budget that was set, by any thread."""
        self.cache.watch()
        for managed in self.passes.modules:
            managed.budget_changed = True

    def follow(self) -> None:
        """See what managed modules hold now, and what of them was changed in place or let go of."""
        self.passes.bury()
        for managed in self.passes.modules:
            managed.look()
        self.passes.note_writes()

    def bytes_written(self, address: int) -> None:
        """Note that the program is about to write to the weights at an address."""
        if (found := self._weight_at(address)) is not None:
            self.passes.wrote([found])

    def bytes_taken(self, address: int) -> None:
        """Note that the program has the address of weights, so that it may write there at any time.

        Under a lease it is a kernel's: it reads parameters, and may write to buffers.

        Raises
        ------
        ConfigError
            If the host has packed copies alone, and no lease holds them: there are no bytes to use.
        """
        if (found := self._weight_at(address)) is None:
            return
        leased = self.core.leased([found])
        if not (leased or self._torch_core.keeps_raw):
            raise ConfigError(
                'with host="packed" weights have no address outside their modules\' calls: take it '
                "inside `with session.pin(x)`, or copy the weight first: x.clone()"
            )
        if not leased:
            self.core.expose(*found, True)
            return
        for managed in self.passes.modules:
            managed.count_buffer_as_written(address)

    def storage_named(self, address: int) -> None:
        """Note that the program has the address of a storage of weights.

        As `bytes_taken`, but where they lie nowhere it serves to tell storages apart.
        """
        if self._torch_core.keeps_raw or self.core.leased([(address, 1)]):
            self.bytes_taken(address)

    def new_name(self, module: nn.Module) -> None:
        """Note that something of a new name is put into a module."""
        if passes_of(module) is self.passes:
            self.passes.registered += 1

    def _weight_at(self, address: int) -> tuple[int, int] | None:
        places = (managed.memory.places.weight_at(address) for managed in self.passes.modules)
        return next((place for place in places if place is not None), None)

    def reported(self, ranges: list[tuple[int, int]]) -> None:
        """Take writes as reported by the program, which reports the next ones too."""
        for address, nbytes in self.core.owned(ranges):
            self.core.expose(address, nbytes, False)
        self.passes.forget_digests(ranges)

    def usage(self) -> list[ModuleStats]:
        """Count by leased module: the managed ones, then those of old, by name."""
        present = [row for managed in self.passes.modules for row in managed.usage()]
        return [*present, *self.passes.history.usage()]

    def describe(self) -> list[str]:
        """Describe the managed modules, a line each, and what of them costs more than it need."""
        lines = [line for managed in self.passes.modules for line in managed.describe()]
        weights = (
            found for managed in self.passes.modules for found in managed.memory.places.weights()
        )
        if nbytes := sum(nbytes for start, nbytes in weights if self.core.exposed(start)):
            lines.append(
                f"{format_size(nbytes)} of weights are copied to the card anew at each use, since "
                "the program has their addresses: session.written(x) says that it reports writes"
            )
        return lines

    def close(self) -> None:
        """Put everything back, the last managed first."""
        self._put_back(self.passes.modules)
        watch_no_more(self)
        self.passes.bury()

    def _put_back(self, found: list[ManagedModule]) -> None:
        """Put modules back, the last managed first."""
        for managed in found:
            managed.check_idle()
        for managed in reversed(found):
            managed.put_back()
            self.passes.remove(managed)
