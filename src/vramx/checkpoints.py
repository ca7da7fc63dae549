"""What is in a file of weights, read from its header: names, shapes and types, not the weights."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramx.errors import ConfigError

#: Bits an element, by the names that safetensors gives to types.
BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
_TORCH_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_INDICES = (".safetensors.index.json", ".bin.index.json")
_TORCH = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes
    ----------
    name : str
        Its name, dotted as in a state dict.
    shape : tuple of int
        The shape.
    dtype : str
        The type, as safetensors names it: ``"F32"``, ``"BF16"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return (self.count * BITS[self.dtype] + 7) // 8

    @property
    def is_floating(self) -> bool:
        """Whether another precision could hold it."""
        return self.dtype.startswith(("F", "BF"))


def is_torch_checkpoint(path: Path) -> bool:
    """Tell by its name whether a file is torch's."""
    return path.suffix in _TORCH


def is_weights(path: Path) -> bool:
    """Tell by its name whether a file holds weights."""
    return path.suffix == ".safetensors" or is_torch_checkpoint(path)


def shards(path: Path) -> list[Path]:
    """Find the files that hold a model.

    Parameters
    ----------
    path : Path
        A file of weights, or the index of a model in several (``….safetensors.index.json``,
        ``….bin.index.json``).

    Returns
    -------
    list of Path
        The files, `path` alone unless it is an index.

    Raises
    ------
    ConfigError
        If the index cannot be read.
    """
    if not path.name.endswith(_INDICES):
        return [path]
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        return [path.parent / name for name in sorted(set(files))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not an index of files of weights: {error!r}") from error


def checked_shards(path: Path) -> Iterator[Path]:
    """Go through the files that hold a model, each there and of a known kind.

    Parameters
    ----------
    path : Path
        As `shards` takes it.

    Yields
    ------
    Path
        A safetensors file or a torch checkpoint.

    Raises
    ------
    ConfigError
        If the index cannot be read, or a file is not there or of another kind.
    """
    for file in shards(path):
        if not file.is_file():
            raise ConfigError(f"there is no file {file}")
        if not is_weights(file):
            raise ConfigError(
                f"{file} is of no known kind; give .safetensors, {', '.join(_INDICES + _TORCH)}"
            )
        yield file


def opened(path: Path, framework: str) -> Any:
    """Open a safetensors file; a context manager.

    Parameters
    ----------
    path : Path
        The file.
    framework : str
        What its tensors are to be: ``"np"`` or ``"pt"``.

    Raises
    ------
    ConfigError
        If it is damaged or truncated.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework=framework)
    except SafetensorError as error:
        raise ConfigError(
            f"{path} is damaged or cut short ({path.stat().st_size} bytes): {error}"
        ) from error


def read_checkpoint(path: str | Path) -> list[StoredTensor]:
    """List the tensors of a file of weights.

    Parameters
    ----------
    path : str or Path
        A safetensors file, the index of several, or a torch checkpoint (``.pt``, ``.pth``,
        ``.bin``, ``.ckpt``), which is read with ``weights_only`` and without its weights.

    Returns
    -------
    list of StoredTensor
        Tensors that share bytes appear once.

    Raises
    ------
    ConfigError
        If there is no such file, it is of another kind, damaged, or holds no tensors.
    """
    path = Path(path)
    tensors: list[StoredTensor] = []
    try:
        for file in checked_shards(path):
            tensors += _torch(file) if is_torch_checkpoint(file) else _safetensors(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not tensors:
        raise ConfigError(f"{path} holds no tensors")
    unknown = sorted({tensor.dtype for tensor in tensors} - BITS.keys())
    if unknown:
        raise ConfigError(f"{path} holds types that are not known: {', '.join(unknown)}")
    return tensors


def _safetensors(path: Path) -> Iterator[StoredTensor]:
    with opened(path, "np") as file:
        for name in file.keys():  # noqa: SIM118
            found = file.get_slice(name)
            yield StoredTensor(name, tuple(found.get_shape()), found.get_dtype())


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
        What was saved.

    Raises
    ------
    ConfigError
        If it is damaged or holds other things than plain weights, or torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{path} is a torch checkpoint and torch is not installed: pip install 'vramx[torch]', "
            "or give a safetensors file"
        ) from error
    zipped = zipfile.is_zipfile(path)
    if not zipped and path.open("rb").read(2) == b"PK":
        raise ConfigError(f"{path} is cut short: the end of its zip archive is missing")
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=zipped)
    except OSError:
        raise
    except Exception as error:  # whatever an unpickler meets in a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} cannot be read as plain weights: {reason}") from error


def _torch(path: Path) -> Iterator[StoredTensor]:
    content = unpickle(path, "meta")
    seen: set[object] = set()
    for name, tensor in _leaves(content, ""):
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape)
        if place not in seen:
            seen.add(place)
            dtype = str(tensor.dtype).removeprefix("torch.")
            yield StoredTensor(name, tuple(tensor.shape), _TORCH_NAMES.get(dtype, dtype))


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, (list, tuple)):
        for place, value in enumerate(tree):
            yield from _leaves(value, f"{name}.{place}" if name else str(place))
