"""A module's pass on shapes alone: the order of its parts, their operations, its activations."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vramx.errors import ConfigError
from vramx.integrations.torch.units import leased_modules
from vramx.uses import PACKED_SHARES, ModuleUse

_PACKED_SHARES = {
    torch.bfloat16: PACKED_SHARES["BF16"],
    torch.float16: PACKED_SHARES["F16"],
    torch.float32: PACKED_SHARES["F32"],
}
_SINGLE = (torch.float32, torch.float64)
# The CPU's flash attention is the card's, under a name that torch's table lacks.
_ON_CPU = {"_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_flash_attention"}


class _Watch(TorchDispatchMode):
    """Counts operations for the use that runs, and the bytes of tensors that live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses: list[ModuleUse] = []
        self.peak = 0
        self._living = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage for as long as it lives."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._living += size
        self.peak = max(self.peak, self._living)
        weakref.finalize(storage, self._let_go, size)

    def _let_go(self, size: int) -> None:
        self._living -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        alias = _ON_CPU.get(packet.__name__)
        count = flop_registry.get(getattr(torch.ops.aten, alias) if alias else packet)
        if count is not None and self.uses:
            use = self.uses[-1]
            more = count(*args, **kwargs, out_val=result)
            self.uses[-1] = replace(use, operations=use.operations + more)
        writes = any(a.alias_info is not None for a in func._schema.arguments)
        if not writes:
            for leaf in _pytree.tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.hold(leaf)
        return result


def _enter(watch: _Watch, use: ModuleUse) -> Callable[..., None]:
    def entered(*_: Any) -> None:
        watch.uses.append(use)

    return entered


def sample_pass(
    module: Any, sample: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[list[ModuleUse], int]:
    """Run a module on the shapes of a sample.

    Parameters
    ----------
    module : torch.nn.Module
        The module; not changed.
    sample : sequence
        Arguments.
    keywords : mapping
        Keyword arguments.

    Returns
    -------
    uses : list of ModuleUse
        Calls of modules with weights, in order. Operations outside them count for the last one.
    activations : int
        The most bytes of inputs and intermediate tensors at once.

    Raises
    ------
    ConfigError
        If it is no module, has no weights, calls none of them, or its path depends on values.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{type(module).__name__} is not a torch.nn.Module")
    weights = [*module.parameters(), *module.buffers()]
    if not weights:
        raise ConfigError(f"{type(module).__name__} has no weights to plan for")
    names = {each: name for name, each in module.named_modules()}
    watch = _Watch()
    hooks = []
    counted: set[int] = set()  # tied weights count where they are first
    for owner, used in leased_modules(module):
        places = {tensor.untyped_storage()._cdata: tensor for tensor in used}
        tensors = [tensor for place, tensor in places.items() if place not in counted]
        counted.update(places)
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        use = ModuleUse(
            name=names[owner],
            nbytes=sum(tensor.nbytes for tensor in tensors),
            elements=sum(tensor.numel() for tensor in floating),
            element_bytes=sum(tensor.nbytes for tensor in floating),
            half=not any(tensor.dtype in _SINGLE for tensor in used),
            packed=round(sum(each.nbytes * _PACKED_SHARES.get(each.dtype, 1) for each in tensors)),
        )
        hooks.append(owner.register_forward_pre_hook(_enter(watch, use)))
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def shape_of(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.empty_strided(
            leaf.shape, leaf.stride(), dtype=leaf.dtype, device=weights[0].device
        )

    # The fast path of transformer layers is one operation that hides what is in it.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), mode:
            inputs, options = _pytree.tree_map(shape_of, (tuple(sample), dict(keywords)))
            for leaf in _pytree.tree_leaves((inputs, options)):
                if isinstance(leaf, torch.Tensor):
                    watch.hold(leaf)
            with watch:
                module(*inputs, **options)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ConfigError(
            f"what {type(module).__name__} does depends on values ({error}), and a sample has "
            "shapes alone; plan its parts, or its file of weights"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    if not watch.uses:
        raise ConfigError(
            f"{type(module).__name__} called none of its parts that have weights; a compiled or "
            "scripted module cannot be watched"
        )
    return watch.uses, watch.peak
