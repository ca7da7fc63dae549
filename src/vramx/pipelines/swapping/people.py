"""Whose faces are put in, or looked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vramx.errors import ConfigError, MediaError, NoFaceError
from vramx.pipelines.images import Home, Planes, to_planes
from vramx.pipelines.swapping.found import Embedding, Face, normalised

#: Finds the faces in a picture that errors call by a name.
Find = Callable[[Planes, str], list[Face]]


class Someone(NamedTuple):
    """A face to put in or to look for, and a digest of what it was given as."""

    embedding: Embedding
    digest: str


def several(given: Any, what: str, find: Find, home: Home, score: float) -> list[Someone]:
    """See whose faces were given.

    Parameters
    ----------
    given : str, Path, PIL.Image.Image, numpy.ndarray, torch.Tensor, or list or tuple of them
        Pictures with a face, of which the largest is taken, files with one, or embeddings.
    what : str
        How errors call them.
    find : callable
        Finds faces in pictures.
    home : Home
        Where pictures are put.
    score : float
        The least of a face.

    Returns
    -------
    list of Someone
        In order, at least one.

    Raises
    ------
    NoFaceError
        If one shows no face.
    ConfigError
        If there are none, or one is no picture.
    MediaError
        If a file cannot be read.
    """
    if not isinstance(given, (list, tuple)):
        return [_someone(given, what, find, home, score)]
    if not given:
        raise ConfigError(f"{what} is an empty list: give at least one")
    return [
        _someone(each, f"{what} {number}" if len(given) > 1 else what, find, home, score)
        for number, each in enumerate(given, 1)
    ]


def _someone(given: Any, what: str, find: Find, home: Home, score: float) -> Someone:
    if isinstance(given, (torch.Tensor, np.ndarray)) and given.ndim == 1:
        values = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
        embedding = normalised(values, what)
        return Someone(embedding, hashlib.sha256(embedding.tobytes()).hexdigest())
    planes = one_picture(given, home)
    name = f"{what} {given}" if isinstance(given, (str, Path)) else what
    faces = find(planes, name)
    if not faces or faces[0].embedding is None:
        raise NoFaceError(
            f"{name} shows no face with a score of {score:g} or more: give a picture that does, an "
            "embedding, or a lower score"
        )
    digest = hashlib.sha256(planes.colour.contiguous().cpu().numpy().tobytes()).hexdigest()
    return Someone(faces[0].embedding, digest)


def one_picture(given: Any, home: Home) -> Planes:
    """Take the one picture that was given or is in a file."""
    if isinstance(given, (str, Path)):
        from vramx.pipelines.pictures import load_picture

        if not Path(given).is_file():
            raise MediaError(f"{given} is not a file")
        given = load_picture(Path(given)).pixels
    planes = to_planes(given, home)
    if len(planes.colour) != 1:
        raise ConfigError(f"one picture shows a face, but {len(planes.colour)} were given")
    return planes
