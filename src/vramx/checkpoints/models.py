"""A model as people have it: a file, a folder of a library's, or one for another runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vramx.checkpoints.files import beginning, checked_shards, is_named_as_weights
from vramx.checkpoints.gguf import MAGIC, read_gguf
from vramx.checkpoints.onnx import is_onnx, read_onnx
from vramx.checkpoints.tensors import StoredTensor, read_checkpoint
from vramx.errors import ConfigError

_PIPELINE, _CONFIG = "model_index.json", "config.json"
#: How transformers and diffusers name weights, the best first.
_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
_ENDINGS = (".safetensors.index.json", ".safetensors", ".bin.index.json", ".bin")
_VARIANTS = ("", ".fp16", ".bf16")


def read_model(path: str | Path) -> list[StoredTensor]:
    """List the tensors of a model, of which headers alone are read.

    Parameters
    ----------
    path : str or Path
        A file that `read_checkpoint` reads, a GGUF or an ONNX file; a folder as transformers writes
        it, with ``config.json``; or one as diffusers does, with ``model_index.json``, whose tensors
        have their component's name before theirs.

    Returns
    -------
    list of StoredTensor
        At least one.

    Raises
    ------
    ConfigError
        If there is no such file or folder, or it is of another kind or damaged.
    """
    path = Path(path)
    try:
        tensors = [*_of(path)]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not tensors:
        raise ConfigError(f"{path} holds no tensors")
    return tensors


def checkpoints_of(path: Path) -> list[Path]:
    """Find the safetensors files and torch checkpoints of a model, each there and of its kind.

    Parameters
    ----------
    path : Path
        As `read_model` takes it.

    Returns
    -------
    list of Path
        None of a GGUF or an ONNX file.

    Raises
    ------
    ConfigError
        As `read_model`.
    """
    if path.is_file() and _foreign(path):
        return []
    return [file for weights in _weights(path).values() for file in checked_shards(weights)]


def _foreign(path: Path) -> bool:
    begins = beginning(path)
    return begins.startswith(MAGIC) or is_onnx(begins)


def _of(path: Path) -> Iterator[StoredTensor]:
    if path.is_file() and _foreign(path):
        yield from read_gguf(path) if beginning(path).startswith(MAGIC) else read_onnx(path)
        return
    for component, weights in _weights(path).items():
        for tensor in read_checkpoint(weights):
            yield replace(tensor, name=f"{component}.{tensor.name}") if component else tensor


def _weights(path: Path) -> dict[str, Path]:
    """Find files of weights, or their indices, by the names of components."""
    if not path.is_dir():
        return {"": path}
    if not (path / _PIPELINE).is_file():
        found = _inside(path)
        if found is None:
            raise ConfigError(
                f"{path} holds no weights: a folder of transformers' has {_CONFIG} and "
                f"model.safetensors or its index, one of diffusers' has {_PIPELINE}"
            )
        return {"": found}
    components: dict[str, Path] = {}
    for name, said in _read_json(path / _PIPELINE).items():
        is_component = isinstance(said, list) and len(said) == 2 and all(said)
        if name.startswith("_") or not is_component:
            continue
        folder = path / name
        if Path(name).name != name or not folder.is_dir():
            raise ConfigError(
                f"{path} is not whole: {_PIPELINE} names {name}, and there is no folder"
            )
        weights = _inside(folder)
        if weights is not None:
            components[name] = weights
        elif (folder / _CONFIG).is_file() and "Model" in str(said[1]):
            raise ConfigError(f"{folder} has {_CONFIG}, but no weights beside it")
    if not components:
        raise ConfigError(f"{path} holds no weights: no folder that {_PIPELINE} names has any")
    return components


def _inside(folder: Path) -> Path | None:
    for variant in _VARIANTS:
        for stem in _STEMS:
            for ending in _ENDINGS:
                for name in (f"{stem}{variant}{ending}", _with_variant(stem, ending, variant)):
                    if (folder / name).is_file():
                        return folder / name
    others = [each for each in sorted(folder.iterdir()) if is_named_as_weights(each)]
    return others[0] if len(others) == 1 else None


def _with_variant(stem: str, ending: str, variant: str) -> str:
    """Name an index as diffusers does: ``….safetensors.index.fp16.json``."""
    return f"{stem}{ending.removesuffix('.json')}{variant}{'.json' * ending.endswith('.json')}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > 2**22:
            raise ConfigError(f"{path} is too large for what it is")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: it holds a {type(found).__name__}, not names")
    return found
