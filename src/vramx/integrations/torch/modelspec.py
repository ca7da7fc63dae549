"""Networks that are named by text: a program in a file, or what an importable module makes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vramx.errors import ConfigError

_FORMS = "a TorchScript or torch.export file, or package.module:factory"


def program_kind(path: Path) -> str | None:
    """Tell what kind of program a file holds, by what is in its archive.

    Parameters
    ----------
    path : Path
        A file.

    Returns
    -------
    str or None
        ``"torchscript"`` or ``"export"``; None for other files, those of mere weights among them.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError):
        return None  # its reader says what is wrong with it
    if any(name.startswith("code/") for name in inside):
        return "torchscript"
    # Before torch 2.8 an exported program was one JSON file of this name.
    if any(
        name == "archive_format" or name.endswith("serialized_exported_program.json")
        for name in inside
    ):
        return "export"
    return None


def load_model(spec: str, *, also: tuple[type, ...] = ()) -> Any:
    """Load the network that a text names.

    Parameters
    ----------
    spec : str
        A file that ``torch.jit.save`` or ``torch.export.save`` wrote, or
        ``package.module:factory``: something that an importable module has, also one in the current
        folder. What is a torch module is taken as it is; else it is called without arguments and
        returns the network. All three run code that they bring: load what you trust.
    also : tuple of type
        What a factory may return besides networks.

    Returns
    -------
    torch.nn.Module, callable or one of `also`
        The network, on the CPU. TorchScript is leased as one; an exported program module by module,
        as it was before the export.

    Raises
    ------
    ConfigError
        If there is no such thing, or it cannot be loaded or is no network.
    """
    path = Path(spec)
    if path.is_file():
        return _from_file(path)
    module, colon, attribute = spec.partition(":")
    if not colon or not all(part.isidentifier() for part in f"{module}.{attribute}".split(".")):
        raise ConfigError(f"there is no file {spec}; a model is {_FORMS}")
    with _current_folder_importable():
        return _made(_imported(module, attribute, spec), spec, also)


def _from_file(path: Path) -> nn.Module:
    kind = program_kind(path)
    if kind is None:
        raise ConfigError(
            f"{path} is not a program: a model is {_FORMS}. Weights alone do not tell what to "
            "compute with them"
        )
    try:
        if kind == "torchscript":
            scripted: nn.Module = torch.jit.load(path, map_location="cpu")
            return scripted
        return torch.export.unflatten(torch.export.load(path))
    except Exception as error:  # whatever a reader meets in a damaged file
        raise ConfigError(f"{path} cannot be loaded: {_reason(error)}") from error


def _imported(module: str, attribute: str, spec: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"{spec}: importing {module} failed: {_reason(error)}") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f"{spec}: {module} has no {attribute}") from None
    return found


def _made(found: Any, spec: str, also: tuple[type, ...]) -> Any:
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ConfigError(f"{spec} is a {type(found).__name__}, not what makes a network")
    try:
        made = found()
    except Exception as error:
        raise ConfigError(f"{spec}() failed: {_reason(error)}") from error
    if not callable(made) and not isinstance(made, also):
        raise ConfigError(f"{spec}() made a {type(made).__name__}, not a network")
    return made


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Import as ``python -m`` does, which a command's own process does not."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _reason(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
