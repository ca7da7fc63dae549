"""What enlarges pictures: a torch module, a network as spandrel describes it, or an ONNX file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vramx.checkpoints.onnx import is_named_as_onnx
from vramx.errors import ConfigError
from vramx.pipelines.networks import digest
from vramx.pipelines.onnx.upscaler import OnnxUpscaler
from vramx.session import Session

_WHAT_SPANDREL_TELLS = ("model", "scale", "purpose", "size_requirements", "input_channels")


@dataclass(frozen=True)
class Network:
    """A network and what is known of it.

    Attributes
    ----------
    call : callable
        Takes and gives ``(n, channels, height, width)``: the module, or what calls it.
    module : torch.nn.Module or None
        What holds the weights, unless it is a file.
    file : OnnxUpscaler or None
        The ONNX file, if it is one.
    scale, multiple : int, optional
        How much larger pictures become, and what their sides must be multiples of; None if that has
        to be tried.
    batch : int, optional
        How many pictures it takes at once; None if that is not known.
    whole : bool
        Whether pictures should go through whole.
    """

    call: Callable[..., Any]
    module: nn.Module | None = None
    file: OnnxUpscaler | None = None
    scale: int | None = None
    multiple: int | None = None
    batch: int | None = None
    whole: bool = False

    @property
    def modules(self) -> list[nn.Module]:
        """What a session manages of it."""
        return [] if self.module is None else [self.module]

    @property
    def weight_bytes(self) -> int:
        """What its weights and buffers take."""
        if self.file is not None:
            return self.file.weight_bytes
        parts = (itertools.chain(each.parameters(), each.buffers()) for each in self.modules)
        storages = (tensor.untyped_storage() for tensor in itertools.chain.from_iterable(parts))
        return sum({each._cdata: each.nbytes() for each in storages}.values())

    def within(self, session: Session) -> AbstractContextManager[None]:
        """Have a file in a session for a scope; modules are managed."""
        return nullcontext() if self.file is None else self.file.within(session)

    def identity(self, session: Session) -> str:
        """Describe what its results depend on."""
        if self.file is not None:
            return f"ONNX {self.file.file.digest}"
        (module,) = self.modules
        return f"{type(module).__name__} {digest(session, module)}"


def as_network(model: Any) -> Network:
    """See what a model is.

    Parameters
    ----------
    model : torch.nn.Module, spandrel.ImageModelDescriptor, str or path
        The model; a path is of an ONNX file. A descriptor's own call is used: it pads to its size
        requirements and is documented for one picture at a time.

    Returns
    -------
    Network
        The network.

    Raises
    ------
    ConfigError
        If it is none of these, or is not made for whole pictures.
    """
    if isinstance(model, nn.Module):
        return Network(model, model)
    if isinstance(model, (str, os.PathLike)) and is_named_as_onnx(Path(model)):
        file = OnnxUpscaler(Path(model))
        return Network(file, file=file, scale=file.scale, batch=file.batch)
    if isinstance(model, type) or not all(hasattr(model, name) for name in _WHAT_SPANDREL_TELLS):
        raise ConfigError(
            "the model is a torch.nn.Module, a descriptor of spandrel's or the path of an ONNX "
            f"file (.onnx), not {_named(model)}"
        )
    if model.purpose not in ("SR", "Restoration"):
        raise ConfigError(
            f"the model's purpose is {model.purpose}, which is not for whole pictures: FaceSR "
            "takes aligned faces (vramx.pipelines.faces), Inpainting takes masks"
        )
    channels = (model.input_channels, model.output_channels)
    if channels not in ((1, 1), (3, 3)):
        raise ConfigError(
            f"the model takes {channels[0]} channels and gives {channels[1]}; pictures have 3 or 1"
        )
    tiling = getattr(getattr(model, "tiling", None), "name", "SUPPORTED")
    return Network(
        model,
        model.model,
        scale=model.scale,
        multiple=model.size_requirements.multiple_of,
        batch=1,
        whole=tiling != "SUPPORTED",
    )


def _named(model: Any) -> str:
    return repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
