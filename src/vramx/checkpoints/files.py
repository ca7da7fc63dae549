"""The files that hold a model, and which kind each is: told by its first bytes, not by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vramx.errors import ConfigError

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
#: A zip archive, and a pickle of protocol 2 or later.
_TORCH = (b"PK", b"\x80")
#: The longest header that safetensors reads; the longest index is as long.
_LONGEST_HEADER = 100_000_000
#: The most tensors in one file, which is many times what models have; each takes time to look at.
MOST_TENSORS = 2**16
#: How other files begin that people have in the place of weights, and what they are.
_OTHERS = {
    b"<": "a web page or other markup, as servers send in the place of a file: download it again",
    b"version https://git-lfs": "a pointer of Git LFS and not the file: run `git lfs pull`",
    b"GGUF": "a GGUF file, of which `vramx forecast` tells the sizes",
    b"\x89HDF": "an HDF5 file, which is not read",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
}


def is_named_as_weights(path: Path) -> bool:
    """Tell whether a file's name promises weights."""
    return path.suffix.lower() in _SUFFIXES


def is_torch_checkpoint(path: Path) -> bool:
    """Tell whether a file is of a kind that torch writes: a zip archive or a pickle."""
    return _is_torch(beginning(path))


def shards(path: Path) -> list[Path]:
    """Find the files that hold a model.

    Parameters
    ----------
    path : Path
        A file of weights, or the index of a model in several: the JSON file that comes with them
        (``….safetensors.index.json``, ``….bin.index.json``).

    Returns
    -------
    list of Path
        The files, `path` alone unless it is an index.

    Raises
    ------
    ConfigError
        If the index cannot be read, or names files outside its folder.
    OSError
        If the file cannot be read.
    """
    if not path.is_file() or not _is_json(beginning(path)):
        return [path]
    if path.stat().st_size > _LONGEST_HEADER:
        raise ConfigError(f"{path} is not an index of files of weights: it is too large for one")
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if _leads_out(PurePosixPath(name))]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is not an index of files of weights: {type(error).__name__}: {error}"
        ) from error
    if outside:
        raise ConfigError(
            f"{path} names {outside[0]!r}, which is not in its folder: an index is for the files "
            "beside it"
        )
    return [path.parent / name for name in names]


def _leads_out(name: PurePosixPath) -> bool:
    return name.is_absolute() or ".." in name.parts


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
    OSError
        If a file cannot be read.
    """
    for file in shards(path):
        if not file.is_file():
            raise ConfigError(f"there is no file {file}")
        begins = beginning(file)
        if not _is_torch(begins) and not _is_safetensors(begins):
            raise ConfigError(
                f"{file} holds neither safetensors nor a torch checkpoint: {_described(begins)}"
            )
        yield file


def beginning(path: Path) -> bytes:
    """Read the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(64)


def _is_safetensors(begins: bytes) -> bool:
    return begins[8:9] == b"{" and int.from_bytes(begins[:8], "little") <= _LONGEST_HEADER


def _is_torch(begins: bytes) -> bool:
    return begins.startswith(_TORCH) and not _is_safetensors(begins)  # of 128 bytes: b"\x80"


def _is_json(begins: bytes) -> bool:
    return begins.lstrip().startswith((b"{", b"[")) and not _is_safetensors(begins)


def _described(begins: bytes) -> str:
    if not begins:
        return "it is empty"
    text = begins.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what in _OTHERS.items():
        if text.startswith(beginning):
            return f"it is {what}"
    return f"it begins with {begins[:16]!r}"


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
        If it is damaged or truncated, or holds more tensors than any model.
    """
    from safetensors import SafetensorError, safe_open

    # Told from the bytes, since to take a header apart takes time for each tensor too.
    with path.open("rb") as header:
        length = int.from_bytes(header.read(8), "little")
        count = header.read(min(length, _LONGEST_HEADER)).count(b'"data_offsets"')
    if count > MOST_TENSORS:
        raise ConfigError(f"{path} {too_many(count)}")
    try:
        return safe_open(path, framework=framework)
    except SafetensorError as error:
        raise ConfigError(
            f"{path} is damaged or cut short ({path.stat().st_size} bytes): {error}"
        ) from error


def too_many(count: int) -> str:
    """Say that a file holds more tensors than are read."""
    return (
        f"holds {count} tensors, more than the {MOST_TENSORS} that are read from one file: save "
        "the model in several files with an index"
    )
