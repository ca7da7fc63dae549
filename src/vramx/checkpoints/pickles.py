"""Torch checkpoints read without running what is in them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vramx.checkpoints.files import MOST_TENSORS, too_many
from vramx.errors import ConfigError

#: How deep the tensors of a checkpoint may lie, and of how many classes there may be objects.
_DEEPEST, _CLASSES = 64, 256
#: The longest description of tensors: Python reads its each byte.
_LONGEST_PICKLE = 2**25
_CLASS = re.compile(r"GLOBAL (\S+) was not an allowed global")
_ADVICE = (
    "in the program that made it, save the weights alone: torch.save(model.state_dict(), path), or "
    "as safetensors"
)


class Foreign:
    """What stands in a checkpoint for an object that is no weights: it does nothing.

    Attributes
    ----------
    of : str
        The class or function whose object it would be.
    """

    of = ""

    def __new__(cls, *_: Any, **__: Any) -> Foreign:
        """Be made from whatever it was made from."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take whatever it was made from."""

    def __setstate__(self, _: Any) -> None:
        """Take whatever it held."""


def unpickle(path: Path, device: str) -> Any:
    """Read a torch checkpoint, with ``weights_only`` and mapped where its format allows.

    Parameters
    ----------
    path : Path
        The file.
    device : str
        ``"cpu"``, whose tensors lie in the mapped file, or ``"meta"``.

    Returns
    -------
    object
        What was saved. Where a trainer left objects beside the weights, a `Foreign` stands for
        each; nothing of theirs is run.

    Raises
    ------
    ConfigError
        If it is damaged or holds no plain weights, or torch is not installed.
    OSError
        If it cannot be read.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{path} is a torch checkpoint and torch is not installed: pip install 'vramx[torch]', "
            "or give a safetensors file"
        ) from error
    zipped = _is_checked_archive(path)
    stand_ins: dict[str, type[Foreign]] = {}
    while True:
        safe: list[Any] = [(each, name) for name, each in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(safe):
                content = _loaded(path, device, mapped=zipped)
            break
        except OSError:
            raise
        except Exception as error:  # whatever an unpickler meets in a damaged file
            found = _CLASS.search(str(error))
            if found is None or found[1] in stand_ins or len(stand_ins) >= _CLASSES:
                raise ConfigError(_refusal(path, error, stand_ins)) from error
            name = found[1]
            stand_in = type("Foreign", (Foreign,), {"of": name})  # a name may be no class's
            # What is built in is named without its module.
            stand_ins |= {name: stand_in, f"builtins.{name}": stand_in}
    if stand_ins and next(leaves(content, path), None) is None:
        raise ConfigError(
            f"{path} holds objects of {_listed(stand_ins)} and no plain weights: {_ADVICE}"
        )
    return content


def _loaded(path: Path, device: str, *, mapped: bool) -> Any:
    import torch

    if path.suffix == ".safetensors":  # torch believes the name, but not of an open file
        with path.open("rb") as file:
            return torch.load(file, map_location=device, weights_only=True)
    return torch.load(path, map_location=device, weights_only=True, mmap=mapped)


def _is_checked_archive(path: Path) -> bool:
    """Tell whether a checkpoint is a zip archive, and refuse what would unpack to more."""
    size = path.stat().st_size
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not is_archive:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise ConfigError(f"{path} is cut short: the end of its zip archive is missing")
        return False
    if any(entry.filename.partition("/")[2].startswith("code/") for entry in entries):
        raise ConfigError(
            f"{path} is a TorchScript program and not plain weights: give it as the model, or save "
            "torch.jit.load(path).state_dict() if you trust it"
        )
    if len(entries) > MOST_TENSORS:
        raise ConfigError(f"{path} {too_many(len(entries))}")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
            raise ConfigError(
                f"{path} is no torch checkpoint, or one that was packed again: {entry.filename} in "
                f"it would unpack to {entry.file_size} bytes, and torch packs nothing. Unpack it, "
                "or save it again by torch.save"
            )
        if entry.filename.endswith("/data.pkl") and entry.file_size > _LONGEST_PICKLE:
            raise ConfigError(
                f"{path} has {entry.file_size} bytes beside its tensors, more than the "
                f"{_LONGEST_PICKLE} that are read: {_ADVICE}"
            )
    return True


def _refusal(path: Path, error: Exception, stand_ins: Mapping[str, Any]) -> str:
    # Torch puts the advice to run what is in the file around what its unpickler met.
    met = error.__context__ or error
    said = str(met).partition(" Please ")[0].strip().splitlines()
    reason = said[0] if said else type(met).__name__
    beside = f". It has objects of {_listed(stand_ins)}" if stand_ins else ""
    return f"{path} cannot be read as plain weights: {reason}{beside}. If it is whole, {_ADVICE}"


def _listed(stand_ins: Mapping[str, type[Foreign]]) -> str:
    names = sorted({each.of for each in stand_ins.values()})
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def leaves(content: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Find the tensors in what a checkpoint holds.

    Parameters
    ----------
    content : object
        From `unpickle`.
    path : Path
        The file, for errors.

    Yields
    ------
    (str, torch.Tensor)
        Each with its name, dotted. What is in several places is found in one of them.

    Raises
    ------
    ConfigError
        If it is nested too deep.
    """
    import torch

    seen: set[int] = set()
    rest: list[tuple[Any, tuple[str, ...]]] = [(content, ())]
    while rest:
        each, name = rest.pop()
        if isinstance(each, torch.Tensor):
            yield ".".join(name), each
        if not isinstance(each, (Mapping, list, tuple)) or id(each) in seen:
            continue
        if len(name) > _DEEPEST:
            raise ConfigError(f"{path} is nested more than {_DEEPEST} deep, as no model's weights")
        seen.add(id(each))
        inside = each.items() if isinstance(each, Mapping) else enumerate(each)
        rest += reversed([(value, (*name, str(key))) for key, value in inside])
