"""Which modules are leased as one, and the call that leases them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree

from vramx import _core
from vramx.integrations.torch.memory import storage_range
from vramx.integrations.torch.own_calls import compiled_call, own_call
from vramx.integrations.torch.versions import has_version
from vramx.integrations.torch.wholes import least_budget

if TYPE_CHECKING:
    from vramx.integrations.torch.bridge import TorchBridge
    from vramx.integrations.torch.digests import Digests

# These use their children's weights without calling the children.
_USE_CHILDREN_UNCALLED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def _is_compiled(module: nn.Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds
    wraps = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
    return wraps or compiled_call(module) is not None


def _uses_children_uncalled(module: nn.Module) -> bool:
    """Tell whether a module uses its children's weights by other ways than their calls."""
    if isinstance(module, torch.fx.GraphModule):
        return any(node.op == "get_attr" and "." in str(node.target) for node in module.graph.nodes)
    return isinstance(module, (*_USE_CHILDREN_UNCALLED, torch.jit.ScriptModule))


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
        if _is_compiled(module) or _uses_children_uncalled(module):
            seen.update(id(each) for each in module.modules())
            tensors = [*module.parameters(), *module.buffers()]
            if tensors:
                yield module, tensors
            return
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own:
            yield module, own
        for child in module.children():
            yield from visit(child)

    yield from visit(root)


def _owned_tensors(core: _core.Core, args: Any, kwargs: Any) -> list[tuple[int, int]]:
    leaves = _pytree.tree_leaves((args, kwargs))
    found = [storage_range(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return core.owned([each for each in found if each is not None])


class Unit:
    """A module that is leased by itself or whole, and the call that leases tensors around it.

    The call takes the place torch gives a compiled call, outside the module's own hooks, and hooks
    nothing itself: fast paths that look for hooks stay, and hooks that touch weights run under the
    lease. Copies and pickles of the module do not carry it.
    """

    def __init__(
        self,
        bridge: TorchBridge,
        group: int,
        ranges: list[tuple[int, int]],
        module: nn.Module,
        tensors: list[torch.Tensor],
        root: object,
        name: str,
        *,
        whole: bool,
    ) -> None:
        self.name = name
        self.group = group
        self.ranges = ranges
        # The group names blocks of this memory, so the memory stays though parameters be replaced.
        self._memory = [t.untyped_storage() for t in tensors if storage_range(t) in ranges]
        weights = {id(p) for p in module.parameters()}  # a scripted module's are plain tensors
        parameters = [t for t in tensors if id(t) in weights]
        self.versioned = [p for p in parameters if has_version(p)]
        self.always_written = len(self.versioned) < len(parameters)
        inner, hooks = own_call(module)
        self.call = _core.LeasedCall(
            core=bridge.core,
            nesting=bridge.nesting,
            group=group,
            ranges=ranges,
            inner=inner,
            hooks=hooks,
            stream=bridge.stream,
            begin_round=functools.partial(bridge.calls.begin_round, root=root),
            activations=functools.partial(_owned_tensors, bridge.core),
            scratch_grew=bridge.cache.ask_back,
            versioned=self.versioned,
            always_written=self.always_written,
            least_budget=least_budget(sum(size for _, size in ranges)) if whole else 0,
        )


class RootCall:
    """Stands in the call of a module that `Session.manage` was given: counts its passes."""

    def __init__(
        self,
        bridge: TorchBridge,
        digests: Digests | None,
        inner: Callable[..., Any],
        root: object,
    ) -> None:
        self._root = root
        self._bridge = bridge
        self._digests = digests
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module and count it."""
        nesting = self._bridge.nesting
        outermost = nesting.enter() == 0
        try:
            if outermost:
                self._bridge.calls.begin_round(self, self._root)
            if self._digests is not None:
                self._digests.verify()
            result = self._inner(*args, **kwargs)
        finally:
            nesting.leave()
        self._bridge.passes += 1
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (type(None), ())
