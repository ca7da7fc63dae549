"""A picture on its way through the chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vramx.pipelines.faces import Alignment
from vramx.pipelines.images import Planes
from vramx.pipelines.swapping.found import Embedding, Face
from vramx.pipelines.swapping.networks import Pixels


@dataclass(frozen=True)
class SwapResult:
    """What was done in a picture or a video.

    Attributes
    ----------
    frames : int
        Its frames; one of a picture.
    faces : int
        Faces that were found.
    swapped : int
        Faces that were swapped.
    without_face : int
        Frames in which no face was found.
    unchanged : int
        Frames in which none was swapped, those without a face included.
    unfit : int
        What was taken for faces, but has landmarks that lie as no face's do.
    lost : int
        Frames of a video that are damaged and were left out.
    """

    frames: int = 0
    faces: int = 0
    swapped: int = 0
    without_face: int = 0
    unchanged: int = 0
    unfit: int = 0
    lost: int = 0


@dataclass(frozen=True)
class SwappedFile:
    """A picture that was written.

    Attributes
    ----------
    out : Path
        Where.
    result : SwapResult
        What was done in it.
    """

    out: Path
    result: SwapResult


@dataclass(frozen=True, eq=False)
class Chosen:
    """A face that is swapped.

    Attributes
    ----------
    face : Face
        The face.
    source : numpy.ndarray
        The embedding of what takes its place.
    shown : torch.Tensor or None
        How much of each pixel of a crop is the face, and not what lies before it.
    crop : Alignment or None
        That crop.
    """

    face: Face
    source: Embedding
    shown: torch.Tensor | None = None
    crop: Alignment | None = None

    def mask(self, place: Alignment, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Take what lies before the face out of another crop's mask, None being all of it."""
        if self.shown is None or self.crop is None:
            return mask
        shown = self.crop.seen_in(place, self.shown)
        return shown if mask is None else mask.to(shown) * shown


@dataclass
class Frame:
    """A picture, and what was found in it.

    Attributes
    ----------
    name : str
        How errors call it.
    pixels : torch.Tensor
        Of shape ``(3, height, width)``, float32 from 0 to 1; another tensor once it has changed.
    sources : tuple of numpy.ndarray
        The embeddings of the faces to put in; none only finds faces.
    faces : list of Face
        Those in it, the largest first.
    chosen : list of Chosen
        Those of them that are to be swapped.
    unfit : int
        How many others the detector took for faces, whose landmarks lie as no face's do.
    """

    name: str
    pixels: Pixels
    sources: tuple[Embedding, ...]
    faces: list[Face] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    unfit: int = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """What a `SwapResult` sums."""
        return {
            "frames": 1,
            "faces": len(self.faces),
            "swapped": len(self.chosen),
            "without_face": int(not self.faces),
            "unchanged": int(not self.chosen),
            "unfit": self.unfit,
        }


def total(frames: list[Frame]) -> SwapResult:
    """Sum the counts of frames."""
    counts: Counter[str] = Counter()
    for frame in frames:
        counts.update(frame.counts)
    return SwapResult(**counts)


def from_pixels(frames: list[Frame], planes: Planes) -> object:
    """Turn frames into the picture, or batch of pictures, that they were made of."""
    colour = torch.stack([each.pixels for each in frames])
    if planes.colour.shape[1] == 1:
        colour = colour.double().mean(1, keepdim=True).float()  # of three equal floats, the same
    if planes.alpha is not None:
        colour = torch.cat((colour, planes.alpha), dim=1)
    return planes.restore(colour)
