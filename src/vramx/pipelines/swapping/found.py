"""Faces that were found in a picture, and which of them are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vramx.errors import ConfigError

Floats = npt.NDArray[np.float64]
Embedding = npt.NDArray[np.float32]

CHOICES = ("all", "largest")


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes
    ----------
    box : numpy.ndarray
        Of shape ``(4,)``: left, top, right and bottom in pixels of the picture.
    score : float
        How sure the detector is, from 0 to 1.
    landmarks : numpy.ndarray
        Of shape ``(5, 2)``: x and y of left eye, right eye, nose, left and right corner of the
        mouth, as seen in the picture.
    embedding : numpy.ndarray or None
        Of length 1, float32, where it was asked for.
    """

    box: Floats
    score: float
    landmarks: Floats
    embedding: Embedding | None = None

    @property
    def area(self) -> float:
        """The box's, in square pixels."""
        left, top, right, bottom = self.box
        return float(max(right - left, 0) * max(bottom - top, 0))


def normalised(embedding: Any, whose: str) -> Embedding:
    """Make an embedding's length 1.

    Parameters
    ----------
    embedding : array
        Of shape ``(d,)``.
    whose : str
        How an error calls it.

    Returns
    -------
    numpy.ndarray
        Of dtype float32.

    Raises
    ------
    ConfigError
        If it is zero or not finite, or has another shape.
    """
    values = np.asarray(embedding, dtype=np.float64)
    length = float(np.linalg.norm(values)) if values.ndim == 1 else 0.0
    if not 0 < length < np.inf:
        raise ConfigError(
            f"{whose} is no embedding: an array of shape {values.shape} and length {length:g}; it "
            "is a vector of finite numbers that are not all zero"
        )
    return (values / length).astype(np.float32)


@dataclass(frozen=True)
class Choice:
    """Which faces of a picture are meant.

    Attributes
    ----------
    faces : str
        ``"all"`` or ``"largest"``, of those that resemble the reference if there is one.
    similarity : float
        The least cosine between their embedding and the reference's.
    reference : numpy.ndarray or None
        The reference's embedding.
    """

    faces: str
    similarity: float
    reference: Embedding | None = None

    def __post_init__(self) -> None:
        if self.faces not in CHOICES:
            raise ConfigError(f"faces {self.faces!r} is not one of {', '.join(CHOICES)}")
        if not -1 <= self.similarity <= 1:
            raise ConfigError(f"similarity {self.similarity!r} is not a cosine, from -1 to 1")

    def of(self, faces: list[Face]) -> list[Face]:
        """Pick from faces in the order of their size, the largest first."""
        if self.reference is not None:
            faces = [face for face in faces if self.resemblance(face) >= self.similarity]
        return faces[:1] if self.faces == "largest" else faces

    def resemblance(self, face: Face) -> float:
        """Tell the cosine between a face's embedding and the reference's.

        Raises
        ------
        ConfigError
            If they are of different models.
        """
        reference = self.reference
        if reference is None or face.embedding is None:
            raise ConfigError("a face is compared by embeddings, of which there is none")
        if reference.shape != face.embedding.shape:
            raise ConfigError(
                f"the reference's embedding has {reference.size} numbers, but the recognizer makes "
                f"{face.embedding.size}: give one of the same model, or a picture"
            )
        return float(reference @ face.embedding)

    def why_none(self, faces: list[Face]) -> str:
        """Say why none of these is meant."""
        if not faces:
            return "no face was found"
        best = max(self.resemblance(face) for face in faces)
        return (
            f"of {len(faces)} faces none resembles the reference: {best:.2f} at most, where "
            f"{self.similarity:g} is asked for"
        )
