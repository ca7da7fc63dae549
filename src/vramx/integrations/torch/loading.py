"""Weights from a file for a module: which bytes go where, found by torch's own loading."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vramx.checkpoints import checked_shards, is_torch_checkpoint, opened, unpickle
from vramx.errors import ConfigError
from vramx.integrations.torch.naming import named_as_in, state_dict_in
from vramx.integrations.torch.storages import (
    FilledStorage,
    Placement,
    Storage,
    empty_twin,
    layout,
    storage_key,
)
from vramx.integrations.torch.tensors import tensors_of

#: How many names an error lists of a kind.
_LISTED = 5


def map_weights(path: Path) -> Mapping[str, Any]:
    """Read a file of weights whose tensors stay in the file until they are used.

    Parameters
    ----------
    path : Path
        A safetensors file, a torch checkpoint, or the index of several. Of a checkpoint that holds
        other things beside, the state dict in it; see `state_dict_in`.

    Returns
    -------
    mapping of str to torch.Tensor
        By name. The tensors lie in the mapped file, except those of torch checkpoints from before
        torch 1.6, which cannot be mapped.

    Raises
    ------
    ConfigError
        If there is no such file, or it is of another kind, damaged, or holds no named tensors.
    """
    try:
        read = [_map_one(file) for file in checked_shards(path)]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if len(read) == 1:
        return read[0]
    return {name: tensor for each in read for name, tensor in each.items()}


def _map_one(file: Path) -> Mapping[str, Any]:
    if is_torch_checkpoint(file):
        return state_dict_in(unpickle(file, "cpu"), file)
    from safetensors import SafetensorError

    with opened(file, "pt") as content:
        try:
            return {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ConfigError(f"{file} holds what torch cannot: {error}") from error


class _Copies(TorchFunctionMode):
    """Notes what is copied into some storages, instead of copying it."""

    def __init__(self, storages: set[Hashable]) -> None:
        super().__init__()
        self.found: dict[Hashable, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._storages = storages

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_ and (key := storage_key(args[0])) in self._storages:
            self.found.setdefault(key, []).append((args[0], args[1]))
            return args[0]
        return func(*args, **(kwargs or {}))


class Incoming:
    """What a file holds for a module.

    Parameters
    ----------
    module : torch.nn.Module
        The module, on the meta device or another; nothing in it is changed.
    name : str
        How errors call it.
    path : Path
        The file.
    strict : bool
        Whether the file must hold every tensor of the module's state dict, and no others.
    keep_dtype : bool
        Whether tensors take the file's type instead of the module's.

    Raises
    ------
    ConfigError
        If the file cannot be read or does not fit.
    """

    def __init__(
        self, module: nn.Module, name: str, path: Path, *, strict: bool, keep_dtype: bool
    ) -> None:
        self.module = module
        self._keep_dtype = keep_dtype
        self._tensors = tensors_of(module)
        self._refuse_unsaved(name)
        weights = named_as_in(self._saved(), map_weights(path))
        keys = {storage_key(tensor) for tensor in self._tensors.values()} - {None}
        self._copies, faults = _load(module, weights, keys)
        self._covered = {
            (key, layout(target)) for key, each in self._copies.items() for target, _ in each
        }
        missing, unexpected, wrong = faults
        missing = [key for key in missing if not self._is_loaded(key)]
        unloaded = [
            key
            for key, tensor in self._tensors.items()
            if tensor.is_meta and tensor.numel() and not self._is_loaded(key)
            if key not in weights or not wrong
        ]
        missing = [*dict.fromkeys([*missing, *unloaded])]
        wrong += [
            f"{key} is {refusal}"
            for key in self._tensors.keys() & weights.keys()
            if (refusal := _refusal(weights[key])) is not None
        ]
        found = [
            _count(missing if strict else unloaded, "not in the file"),
            _count(unexpected if strict else [], "not in the module"),
            _listed(wrong, "; "),
        ]
        if any(found):
            raise ConfigError(
                f"{path} does not fit {name}, in which nothing was changed: "
                + "; ".join(filter(None, found))
            )

    def _unsaved(self) -> Iterator[str]:
        for prefix, owner in self.module.named_modules():
            for key in owner._non_persistent_buffers_set:
                yield f"{prefix}.{key}" if prefix else key

    def _saved(self) -> list[str]:
        unsaved = set(self._unsaved())
        return [name for name in self._tensors if name not in unsaved]

    def _refuse_unsaved(self, name: str) -> None:
        unsaved = [
            key
            for key in self._unsaved()
            if (buffer := self._tensors.get(key)) is not None and buffer.is_meta
        ]
        if unsaved:
            raise ConfigError(
                f"{name} has buffers on the meta device that no file holds, as they are not "
                f"persistent: {_listed(unsaved)}. Give them their values first (module."
                f"{unsaved[0]} = tensor), or build the module on the CPU"
            )

    def _is_loaded(self, key: str) -> bool:
        tensor = self._tensors.get(key)
        return tensor is not None and (storage_key(tensor), layout(tensor)) in self._covered

    def storage(self, tensor: torch.Tensor) -> Storage:
        """Return the storage of a tensor, filled with what the file has for it."""
        copies = self._copies.get(storage_key(tensor))
        if copies is None:
            return Storage(tensor)
        return FilledStorage(tensor, copies, keep_dtype=self._keep_dtype)

    def fill(self) -> None:
        """Load the module where it is, a meta module to the CPU."""
        storages: dict[Hashable, Storage] = {}
        for tensor in self._tensors.values():
            key = storage_key(tensor)
            if key in self._copies:
                storages.setdefault(key, self.storage(tensor)).tensors.append(tensor)
        placement = Placement(self.module, revocable=True)
        try:
            with torch.inference_mode(False), torch.no_grad():
                for storage in storages.values():
                    raw = storage.content().clone().to(storage.home)
                    for tensor in storage.tensors:
                        placement.put(tensor, storage.view(tensor, raw))
                for tensor in self._tensors.values():
                    if storage_key(tensor) is None and tensor.is_meta:
                        placement.put(tensor, empty_twin(tensor, torch.device("cpu")))
        except BaseException:
            placement.revoke()
            raise
        placement.settle()


def incoming_for(
    module: Any, path: str | os.PathLike[str], name: str | None, *, strict: bool, dtype: str
) -> Incoming:
    """See what a file holds for a module; see `Session.load` for the arguments."""
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"weights are loaded into a torch.nn.Module, not into a {type(module).__name__}; load "
            "the parts of a pipeline one by one"
        )
    name = name or type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ConfigError(f"{name} is a TorchScript program, which has its weights already")
    if dtype not in ("module", "file"):
        raise ConfigError(f"unknown dtype {dtype!r}; give 'module' or 'file'")
    return Incoming(module, name, Path(path), strict=strict, keep_dtype=dtype == "file")


def _load(
    module: nn.Module, weights: Mapping[str, Any], keys: set[Hashable]
) -> tuple[Any, tuple[list[str], list[str], list[str]]]:
    """Let torch load a module, and note the copies that it would make and what does not fit."""
    missing: list[str] = []
    unexpected: list[str] = []
    wrong: list[str] = []

    def note(_: nn.Module, found: Any) -> None:
        missing[:], unexpected[:] = found.missing_keys, found.unexpected_keys

    hook = module.register_load_state_dict_post_hook(note)
    try:
        with _Copies(keys) as copies, _without_warnings():
            module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        wrong += [line.strip().rstrip(".") for line in str(error).splitlines()[1:]] or [str(error)]
    except Exception as error:  # a module's own way of loading meets what it does not know
        wrong += [f"{type(error).__name__}: {error}"]
    finally:
        hook.remove()
    return copies.found, (missing, unexpected, wrong)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence torch, which warns that copies into meta tensors do nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter.*")
        yield


def _refusal(tensor: Any) -> str | None:
    if isinstance(tensor, torch.Tensor) and tensor.layout != torch.strided:
        return f"of the layout {tensor.layout}"
    if isinstance(tensor, torch.Tensor) and (tensor.is_quantized or tensor.is_nested):
        return "quantised or nested"
    return None


def _count(names: list[str], where: str) -> str:
    if not names:
        return ""
    return f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'} {where}: {_listed(names)}"


def _listed(names: list[str], between: str = ", ") -> str:
    more = len(names) - _LISTED
    return between.join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
