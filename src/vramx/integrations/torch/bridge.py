"""What a session does with torch: one object between its core and the framework."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.dlpack import from_dlpack

from vramx import _core
from vramx.arrays import checked_bytes
from vramx.errors import ConfigError
from vramx.integrations.torch.allocator import route
from vramx.integrations.torch.caching import Cache
from vramx.integrations.torch.calls import Calls
from vramx.integrations.torch.components import components_of
from vramx.integrations.torch.loading import incoming_for
from vramx.integrations.torch.managed import ManagedModule, managing_session_of, refuse
from vramx.integrations.torch.memory import as_bytes, storage_range
from vramx.integrations.torch.streams import present_stream
from vramx.integrations.torch.touches import Touches
from vramx.seeing.usage import ModuleStats
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
    """A session's torch side.

    Parameters
    ----------
    core : _core.Core
        The session's core.
    device : _core.Device
        Its card.
    check : bool
        Whether writes that were not reported are looked for.
    """

    def __init__(self, core: _core.Core, device: _core.Device, *, check: bool) -> None:
        self.core = core
        self.simulated = device.kind == "simulated"
        self.ordinal = device.ordinal
        self.device = torch.device("cpu") if self.simulated else torch.device("cuda", self.ordinal)
        #: Whether weights on the card have a host copy that the program may read and write too.
        self.two_copies = device.host_addresses
        # A simulated card of one address compares the copies of what it drops.
        self.keep_digests = check and (self.two_copies or not self.simulated)
        #: Returns the handle of the calling thread's current stream.
        self.stream = present_stream(self.device)
        self.cache = Cache(core, device.ordinal)
        self.calls = Calls(self._look, self.cache.begin_long_turn)
        self.nesting = _core.Nesting()
        self.passes = 0
        self._past_usage: dict[str, ModuleStats] = {}
        self._touches: Touches | None = None
        self._check = check
        if self.simulated or check:
            self._touches = Touches(core, self.stream, self._is_watched, warn=check)
        self._modules: list[ManagedModule] = []
        with _adding:
            _bridges.add(self)

    @property
    def unleased_touches(self) -> int:
        """Uses of managed memory outside any lease, as far as the device shows them."""
        return self._touches.count if self._touches is not None else 0

    @contextlib.contextmanager
    def route(self) -> Iterator[None]:
        """Serve the calling thread's CUDA allocations, for a scope."""
        with contextlib.ExitStack() as scope:
            if self._touches is not None:
                scope.enter_context(self._touches)
            if not self.simulated:
                scope.enter_context(route(self.core, self.ordinal))
            self.cache.watch()
            yield

    def _is_watched(self, address: int) -> bool:
        """Tell whether operations outside leases are to be seen: they fault, or a check asks."""
        if self.simulated and not self.core.host_address(address):
            return True
        return self._check and any(address in managed.weights for managed in self._modules)

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
            return torch.empty(shape, dtype=dtype, device=self.device)
        memory = self.core.empty(nbytes, self.stream())
        return as_bytes(memory)[:nbytes].view(dtype).view(shape)

    def ranges(self, x: Any) -> list[tuple[int, int]] | None:
        """Tell where the bytes of a tensor, module, pipeline or DLPack array lie; else None."""
        if isinstance(x, torch.Tensor):
            found = storage_range(x)
            return [] if found is None else [found]
        if isinstance(x, nn.Module):
            tensors = [*x.parameters(), *x.buffers()]
            return [each for t in tensors if (each := storage_range(t)) is not None]
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
        begun = len(self._modules)
        try:
            if components is None:
                self._manage_one(module, name)
            else:
                for part, each in components.items():
                    self._manage_one(each, f"{name}.{part}")
        except BaseException:
            self._put_back_from(begun)
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
        refuse(module, name, self.device, meta=True)
        incoming = incoming_for(module, path, name, strict=strict, dtype=dtype)
        self._modules.append(ManagedModule(self, module, name, incoming))

    def _manage_one(self, module: Any, name: str) -> None:
        self._check_free(module, name)
        self._modules.append(ManagedModule(self, module, name))

    def _check_free(self, module: Any, name: str) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"{type(module).__name__} is not a torch.nn.Module, nor a pipeline with modules "
                "among its components"
            )
        for each in module.modules():
            if managing_session_of(each) is not None:
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
        for place, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if in_a_session(tensor):
                raise ConfigError(
                    f"{place} lies in the memory of a session already: manage modules that share "
                    "weights as one, for example in a ModuleList, and copy out what session.empty "
                    "made"
                )

    def manages(self, module: Any) -> bool:
        """Tell whether it has charge of a module; see `Session.manages`."""
        return isinstance(module, nn.Module) and managing_session_of(module) is self

    def unmanage(self, module: Any) -> None:
        """Put a module or a pipeline's modules back; see `Session.unmanage`."""
        components = components_of(module)
        parts = [module] if components is None else list(components.values())
        found = [each for each in self._modules if any(each.module is part for part in parts)]
        if len(found) < len(parts):
            raise ConfigError(
                f"{type(module).__name__} is not a module that this session manages, nor a "
                "pipeline of such"
            )
        for managed in found:
            managed.evict()  # refused while one of them is in use, before any is put back
        for managed in found:
            managed.put_back()
            self._modules.remove(managed)

    def finish(self) -> None:
        """Wait until the card has done what it was given."""
        if not self.simulated:
            torch.cuda.synchronize(self.device)

    def note_writes(self) -> None:
        """Report what was changed in place since the last look, before anything evicts it."""
        for managed in self._modules:
            managed.note_writes()

    def _look(self) -> None:
        for managed in self._modules:
            managed.note_writes_that_leave()

    def forget_digests(self, ranges: list[tuple[int, int]]) -> None:
        """Take reported writes out of what checking mode compares."""
        for managed in self._modules:
            managed.forget_digests(ranges)

    def usage(self) -> list[ModuleStats]:
        """Count by leased module: the managed ones, then those of old, by name."""
        present = [row for managed in self._modules for row in managed.usage()]
        return [*present, *self._past_usage.values()]

    def remember(self, usage: list[ModuleStats]) -> None:
        """Keep the counts of modules that are managed no more."""
        for each in usage:
            before = self._past_usage.get(each.name)
            counted = each if before is None else before + each
            self._past_usage[each.name] = replace(counted, nbytes=each.nbytes, blocks=each.blocks)

    def describe(self) -> list[str]:
        """Describe the managed modules, a line each."""
        return [
            f"{managed.name}: {format_size(managed.nbytes)} in {managed.units} units"
            for managed in self._modules
        ]

    def close(self) -> None:
        """Put everything back, the last managed first."""
        self._put_back_from(0)

    def _put_back_from(self, first: int) -> None:
        while len(self._modules) > first:
            self._modules[-1].put_back()
            self._modules.pop()
