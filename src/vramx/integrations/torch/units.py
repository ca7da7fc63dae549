"""Which modules are leased as one, and the call that leases them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from vramx import _core
from vramx.integrations.torch.fusing import least_budget
from vramx.integrations.torch.internals.layout import has_version
from vramx.integrations.torch.internals.own_calls import (
    compiled_before,
    own_call,
    present_call,
    restore_call,
)
from vramx.integrations.torch.memory import storage_range
from vramx.integrations.torch.module_memory import ModuleMemory
from vramx.integrations.torch.passes import Passes, Root
from vramx.integrations.torch.tensors import each_once, own_tensors

# These use their children's weights without calling the children.
_USE_CHILDREN_UNCALLED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def _is_compiled(module: nn.Module) -> bool:
    # Importing it takes seconds; while another thread does, its classes are not there yet.
    wrapper = getattr(sys.modules.get("torch._dynamo"), "OptimizedModule", ())
    return isinstance(module, wrapper) or compiled_before(module) is not None


def _uses_children_uncalled(module: nn.Module) -> bool:
    """Tell whether a module uses its children's weights by other ways than their calls."""
    if isinstance(module, torch.fx.GraphModule):
        return any(node.op == "get_attr" and "." in str(node.target) for node in module.graph.nodes)
    return isinstance(module, (*_USE_CHILDREN_UNCALLED, torch.jit.ScriptModule))


def is_leased_with_parts(module: nn.Module) -> bool:
    """Tell whether a module uses its parts' weights beside their calls."""
    return _is_compiled(module) or _uses_children_uncalled(module)


