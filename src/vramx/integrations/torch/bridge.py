"""What a session does with torch: one object between its core and the framework."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree
from torch.utils.dlpack import from_dlpack

from vramx import _core
from vramx.arrays import checked_bytes
from vramx.errors import ConfigError
from vramx.integrations.torch.allocator import route
from vramx.integrations.torch.caching import Cache
from vramx.integrations.torch.calls import Calls
from vramx.integrations.torch.components import components_of
from vramx.integrations.torch.internals.layout import FOUND_LAYOUT
from vramx.integrations.torch.internals.streams import present_stream
from vramx.integrations.torch.internals.watching import watch, watch_no_more
from vramx.integrations.torch.loading import incoming_for
from vramx.integrations.torch.managed import ManagedModule, managing_session_of, refuse
from vramx.integrations.torch.memory import as_bytes, storage_range
from vramx.integrations.torch.tensors import parts_of, tensors_of
from vramx.integrations.torch.touches import Touches
from vramx.seeing.usage import ModuleStats, added, module_stats
from vramx.units import format_size

_bridges: weakref.WeakSet[TorchBridge] = weakref.WeakSet()
_adding = threading.Lock()


def in_a_session(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor lies in the memory of an open or closed session."""
    found = storage_range(tensor)
    with _adding:
        bridges = [*_bridges]
    return found is not None and any(bridge.core.owned([found]) for bridge in bridges)


def _owned_tensors(core: _core.Core, args: Any, kwargs: Any) -> list[tuple[int, int]]:
    leaves = _pytree.tree_leaves((args, kwargs))
    found = [storage_range(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return core.owned([each for each in found if each is not None])


def _weakly(method: Any) -> Any:
    """Make a function of a method that does not keep its object."""
    found = weakref.WeakMethod(method)

    def call(*args: Any) -> None:
        if (alive := found()) is not None:
            alive(*args)

    return call


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
        self.context = _core.CallContext(
            core=core,
            stream=self.stream,
            activations=partial(_owned_tensors, core),
            scratch_grew=self.cache.scratch_grew,
            wrote=_weakly(self.wrote),
        )
        self.passes = 0
        #: How often something of a new name was put into a managed module.
        self.registered = 0
        #: Names and groups of leased modules that are gone.
        self.gone: list[tuple[str, int]] = []
        self._past_usage: dict[str, ModuleStats] = {}
        self._touches: Touches | None = None
        self._check = check
        if self.simulated or check:
            self._touches = Touches(
                core, self.stream, self._is_watched, _weakly(self.wrote), warn=check
            )
        self._managed: list[weakref.ref[ManagedModule]] = []
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

    @property
    def _modules(self) -> list[ManagedModule]:
        """The managed modules that the program has not let go of, in order."""
        return [managed for ref in self._managed if (managed := ref()) is not None]

    def _is_watched(self, address: int) -> bool:
        """Tell whether operations outside leases are to be seen: they fault, or a check asks."""
        if self.simulated and not self.core.host_address(address):
            return True
        return self._check and self._weight_at(address) is not None

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
        begun = self._modules
        try:
            if components is None:
                self._manage_one(module, name)
            else:
                for part, each in components.items():
                    self._manage_one(each, f"{name}.{part}")
        except BaseException:
            self._put_back([each for each in self._modules if each not in begun])
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
        ManagedModule(self, module, name, incoming)  # which adds itself

    def _manage_one(self, module: Any, name: str) -> None:
        self._check_free(module, name)
        ManagedModule(self, module, name)  # which adds itself

    def add(self, managed: ManagedModule) -> None:
        """Know of a module from now on, for as long as it lives."""
        if self.two_copies and not FOUND_LAYOUT and not self._managed:
            warnings.warn(
                f"torch {torch.__version__} does not keep storages where vramx looks, so weights "
                "lie in unified memory instead of mapped, which is slower; see vramx doctor",
                RuntimeWarning,
                stacklevel=6,
            )
        self._managed.append(weakref.ref(managed))
        watch(self)

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
        for place, tensor in tensors_of(module).items():
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
            managed.check_idle()
        for managed in found:
            managed.evict()  # refused while one of them is in use, before any is put back
        self._put_back(found)

    def finish(self) -> None:
        """Wait until the card has done what it was given."""
        if not self.simulated:
            torch.cuda.synchronize(self.device)

    def follow(self) -> None:
        """See what managed modules hold now, and what of them was changed in place or let go of."""
        self._bury()
        for managed in self._modules:
            managed.look()
        self.note_writes()

    def note_writes(self) -> None:
        """Report what was changed in place since the last look, before anything evicts it."""
        self.context.look_at_aliases()
        for managed in self._modules:
            managed.note_writes()

    def _look(self, root: Any) -> None:
        """Look at what is about to be called, and at what may leave the card for it."""
        if self.gone:
            self._bury()
        root.begin_pass()
        self.context.look_at_aliases()
        for ref in self._managed:
            if (managed := ref()) is not None:
                managed.note_writes_that_leave()

    def _bury(self) -> None:
        """Let go of what the core knows of modules that the program has let go of."""
        while self.gone:
            name, group = self.gone.pop()
            self.remember([module_stats(name, [], self.core.usage(group))])
            self.core.undefine(group)
        self._managed = [ref for ref in self._managed if ref() is not None]

    def wrote(self, ranges: list[tuple[int, int]]) -> None:
        """Note that the program wrote to weights where they are now."""
        self.core.written(ranges)
        self.forget_digests(ranges)

    def bytes_written(self, address: int) -> None:
        """Note that the program is about to write to the weights at an address."""
        if (found := self._weight_at(address)) is not None:
            self.wrote([found])

    def bytes_taken(self, address: int) -> None:
        """Note that the program has the address of weights, so that it may write there at any time.

        Under a lease it is a kernel's: it reads parameters, and may write to buffers.
        """
        if (found := self._weight_at(address)) is None:
            return
        if not self.core.leased([found]):
            self.core.expose(*found, True)
            return
        for managed in self._modules:
            managed.count_buffer_as_written(address)

    def new_name(self, module: nn.Module) -> None:
        """Note that something of a new name is put into a module."""
        if managing_session_of(module) is self:
            self.registered += 1

    def _weight_at(self, address: int) -> tuple[int, int] | None:
        places = (managed.places.weight_at(address) for managed in self._modules)
        return next((place for place in places if place is not None), None)

    def reported(self, ranges: list[tuple[int, int]]) -> None:
        """Take writes as reported by the program, which reports the next ones too."""
        for address, nbytes in self.core.owned(ranges):
            self.core.expose(address, nbytes, False)
        self.forget_digests(ranges)

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
            self._past_usage[each.name] = added(self._past_usage.get(each.name), each)

    def describe(self) -> list[str]:
        """Describe the managed modules, a line each, and what of them costs more than it need."""
        lines = [line for managed in self._modules for line in managed.describe()]
        weights = (found for managed in self._modules for found in managed.places.weights())
        if nbytes := sum(nbytes for start, nbytes in weights if self.core.exposed(start)):
            lines.append(
                f"{format_size(nbytes)} of weights are copied to the card anew at each use, since "
                "the program has their addresses: session.written(x) says that it reports writes"
            )
        return lines

    def close(self) -> None:
        """Put everything back, the last managed first."""
        self._put_back(self._modules)
        watch_no_more(self)
        self._bury()

    def _put_back(self, found: list[ManagedModule]) -> None:
        """Put modules back, the last managed first."""
        for managed in found:
            managed.check_idle()
        for managed in reversed(found):
            managed.put_back()
            self._managed = [ref for ref in self._managed if ref() is not managed]
