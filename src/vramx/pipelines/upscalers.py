"""What enlarges pictures: a torch module, or a network as spandrel describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from vramx.errors import ConfigError

_WHAT_SPANDREL_TELLS = ("model", "scale", "purpose", "size_requirements", "input_channels")


@dataclass(frozen=True)
class Network:
    """A network and what is known of it.

    Attributes
    ----------
    module : torch.nn.Module
        What holds the weights.
    call : callable
        Takes and gives ``(n, channels, height, width)``: the module, or what calls it.
    scale, multiple : int, optional
        How much larger pictures become, and what their sides must be multiples of; None if that has
        to be tried.
    batch : int, optional
        How many pictures it takes at once; None if that is not known.
    whole : bool
        Whether pictures should go through whole.
    """

    module: nn.Module
    call: Callable[..., Any]
    scale: int | None = None
    multiple: int | None = None
    batch: int | None = None
    whole: bool = False


def as_network(model: Any) -> Network:
    """See what a model is.

    Parameters
    ----------
    model : torch.nn.Module or spandrel.ImageModelDescriptor
        The model. A descriptor's own call is used: it pads to its size requirements and is
        documented for one picture at a time.

    Returns
    -------
    Network
        The network.

    Raises
    ------
    ConfigError
        If it is neither, or is not made for whole pictures.
    """
    if isinstance(model, nn.Module):
        return Network(model, model)
    if isinstance(model, type) or not all(hasattr(model, name) for name in _WHAT_SPANDREL_TELLS):
        raise ConfigError(
            "the model is a torch.nn.Module or a descriptor of spandrel's, not a "
            f"{type(model).__name__}"
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
        model.model,
        model,
        scale=model.scale,
        multiple=model.size_requirements.multiple_of,
        batch=1,
        whole=tiling != "SUPPORTED",
    )
