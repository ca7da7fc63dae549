"""Models as programs: files that hold their code, and functions that make them, by name."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from vramx.errors import ConfigError

_EXPORTED = ".pt2"
_ADVICE = (
    "give a TorchScript file (torch.jit.save), an exported program (torch.export.save, .pt2), or "
    "package.module:function, which is called without arguments and returns the model; a file of "
    "weights alone has no code"
)


def load_program(given: str) -> Any:
    """Load a model that brings its code. All three kinds run that code: load what you trust.

    Parameters
    ----------
    given : str
        A TorchScript file; an exported program, whose name ends in ``.pt2``; or
        ``package.module:function``, of a function that takes nothing and returns the model. Modules
        are looked for in the current folder too.

    Returns
    -------
    torch.nn.Module or object
        A module on the CPU from a file; what the function returned.

    Raises
    ------
    ConfigError
        If it cannot be loaded.
    """
    path = Path(given)
    if path.is_file():
        return _from_file(path)
    module, colon, function = given.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ConfigError(f"{given} is no file: {_ADVICE}")
    return _make(module, function)


def _from_file(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Both formats are torch's own; what torch says of their future is not this user's.
            warnings.simplefilter("ignore")
            if path.suffix == _EXPORTED:
                return torch.export.unflatten(torch.export.load(path))
            return torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # what damaged archives raise is not documented
        why = next(iter(str(error).strip().splitlines()), "")
        raise ConfigError(
            f"{path} cannot be loaded ({type(error).__name__}: {why}): {_ADVICE}"
        ) from error


def _make(module: str, function: str) -> Any:
    name = f"{module}:{function}"
    sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name} cannot be imported ({error}): {_ADVICE}") from error
    finally:
        sys.path.pop(0)
    return make()
