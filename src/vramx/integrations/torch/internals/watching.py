"""Ways to a tensor's bytes that torch does not count as writes, watched while one is managed.

``tensor.data`` is an alias with a count of changes of its own. Addresses, NumPy arrays and DLPack
capsules have none at all. So these are replaced, on the classes, by functions that tell of them
first, for as long as something is managed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils import dlpack

from vramx import _core
from vramx.integrations.torch.internals.graphs import graphs_watched
from vramx.integrations.torch.internals.layout import storage_address
from vramx.integrations.torch.internals.replacing import Replacements


class Watcher(Protocol):
    """Is told of what programs do with the bytes of a session's weights."""

    def bytes_taken(self, address: int) -> None:
        """Note that the program may use the weights at an address by that from now on."""

    def storage_named(self, address: int) -> None:
        """Note that it has the address of their storage, perhaps to tell that from others."""

    def new_name(self, module: nn.Module) -> None:
        """Note that a parameter, a buffer or a part of a new name is put into a module."""

    def bytes_written(self, address: int) -> None:
        """Note that the program is about to write to the weights at an address."""


_watchers: list[Watcher] = []

_DATA: Any = torch._C.TensorBase.data
_STORAGE: Any = torch._C.StorageBase


def _data(self: torch.Tensor) -> torch.Tensor:
    alias: torch.Tensor = _DATA.__get__(self)
    _core.note_alias(alias)
    return alias


def _set_data(self: torch.Tensor, data: torch.Tensor) -> None:
    _DATA.__set__(self, data)


def _telling(
    way: Callable[..., Any], find: Callable[[Any], int], tell: Callable[[Watcher, int], None]
) -> Callable[..., Any]:
    """Make what does as `way` does and tells of its first argument's bytes before.

    Parameters
    ----------
    way : callable
        A method or a function of torch's.
    find : callable
        Returns where its bytes lie in a session's weights, 0 if there is nothing to tell.
    tell : callable
        Tells a watcher of the address.
    """

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (address := find(self)) != 0:
            for watcher in [*_watchers]:
                tell(watcher, address)
        return way(self, *args, **kwargs)

    watched.__name__ = watched.__qualname__ = getattr(way, "__name__", "watched")
    return watched


def _newly_of_tensor(tensor: torch.Tensor) -> int:
    return _core.newly_addressed(_core.data_address(tensor))


def _newly_of_storage(storage: torch.UntypedStorage) -> int:
    return _core.newly_addressed(storage_address(storage))


def _weights_of_storage(storage: torch.UntypedStorage) -> int:
    return _core.weight_at(storage_address(storage))


def _taken(watcher: Watcher, address: int) -> None:
    watcher.bytes_taken(address)


def _named(watcher: Watcher, address: int) -> None:
    watcher.storage_named(address)


def _written(watcher: Watcher, address: int) -> None:
    watcher.bytes_written(address)


_replacements = Replacements(
    [
        (torch.Tensor, "data", property(_data, _set_data)),
        *(
            (owner, name, _telling(getattr(base, name), _newly_of_tensor, _taken))
            for owner, base, name in (
                (torch.Tensor, torch._C.TensorBase, "data_ptr"),
                (torch.Tensor, torch._C.TensorBase, "numpy"),
                (torch.Tensor, torch.Tensor, "__dlpack__"),
                (dlpack, dlpack, "to_dlpack"),
            )
        ),
        (
            torch.UntypedStorage,
            "data_ptr",
            _telling(_STORAGE.data_ptr, _newly_of_storage, _named),
        ),
        *(
            (
                torch.UntypedStorage,
                name,
                _telling(getattr(_STORAGE, name), _weights_of_storage, _written),
            )
            for name in ("copy_", "fill_", "__setitem__")
        ),
    ]
)


def _note_name(module: nn.Module, name: str, _: Any) -> None:
    if not any(name in held for held in (module._parameters, module._buffers, module._modules)):
        for watcher in [*_watchers]:
            watcher.new_name(module)


def _note_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Tell of the weights that an optimizer changed: torch does not count those of fused steps."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (address := _core.weight_at(_core.data_address(parameter))) != 0:
                for watcher in [*_watchers]:
                    watcher.bytes_written(address)


_hooks: list[Any] = []


def watch(watcher: Watcher) -> None:
    """Tell someone from now on. Twice is fine."""
    if watcher not in _watchers:
        if not _watchers:
            _hooks.extend(
                (
                    register_optimizer_step_post_hook(_note_step),
                    register_module_parameter_registration_hook(_note_name),
                    register_module_buffer_registration_hook(_note_name),
                    register_module_module_registration_hook(_note_name),
                )
            )
        _watchers.append(watcher)
        _replacements.begin()
        graphs_watched.begin()


def watch_no_more(watcher: Watcher) -> None:
    """Tell someone nothing any more; the last one's end leaves torch as it was."""
    if watcher in _watchers:
        _watchers.remove(watcher)
        _replacements.end()
        graphs_watched.end()
        while not _watchers and _hooks:
            _hooks.pop().remove()
