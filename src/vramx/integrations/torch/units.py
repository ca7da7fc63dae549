"""Which modules are leased as one, and the call that leases them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree

from vramx.integrations.torch.memory import storage_range

if TYPE_CHECKING:
    from vramx.integrations.torch.bridge import TorchBridge
    from vramx.integrations.torch.digests import Digests

# These use their children's weights without calling the children.
_USE_CHILDREN_UNCALLED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def _is_compiled(module: nn.Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds
    wraps = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
    return wraps or module.__dict__.get("_compiled_call_impl") is not None


def _uses_children_uncalled(module: nn.Module) -> bool:
    """Tell whether a module uses its children's weights by other ways than their calls."""
    if isinstance(module, torch.fx.GraphModule):
        return any(node.op == "get_attr" and "." in str(node.target) for node in module.graph.nodes)
    return isinstance(module, (*_USE_CHILDREN_UNCALLED, torch.jit.ScriptModule))


def leased_modules(root: nn.Module) -> Iterator[tuple[nn.Module, list[torch.Tensor]]]:
    """Find the modules to lease, in registration order.

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


def has_version(tensor: torch.Tensor) -> bool:
    """Tell whether torch counts a tensor's in-place changes: not so those of inference mode."""
    try:
        return tensor._version >= 0
    except RuntimeError:
        return False


def total_version(tensors: Sequence[torch.Tensor]) -> int:
    """Sum how often tensors were changed in place: the same sum means that none was.

    A loop: `sum` over a map or a generator takes half as long again.
    """
    total = 0
    for tensor in tensors:
        total += tensor._version
    return total


class LeasedCall:
    """Stands in a module's call: leases its tensors around it.

    It takes the place torch gives a compiled call, outside the module's own hooks, and hooks
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
    ) -> None:
        self.name = name
        self._root = root
        self._core = bridge.core
        self._stream = bridge.stream
        self._calls = bridge.calls
        self.group = group
        self.ranges = ranges
        # The group names blocks of this memory, so the memory stays though parameters be replaced.
        self._memory = [t.untyped_storage() for t in tensors if storage_range(t) in ranges]
        parameters = [t for t in tensors if isinstance(t, nn.Parameter)]
        self.versioned = [p for p in parameters if has_version(p)]
        self.always_written = len(self.versioned) < len(parameters)
        self._inner: Callable[..., Any] = (
            module.__dict__.get("_compiled_call_impl") or module._call_impl
        )
        self._versions = total_version(self.versioned)

    def note_writes(self) -> None:
        """Report parameters that were changed in place since the last look."""
        version = total_version(self.versioned)
        if version != self._versions or self.always_written:
            self._versions = version
            self._core.written(self.ranges)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module under a lease."""
        core, calls, stream = self._core, self._calls, self._stream()
        if calls.depth == 0:
            calls.begin_round(self, self._root)
        calls.depth += 1
        touched: list[tuple[int, int]] = []
        try:
            if core.scratch_on_host:
                touched = self._evicted_activations(args, kwargs)
            core.acquire(self.group, stream)
            try:
                if not touched:
                    return self._inner(*args, **kwargs)
                core.take(touched, stream, True)
                try:
                    return self._inner(*args, **kwargs)
                finally:
                    core.give(touched, stream, True)
            finally:
                self.note_writes()
                core.release(self.group, stream)
        finally:
            calls.depth -= 1

    def _evicted_activations(self, args: Any, kwargs: Any) -> list[tuple[int, int]]:
        leaves = _pytree.tree_leaves((args, kwargs))
        found = [storage_range(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        return self._core.owned([each for each in found if each is not None])

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (type(None), ())


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
        calls = self._bridge.calls
        if calls.depth == 0:
            calls.begin_round(self, self._root)
        calls.depth += 1
        try:
            if self._digests is not None:
                self._digests.verify()
            result = self._inner(*args, **kwargs)
        finally:
            calls.depth -= 1
        self._bridge.passes += 1
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (type(None), ())
