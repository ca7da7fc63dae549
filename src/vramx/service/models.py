"""The models that clients may name: an allow-list that is made when the service starts.

Clients send names alone, which are compared and never opened. Checkpoints in the folder are read as
weights, and ONNX files as graphs, neither of which is a program. A description is the owner's own:
it may name programs, which run.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from vramx.checkpoints import checked_shards, is_named_as_weights
from vramx.checkpoints.onnx import is_named_as_onnx
from vramx.errors import ConfigError
from vramx.service.refusals import NotAllowedError
from vramx.service.settings import NAME
from vramx.tasks.models import FaceModels, FaceModelSpec, UpscalerSpec

#: The longest description, which is a few lines.
_LONGEST = 2**16


@dataclass(frozen=True)
class Offered:
    """A model that may be named.

    Attributes
    ----------
    name : str
        How clients name it.
    use : str
        ``"upscale"`` or ``"faces"``.
    origin : str
        ``"trained"``, ``"checkpoint"``, ``"onnx"`` or ``"description"``.
    spec : UpscalerSpec or FaceModels
        What is loaded.
    scale : int or None
        How much larger it makes pictures, where that is known.
    """

    name: str
    use: str
    origin: str
    spec: UpscalerSpec | FaceModels
    scale: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what clients see."""
        told = {"name": self.name, "use": self.use, "origin": self.origin, "scale": self.scale}
        return {**told, "swaps": getattr(self.spec, "swapper", None) is not None}


class Models:
    """The allow-list.

    Parameters
    ----------
    folder : Path, optional
        Where checkpoints and descriptions are.

    Raises
    ------
    ConfigError
        If a description cannot be read, or two models have one name.

    Warns
    -----
    RuntimeWarning
        If files are not offered, since what reads them is not installed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._offered: dict[str, Offered] = {}
        inside = () if folder is None else _in_folder(folder.resolve())
        for model in (*_trained(), *inside):
            if model.name in self._offered:
                raise ConfigError(f"there are two models {model.name}: rename the one in {folder}")
            self._offered[model.name] = model

    def listed(self) -> list[Offered]:
        """Return all of them."""
        return [*self._offered.values()]

    def find(self, name: str, use: str) -> Offered:
        """Find a model by its name.

        Raises
        ------
        NotAllowedError
            If none of that name is for this use.
        """
        found = self._offered.get(name)
        if found is None or found.use != use:
            known = [each.name for each in self.listed() if each.use == use]
            raise NotAllowedError(
                f"there is no model {name!r} for {use}: there are {', '.join(known) or 'none'}"
            )
        return found


def _trained() -> Iterator[Offered]:
    from vramx.pipelines.pretrained import NAMES
    from vramx.pipelines.pretrained.models import PACKAGE

    try:
        metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return
    for name in NAMES:
        yield Offered(name, "upscale", "trained", UpscalerSpec(name), _scale(name))


@functools.cache
def _scale(name: str) -> int:
    """Tell how much larger a network with trained weights makes pictures."""
    import torch

    from vramx.pipelines.pretrained import build

    with torch.device("meta"):
        return int(getattr(build(name), "scale", 4))  # Real-ESRGAN's large ones have no choice


#: What tells the networks of files, and how it is installed.
_READERS = {
    "spandrel": "pip install 'vramx[upscalers]'",
    "onnx": "pip install 'vramx[onnx]'",
}


def _in_folder(folder: Path) -> Iterator[Offered]:
    unread: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not NAME.fullmatch(path.name):
            continue
        if path.suffix == ".json":
            yield from _described(path, folder)
            continue
        is_onnx = is_named_as_onnx(path)
        if not is_onnx and not (is_named_as_weights(path) and _is_checkpoint(path)):
            continue
        reader = "onnx" if is_onnx else "spandrel"
        if importlib.util.find_spec(reader) is None:
            unread.setdefault(reader, []).append(path.name)
        elif is_onnx:
            yield from _onnx(path)
        else:
            yield Offered(path.name, "upscale", "checkpoint", UpscalerSpec(str(path)))
    for reader, names in unread.items():
        warnings.warn(
            f"{', '.join(names)} in {folder} are not offered, since {reader}, which tells their "
            f"networks, is not installed: {_READERS[reader]}",
            RuntimeWarning,
            stacklevel=4,
        )


def _onnx(path: Path) -> Iterator[Offered]:
    """Offer a network that enlarges pictures; models of faces are named by descriptions."""
    from vramx.pipelines.onnx.upscaler import OnnxUpscaler

    try:
        network = OnnxUpscaler(path)
    except ConfigError:
        return
    if network.scale != 1:
        yield Offered(path.name, "upscale", "onnx", UpscalerSpec(str(path)), network.scale)


def _is_checkpoint(path: Path) -> bool:
    """Tell whether a file holds weights alone."""
    from vramx.integrations.torch.modelspec import program_kind

    try:
        return program_kind(path) is None and [*checked_shards(path)] == [path]
    except (ConfigError, OSError):
        return False


def _described(path: Path, folder: Path) -> Iterator[Offered]:
    """Read ``{"upscale": {…}}`` or ``{"faces": {…}}``; an index of weights is neither."""
    if path.name.endswith(".index.json"):
        return
    if path.stat().st_size > _LONGEST:
        raise ConfigError(f"{path} is no description of a model: it has more than {_LONGEST} bytes")
    try:
        content = json.loads(path.read_text("utf-8"))
        ((use, fields),) = content.items()
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(
            f'{path} is no description of a model, {{"upscale": …}} or {{"faces": …}}: {error}'
        ) from error
    try:
        yield Offered(path.stem, use, "description", _spec(use, fields, folder))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _spec(use: str, fields: Any, folder: Path) -> UpscalerSpec | FaceModels:
    if use == "upscale":
        spec = UpscalerSpec.from_dict(fields)
        weights = None if spec.weights is None else folder / spec.weights
        return replace(spec, name=_placed(spec.name, folder), weights=weights)
    if use != "faces":
        raise ConfigError(f"{use!r} is neither 'upscale' nor 'faces'")
    models = FaceModels.from_dict(fields)
    roles: dict[str, FaceModelSpec] = {
        role: replace(spec, name=_placed(spec.name, folder))
        for role, spec in vars(models).items()
        if spec is not None
    }
    return FaceModels(**roles)


def _placed(name: str, folder: Path) -> str:
    """Return the path of a model that is a file of the folder, else its name."""
    path = folder / name
    return str(path) if path.is_file() else name
