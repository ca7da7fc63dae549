"""Which modules are leased as one, and the call that leases them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vramx import _core
from vramx.integrations.torch.internals.layout import has_version
from vramx.integrations.torch.internals.own_calls import compiled_before, own_call, restore_call
from vramx.integrations.torch.memory import storage_range
from vramx.integrations.torch.tensors import each_once, own_tensors
from vramx.integrations.torch.wholes import least_budget

if TYPE_CHECKING:
    from vramx.integrations.torch.leases import Leases
    from vramx.integrations.torch.managed import ManagedModule

# These use their children's weights without calling the children.
_USE_CHILDREN_UNCALLED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def _is_compiled(module: nn.Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds
    wraps = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
    return wraps or compiled_before(module) is not None


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


class Unit:
    """A module that is leased by itself or whole, and the call that leases tensors around it.

    The call takes the place torch gives a compiled call, outside the module's own hooks, and hooks
    nothing itself: fast paths that look for hooks stay, and hooks that touch weights run under the
    lease. Copies and pickles of the module do not carry it. It alone holds the unit, so that both
    go with the module.

    Parameters
    ----------
    managed : ManagedModule
        What the module is, or is a part of.
    module : torch.nn.Module
        The module.
    tensors : list of torch.Tensor
        What its call uses.
    parts : list of torch.nn.Module
        The modules that hold those.
    name : str
        How reports call it.
    whole : bool
        Whether it is leased for its parts.
    """

    def __init__(
        self,
        managed: ManagedModule,
        module: nn.Module,
        tensors: list[torch.Tensor],
        parts: list[nn.Module],
        name: str,
        *,
        whole: bool,
    ) -> None:
        self._managed = managed
        self._bridge = managed.bridge
        self.name = name
        self.call_of = id(module)
        self._module = weakref.ref(module)
        self.ranges: list[tuple[int, int]] = []
        self.tensors: list[torch.Tensor] = []
        self._memory: dict[int, torch.UntypedStorage] = {}
        self.always_written = False
        self.versioned: list[torch.Tensor] = []
        self.group = self._bridge.core.define([], name)
        inner, hooks = own_call(module)
        most = sum(nbytes for nbytes in managed.places.ranges_of(tensors).values())
        self.call: _core.LeasedCall = _core.LeasedCall(
            context=self._bridge.context,
            group=self.group,
            inner=inner,
            hooks=hooks,
            begin_round=self._begin_round,
            stale=self._stale,
            replaced=self._replaced,
            least_budget=least_budget(most) if whole else 0,
        )
        self._finalizer = weakref.finalize(self, self._bridge.gone.append, (name, self.group))
        self._finalizer.atexit = False
        managed.units.add(self)
        self.restless = 0  # passes in a row in which the module held something else than before
        self.restless_in = 0  # the last of them
        self._parts: list[weakref.ref[nn.Module]] = []
        self.lease(tensors, parts)

    def end(self) -> None:
        """Lease nothing any more, and give the module its own call again, if it is there still."""
        if (module := self._module()) is not None:
            restore_call(module)
        self.lease([], [])
        if self._finalizer.detach() is not None:
            self._bridge.core.undefine(self.group)
        self._managed.units.discard(self)

    def lease(self, tensors: list[torch.Tensor], parts: list[nn.Module]) -> None:
        """Say what the call uses from now on; what is not in the session's memory is not leased.

        Parameters
        ----------
        tensors : list of torch.Tensor
            All that it uses.
        parts : list of torch.nn.Module
            The modules that hold those.

        Raises
        ------
        InUseError
            If the module is running; nothing has changed.
        """
        found = self._managed.places.ranges_of(tensors)
        ranges = sorted(found.items())
        if ranges != self.ranges:
            self._bridge.core.redefine(self.group, ranges)
        self.ranges = ranges
        self.tensors = [t for t in tensors if (r := storage_range(t)) and r[0] in found]
        # The group names blocks of this memory, so the memory stays while it does.
        self._memory = {id(t): t.untyped_storage() for t in self.tensors}
        weights = [t for t in self.tensors if self._managed.places.is_weight(t)]
        self.versioned = [t for t in weights if has_version(t)]
        unseen = self._managed.places.written_unseen
        self.always_written = len(self.versioned) < len(weights) or not unseen.isdisjoint(found)
        self._parts = [weakref.ref(each) for each in parts]
        self.call.lease(ranges, _dicts_of(parts), tensors, self.versioned, self.always_written)

    def lease_again(self) -> None:
        """Say that the call uses what the module's parts hold now."""
        parts = [part for ref in self._parts if (part := ref()) is not None]
        found = (tensor for part in parts for tensor in own_tensors(part, recurse=False))
        self.lease(each_once(found), parts)

    def note_writes_always(self) -> None:
        """Take what it uses for written at each of its calls, also while one is running."""
        self.always_written = True
        self.call.always_written = True

    def _stale(self) -> None:
        self._managed.look_at(self)

    def _begin_round(self, call: object) -> None:
        self._bridge.calls.begin_round(call, self._managed)

    def _replaced(self) -> None:
        """Take what the call gave its tensors in the place of their bytes.

        As layers do that cast their weights for each call and back: new bytes of the same size go
        where the old ones were. What does not fit there is looked at when the next pass begins.
        """
        for tensor in self.tensors:
            known = self._memory[id(tensor)]
            if tensor.untyped_storage()._cdata != known._cdata:
                self._managed.replace(tensor, known)


class RootCall:
    """Stands in the call of a module that `Session.manage` was given: counts its passes."""

    def __init__(self, managed: ManagedModule, leases: Leases, inner: Callable[..., Any]) -> None:
        self._managed = managed
        self._leases = leases  # which go with the module
        self._bridge = managed.bridge
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module and count it."""
        context = self._bridge.context
        outermost = context.enter() == 0
        self._managed.callers.append(threading.get_ident())
        try:
            if outermost:
                self._bridge.calls.begin_round(self, self._managed)
            self._managed.verify()
            result = self._inner(*args, **kwargs)
        finally:
            self._managed.callers.remove(threading.get_ident())
            context.leave()
        self._bridge.passes += 1
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (type(None), ())