def _dicts_of(modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """List what modules keep tensors in, as far as there is something."""
    return [
        held
        for each in modules
        if not isinstance(each, torch.jit.ScriptModule)  # which keeps no dictionaries
        for held in (each._parameters, each._buffers)
        if held
    ]


def leased_modules(root: nn.Module) -> Iterator[tuple[nn.Module, list[torch.Tensor]]]:
    """Find the modules to lease one by one, in registration order.

    A module that owns tensors is leased with just those; a compiled module, or one that uses its
    children's weights without calling them, such as a TorchScript or torch.export program, with
    everything below it.

    Parameters
    ----------
    root : torch.nn.Module
        Where to look.

    Yields
    ------
    (torch.nn.Module, list of torch.Tensor)
        A module and the tensors its call uses.
    """
    seen: set[int] = set()

    def visit(module: nn.Module) -> Iterator[tuple[nn.Module, list[torch.Tensor]]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        if is_leased_with_parts(module):
            seen.update(id(each) for each in module.modules())
            if tensors := own_tensors(module, recurse=True):
                yield module, tensors
            return
        if own := own_tensors(module, recurse=False):
            yield module, own
        for child in module.children():
            yield from visit(child)

    yield from visit(root)


def _uses_only(module: nn.Module, tensors: list[torch.Tensor]) -> bool:
    """Tell whether a module and its parts own no others than these."""
    known = {id(tensor) for tensor in tensors}
    return all(id(tensor) in known for tensor in own_tensors(module, recurse=True))


class Unit:
    """A module that is leased as one, and the call that leases tensors around it.

    The call takes the place torch gives a compiled call, outside the module's own hooks, and hooks
    nothing itself: fast paths that look for hooks stay, and hooks that touch weights run under the
    lease. Copies and pickles of the module do not carry it. It alone holds the unit, so that both
    go with the module.

    Parameters
    ----------
    root : Root
        The managed module that it is of.
    memory : ModuleMemory
        Where the bytes of that lie.
    passes : Passes
        Those of the session's managed modules.
    module : torch.nn.Module
        The module.
    tensors : list of torch.Tensor
        What its call uses.
    holders : list of torch.nn.Module
        The modules that hold those.
    name : str
        How reports call it.
    fused : bool
        Whether it is leased for members.
    """

    def __init__(
        self,
        root: Root,
        memory: ModuleMemory,
        passes: Passes[Any],
        module: nn.Module,
        tensors: list[torch.Tensor],
        holders: list[nn.Module],
        name: str,
        *,
        fused: bool,
    ) -> None:
        self.root = root
        self._module_memory = memory
        self._places = memory.places
        self._core = passes.torch_core.core
        self.name = name
        self.call_of = id(module)
        self._module = weakref.ref(module)
        self.ranges: list[tuple[int, int]] = []
        self.tensors: list[torch.Tensor] = []
        self._storages: dict[int, torch.UntypedStorage] = {}
        self.always_written = False
        self.versioned: list[torch.Tensor] = []
        self.group = self._core.define([], name)
        if passes.outside_mode is not None and _uses_only(module, tensors):
            inner, hooks = passes.outside_mode(present_call(module)), None
        else:
            inner, hooks = own_call(module)
        most = sum(nbytes for nbytes in self._places.ranges_of(tensors).values())
        self.call: _core.LeasedCall = _core.LeasedCall(
            context=passes.context,
            unit=self,
            group=self.group,
            inner=inner,
            hooks=hooks,
            least_budget=least_budget(most) if fused else 0,
        )
        self._finalizer = weakref.finalize(self, passes.history.gone.append, (name, self.group))
        self._finalizer.atexit = False
        self.restless = 0  # passes in a row in which the module held something else than before
        self.restless_in = 0  # the last of them
        self._holders: list[weakref.ref[nn.Module]] = []
        self.lease(tensors, holders)

    def end(self) -> None:
        """Lease nothing any more, and give the module its own call again, if it is there still."""
        if (module := self._module()) is not None:
            restore_call(module)
        self.lease([], [])
        if self._finalizer.detach() is not None:
            self._core.undefine(self.group)

    def lease(self, tensors: list[torch.Tensor], holders: list[nn.Module]) -> None:
        """Say what the call uses from now on; what is not in the session's memory is not leased.

        Parameters
        ----------
        tensors : list of torch.Tensor
            All that it uses.
        holders : list of torch.nn.Module
            The modules that hold those.

        Raises
        ------
        InUseError
            If the module is running; nothing has changed.
        """
        found = self._places.ranges_of(tensors)
        ranges = sorted(found.items())
        if ranges != self.ranges:
            self._core.redefine(self.group, ranges)
        self.ranges = ranges
        self.tensors = [t for t in tensors if (r := storage_range(t)) and r[0] in found]
        # The group names blocks of this memory, so the memory stays while it does.
        self._storages = {id(t): t.untyped_storage() for t in self.tensors}
        weights = [t for t in self.tensors if self._places.is_weight(t)]
        self.versioned = [t for t in weights if has_version(t)]
        unseen = self._places.written_unseen
        self.always_written = len(self.versioned) < len(weights) or not unseen.isdisjoint(found)
        self._holders = [weakref.ref(each) for each in holders]
        self.call.lease(ranges, _dicts_of(holders), tensors, self.versioned, self.always_written)

    def lease_again(self) -> None:
        """Say that the call uses what the same modules hold now."""
        holders = [holder for ref in self._holders if (holder := ref()) is not None]
        found = (tensor for holder in holders for tensor in own_tensors(holder, recurse=False))
        self.lease(each_once(found), holders)

    def note_writes_always(self) -> None:
        """Take what it uses for written at each of its calls, also while one is running."""
        self.always_written = True
        self.call.always_written = True

    def put_in_place(self) -> None:
        """Put what the call gave its tensors in the place of their bytes.

        As layers do that cast their weights for each call and back: new bytes of the same size go
        where the old ones were. What does not fit there is looked at when the next pass begins.
        """
        for tensor in self.tensors:
            known = self._storages[id(tensor)]
            if tensor.untyped_storage()._cdata != known._cdata:
                self._module_memory.replace(tensor, known)


class FusedUnit:
    """A module leased as one with all below it, whose members need no lease while its call runs.

    Parameters
    ----------
    unit : Unit
        The module's own.
    members : list of Unit
        Those of the modules below it, in registration order.
    """

    def __init__(self, unit: Unit, members: list[Unit]) -> None:
        self.unit = unit
        self.members = members
        for member in members:
            unit.call.fuse(member.call)
