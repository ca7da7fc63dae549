"""Small pictures of the faces in a file, to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vramx.errors import MediaError, StoppedError
from vramx.pipelines.swapping.found import Embedding, Face
from vramx.pipelines.swapping.frame import Frame
from vramx.progress import Meter
from vramx.stopping import Stop

#: How much of the box of a face is left around it, so that it is found in its thumbnail too.
_AROUND = 0.6


@dataclass(frozen=True)
class Thumbnail:
    """The first sight of a face.

    Attributes
    ----------
    path : Path
        Where it was written.
    frame : int
        In which frame, from 0.
    number : int
        Which of the frame's faces, from 0 at the left.
    """

    path: Path
    frame: int
    number: int


def write_thumbnails(
    target: Path,
    frames: Iterable[Frame],
    folder: Path,
    similarity: float,
    meter: Meter,
    stop: Stop,
) -> list[Thumbnail]:
    """Write each person's first face.

    Parameters
    ----------
    target : Path
        What is looked at, for messages.
    frames : iterable of Frame
        Its pictures with their faces.
    folder : Path
        Where to; it is made if need be.
    similarity : float
        Faces whose embeddings have at least this cosine are one person's.
    meter : Meter
        Counts frames.
    stop : Stop
        Ends the search between two frames.

    Returns
    -------
    list of Thumbnail
        In order; files are named by the frame and the number of the face.

    Raises
    ------
    MediaError
        If the folder or a file cannot be written, or such a file is there already.
    StoppedError
        If it was asked to stop. What is written stays.
    """
    from PIL import Image

    made: list[Thumbnail] = []

    def watched() -> Iterator[Frame]:
        for number, frame in enumerate(frames):
            if stop.stopped:
                error = StoppedError(
                    f"{target} was stopped after {number} frames; {len(made)} pictures of people "
                    f"are in {folder}: name another folder to begin anew"
                )
                error.done, error.kept = number, folder if made else None
                raise error
            yield frame
            meter.add(1)

    for frame, number, face, pixels in _first_sights(watched(), similarity):
        path = folder / f"frame{frame:06d}-face{number}.png"
        try:
            folder.mkdir(exist_ok=True)
            with path.open("xb") as file:
                Image.fromarray(_around(pixels, face)).save(file, "PNG")
        except FileExistsError as error:
            raise MediaError(f"{path} exists: name another folder") from error
        except OSError as error:
            raise MediaError(f"{path} cannot be written: {error}") from error
        made.append(Thumbnail(path, frame, number))
    meter.finish()
    return made


def _first_sights(
    frames: Iterable[Frame], similarity: float
) -> Iterator[tuple[int, int, Face, Any]]:
    seen: list[Embedding] = []
    for count, frame in enumerate(frames):
        from_left = sorted(frame.faces, key=lambda face: face.box[0] + face.box[2])
        for number, face in enumerate(from_left):
            embedding = face.embedding
            if embedding is None or any(float(embedding @ each) >= similarity for each in seen):
                continue
            seen.append(embedding)
            pixels = frame.pixels.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
            yield count, number, face, pixels


def _around(pixels: Any, face: Face) -> Any:
    corners = face.box.reshape(2, 2)
    margin = _AROUND * (corners[1] - corners[0])
    last = np.array(pixels.shape[1::-1])
    left, top = np.clip(np.floor(corners[0] - margin), 0, last - 1).astype(int)
    right, bottom = np.clip(np.ceil(corners[1] + margin), [left + 1, top + 1], last).astype(int)
    return np.ascontiguousarray(pixels[top:bottom, left:right])
