"""Faces that were found in a picture, and which of them are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vramx.errors import ConfigError

Floats = npt.NDArray[np.float64]
Embedding = npt.NDArray[np.float32]


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
        The least cosine between their embedding and a reference's.
    references : tuple of numpy.ndarray
        Embeddings of those that are looked for; all are meant where there is none.
    """

    faces: str
    similarity: float
    references: tuple[Embedding, ...] = ()

    def check(self, sources: int) -> None:
        """Refuse so many faces to put in, if it is not known which goes where.

        Raises
        ------
        ConfigError
            If there are several, but as many references or none, or one face is to be swapped.
        """
        if sources == 1:
            return
        if self.references and len(self.references) != sources:
            raise ConfigError(
                f"{sources} sources are for as many references, one for each, or for none, but "
                f"there are {len(self.references)}"
            )
        if self.faces == "largest" and not self.references:
            raise ConfigError(
                f"of a picture the largest face is swapped, but there are {sources} sources: give "
                "one, faces='all', or a reference for each"
            )

    def of(self, faces: list[Face], sources: tuple[Embedding, ...]) -> list[tuple[Face, Embedding]]:
        """Pick from faces, and tell whose face each gets.

        Parameters
        ----------
        faces : list of Face
            The largest first.
        sources : tuple of numpy.ndarray
            Embeddings: one for all; one for each reference; or, without references, from left to
            right, beyond which faces stay as they are.

        Returns
        -------
        list of (Face, numpy.ndarray)
            In the order of the faces.
        """
        if self.references:
            nearest = [(face, *self._nearest(face)) for face in faces]
            meant = [
                (face, sources[number % len(sources)])
                for face, cosine, number in nearest
                if cosine >= self.similarity
            ]
        elif len(sources) > 1:
            places = sorted(range(len(faces)), key=lambda k: faces[k].box[0] + faces[k].box[2])
            given = dict(zip(places, sources))
            meant = [(face, given[k]) for k, face in enumerate(faces) if k in given]
        else:
            meant = [(face, sources[0]) for face in faces]
        return meant[:1] if self.faces == "largest" else meant

    def _nearest(self, face: Face) -> tuple[float, int]:
        """Tell the highest cosine between a face and a reference, and the number of that."""
        cosines = [self._resemblance(face, reference) for reference in self.references]
        return max(cosines), cosines.index(max(cosines))

    def _resemblance(self, face: Face, reference: Embedding) -> float:
        if face.embedding is None:
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
        best = max(self._nearest(face)[0] for face in faces)
        return (
            f"of {len(faces)} faces none resembles the reference: {best:.2f} at most, where "
            f"{self.similarity:g} is asked for"
        )
