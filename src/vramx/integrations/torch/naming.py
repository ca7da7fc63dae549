"""Under which names a file has a module's weights: trainers and wrappers put parts before them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vramx.checkpoints import Foreign
from vramx.errors import ConfigError

#: Under which names programs save a state dict inside a checkpoint, the better ones first.
_ENTRIES = (
    "params_ema",
    "params-ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
)
#: What torch's wrappers call the module that they wrap; no module's own name.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: How many entries an error lists.
_LISTED = 5


def state_dict_in(content: Any, path: Path) -> Mapping[str, Any]:
    """Find the named tensors in what a checkpoint holds.

    Parameters
    ----------
    content : object
        What was saved.
    path : Path
        The file, for errors.

    Returns
    -------
    mapping of str to torch.Tensor
        The state dict, as it is in the checkpoint.

    Raises
    ------
    ConfigError
        If there is none, or there are several and none has a usual name.
    """
    seen: set[int] = set()
    inside = content
    while isinstance(inside, Mapping) and id(inside) not in seen:
        seen.add(id(inside))
        for name in _ENTRIES:
            if isinstance(inside.get(name), Mapping) and inside[name]:
                inside = inside[name]
                break
        else:
            if any(isinstance(each, torch.Tensor) for each in inside.values()):
                return inside
            only = [each for each in inside.values() if _is_state_dict(each)]
            if len(only) == 1:
                return only[0]  # type: ignore[no-any-return]
    held = _described(inside)
    if isinstance(inside, Mapping):
        held = "entries " + ", ".join(
            f"{name!r} ({_described(each)})" for name, each in list(inside.items())[:_LISTED]
        )
    raise ConfigError(
        f"{path} holds {held}, and no named tensors that could be told to be the weights; those "
        f"are looked for at the top and in {', '.join(_ENTRIES)}: save the state dict alone"
    )


def _is_state_dict(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and bool(entry)
        and all(isinstance(name, str) for name in entry)
        and all(isinstance(each, torch.Tensor) for each in entry.values())
    )


def _described(entry: Any) -> str:
    return f"an object of {entry.of}" if isinstance(entry, Foreign) else f"a {type(entry).__name__}"


def named_as_in(module: Collection[str], weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name weights as a module does, where its wrappers or a trainer have put parts before.

    Parameters
    ----------
    module : collection of str
        The names of the module's tensors.
    weights : mapping of str to torch.Tensor
        What a file holds.

    Returns
    -------
    mapping of str to torch.Tensor
        The same tensors. Without the parts that torch's wrappers add, where that makes a name of
        the module's. If none is one then, without what comes before all the module's names; if
        the file has all of them more than once, as they are.
    """
    names = {unwrapped(name): name for name in module}
    weights = {
        name if name in module else names.get(unwrapped(name), name): tensor
        for name, tensor in weights.items()
    }
    if not names or any(name in module for name in weights):
        return weights
    given = {unwrapped(name): name for name in weights if isinstance(name, str)}
    found = [
        prefix
        for prefix in _prefixes(given, next(iter(names)))
        if all(prefix + name in given for name in names)
    ]
    if len(found) != 1:
        return weights
    own = {given[found[0] + name]: wanted for name, wanted in names.items()}
    return {own.get(name, name.removeprefix(found[0])): each for name, each in weights.items()}


def _prefixes(names: Collection[str], name: str) -> Iterator[str]:
    return (each.removesuffix(name) for each in names if each.endswith(f".{name}"))


def unwrapped(name: Any) -> Any:
    """Return a name without the parts that torch's wrappers add."""
    if not isinstance(name, str):
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
