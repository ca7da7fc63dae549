"""The plain tensors that a module's parameters and buffers consist of.

Quantised weights are tensors of classes of their own. Some wrap plain tensors, and say which by
``__tensor_flatten__`` (torchao, optimum-quanto); others are plain tensors themselves, with more of
them in attributes (bitsandbytes' scales). All that counts for memory is the plain ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

#: How deep in objects that hang on a tensor other tensors are looked for.
_DEEPEST = 3

_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)


def each_once(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """List tensors in their order, those that are there several times once."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor only wraps others, and says which."""
    return hasattr(type(tensor), "__tensor_flatten__") and _is_subclass(tensor)


def _is_subclass(tensor: torch.Tensor) -> bool:
    return type(tensor) not in _PLAIN and not isinstance(tensor, UninitializedTensorMixin)


def _has_bytes(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor of a class of its own has a storage as plain ones do."""
    return type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def inner_tensors(wrapper: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that a wrapper says it wraps, by attribute."""
    names, _ = wrapper.__tensor_flatten__()  # type: ignore[attr-defined]
    return {name: getattr(wrapper, name) for name in names}


def parts_of(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Find the tensors with bytes that a tensor consists of.

    Parameters
    ----------
    tensor : torch.Tensor
        Any tensor.

    Yields
    ------
    (str, torch.Tensor)
        A path from the tensor, empty for itself, and what is there.
    """
    if is_wrapper(tensor):
        for name, inner in inner_tensors(tensor).items():
            yield from ((f".{name}{path}", part) for path, part in parts_of(inner))
        return
    yield "", tensor
    if _is_subclass(tensor):
        yield from _in_attributes(tensor, "", _DEEPEST, set())


def _in_attributes(
    owner: object, path: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    seen.add(id(owner))
    for name, each in vars(owner).items():
        if id(each) in seen or isinstance(each, (nn.Module, type)):
            continue
        if isinstance(each, torch.Tensor):
            yield f"{path}.{name}", each
        elif depth > 1 and hasattr(each, "__dict__"):
            yield from _in_attributes(each, f"{path}.{name}", depth - 1, seen)


def registered_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Name all of a module's parameters and buffers, those that are tied by each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Name the plain tensors of a module's parameters and buffers.

    Parameters
    ----------
    module : torch.nn.Module
        Any module.

    Returns
    -------
    dict of str to torch.Tensor
        By name, those that are tied by each of their names.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in registered_tensors(module).items():
        found.update((f"{name}{path}", part) for path, part in parts_of(tensor))
    found.update(_beside(module))
    return found


def _beside(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Find other views of a quantised weight's bytes among its module's plain attributes.

    As bitsandbytes' `Linear8bitLt` has them in its `state` once it has run.
    """
    for prefix, owner in module.named_modules():
        weights = [p for p in owner._parameters.values() if p is not None and _is_subclass(p)]
        if not weights:
            continue
        mine = {_address(part) for p in weights for _, part in parts_of(p)} - {None}
        for name, each in vars(owner).items():
            if name.startswith("_") or isinstance(each, (nn.Module, type, torch.Tensor)):
                continue
            if not hasattr(each, "__dict__"):
                continue
            for path, part in _in_attributes(each, f".{name}", _DEEPEST, set()):
                if _address(part) in mine:
                    yield f"{prefix}{path}".lstrip("."), part


def _address(tensor: torch.Tensor) -> int | None:
    if is_wrapper(tensor) or not _has_bytes(tensor) or tensor.is_meta:
        return None
    address: int = tensor.untyped_storage()._cdata
    return address


def own_tensors(module: nn.Module, *, recurse: bool) -> list[torch.Tensor]:
    """List the plain tensors of a module, each once.

    Parameters
    ----------
    module : torch.nn.Module
        The module.
    recurse : bool
        Whether those of its parts belong to it too.
    """
    registered = [*module.parameters(recurse=recurse), *module.buffers(recurse=recurse)]
    return each_once(part for tensor in registered for _, part in parts_of(tensor))


def refusal(tensor: torch.Tensor, device: torch.device, *, meta: bool) -> str | None:
    """Say why a registered tensor cannot be managed, or None.

    Parameters
    ----------
    tensor : torch.Tensor
        A parameter or a buffer.
    device : torch.device
        The card as torch calls it.
    meta : bool
        Whether meta tensors are welcome, since their bytes come from elsewhere.
    """
    if isinstance(tensor, UninitializedTensorMixin):
        return "has no shape yet: run the module once first"
    if is_wrapper(tensor):
        told = (refusal(inner, device, meta=meta) for inner in inner_tensors(tensor).values())
        return next((f"wraps a tensor that {why}" for why in told if why), None)
    if tensor.is_meta and not meta:
        return "is a meta tensor without bytes: load or initialise the weights first"
    if tensor.layout != torch.strided:
        return f"has the layout {tensor.layout}; only strided tensors can be managed"
    if tensor.is_quantized or tensor.is_nested:
        return "is quantised or nested, which cannot be managed"
    if _is_subclass(tensor) and not _has_bytes(tensor):
        kind = type(tensor)
        return (
            f"is a {kind.__module__}.{kind.__qualname__}, which does not say by "
            "__tensor_flatten__ what it consists of; keep it in a module of its own that is not "
            "managed, or convert it to plain tensors first"
        )
    if tensor.device.type not in ("cpu", "meta") and tensor.device != device:
        return f"is on {tensor.device}; it must be on the CPU or on {device}"
    return None


def rebuild(wrapper: torch.Tensor) -> None:
    """Have a wrapper say the device that its parts are on, where those were moved.

    Parameters
    ----------
    wrapper : torch.Tensor
        A tensor that wraps others; it keeps its identity.
    """
    inner = inner_tensors(wrapper)
    for each in inner.values():
        if is_wrapper(each):
            rebuild(each)
    _, context = wrapper.__tensor_flatten__()  # type: ignore[attr-defined]
    kind: Any = type(wrapper)
    made = kind.__tensor_unflatten__(inner, context, wrapper.size(), wrapper.stride())
    if isinstance(wrapper, nn.Parameter):
        made = nn.Parameter(made, requires_grad=wrapper.requires_grad)
    torch.utils.swap_tensors(wrapper, made)
