"""What a module's call is without vramx: torch's own, or past it where nothing is hooked."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from vramx import _core

#: What torch asks whether a module is being traced, the newer first.
_TRACED = ("_is_tracing", "_get_tracing_state")


def hook_places(own_call: Any) -> _core.HookPlaces | None:
    """Tell where a module's call looks for hooks before it calls the module's `forward`.

    As its code names them, so that kinds which torch may get one day are looked for too.

    Parameters
    ----------
    own_call : callable
        The call, ``torch.nn.Module._call_impl``.

    Returns
    -------
    HookPlaces or None
        None where that cannot be told, as where the call was replaced.
    """
    names = getattr(getattr(own_call, "__code__", None), "co_names", ())
    traced = next((name for name in _TRACED if name in names), None)
    if traced is None or not {"_slow_forward", "forward"} <= set(names):
        return None
    hooks = [name for name in names if name.endswith("_hooks")]
    attributes, shared = vars(nn.Module()), own_call.__globals__
    of_module = [name for name in hooks if name in attributes]
    of_all = [name for name in hooks if name in shared]
    if not of_module or not of_all or len(of_module) + len(of_all) < len(hooks):
        return None
    return _core.HookPlaces(of_module, of_all, shared, getattr(torch._C, traced))


_OWN_CALL = nn.Module._call_impl
_PLACES = hook_places(_OWN_CALL)

#: Whether a leased call can tell that a module has no hooks.
FOUND_HOOKS = _PLACES is not None


def compiled_call(module: nn.Module) -> Any | None:
    """Return the call, compiled or vramx's, that took the place of a module's own, if one did."""
    return module.__dict__.get("_compiled_call_impl")


def present_call(module: nn.Module) -> Any:
    """Return what calls a module now, with its hooks: what took the place of its own, or that."""
    return compiled_call(module) or module._call_impl


#: By module that has a call of vramx: the compiled call that stood there before, or None. The call
#: of vramx holds it, so that it goes with the module.
_before: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any] | None] = weakref.WeakKeyDictionary()


def compiled_before(module: nn.Module) -> Any | None:
    """Return the compiled call in the place of a module's own, beneath vramx's; None for none."""
    if module not in _before:
        return compiled_call(module)
    before = _before[module]
    return None if before is None else before()


def replace_call(module: nn.Module, call: Any) -> None:
    """Put a call of vramx in the place of a module's present one, which it holds."""
    if module not in _before:
        before = compiled_call(module)
        _before[module] = None if before is None else weakref.ref(before)
    # Past __setattr__: a compiled module hands attributes on to the module it wraps.
    module.__dict__["_compiled_call_impl"] = call


def restore_call(module: nn.Module) -> None:
    """Take all calls of vramx out of a module."""
    if module not in _before:
        return
    before = compiled_before(module)
    del _before[module]
    if before is None:
        module.__dict__.pop("_compiled_call_impl", None)
    else:
        module.__dict__["_compiled_call_impl"] = before


def own_call(module: nn.Module) -> tuple[Any, _core.HookPlaces | None]:
    """Tell what a module's call is now.

    Parameters
    ----------
    module : torch.nn.Module
        The module.

    Returns
    -------
    callee, hooks : tuple
        What to call and None; or the module, and where to look for its hooks, since without any
        its call is its `forward`.
    """
    is_torchs = type(module)._call_impl is _OWN_CALL and "_call_impl" not in vars(module)
    if _PLACES is None or not is_torchs or compiled_call(module) is not None:
        return present_call(module), None
    return module, _PLACES
