"""What belongs to pictures beside their pixels: from files, and without the turn that is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from vramx.pipelines.pictures.types import Beside, Pixels

_XMP, _ICC, _ORIENTATION = 700, 34675, 274  # tags
_UNIT, _X_RESOLUTION, _Y_RESOLUTION = 296, 282, 283
_CENTIMETRE = 3
#: Tags that TIFF files have among those of EXIF, and which say how their pixels lie.
_OF_PIXELS = frozenset(
    [
        *(*range(254, 267), 273, *range(277, 285), *range(290, 298), 301, *range(317, 326), 330),
        *(332, *range(338, 348), *range(512, 533), _XMP, _ICC, 33723, 34377),
    ]
)
#: What puts an array upright, by EXIF's orientation.
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 3),
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: np.rot90(x, 1),
}


def beside_of(image: Image.Image, file: Image.Image, path: Path) -> Beside:
    """Take what belongs to a picture.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture, with its colours as they are kept.
    file : PIL.Image.Image
        As Pillow opened it.
    path : Path
        Where it is from.

    Returns
    -------
    Beside
        What there is.
    """
    info = image.info
    exif = exif_of_tags(file.getexif()) if file.format == "TIFF" else info.get("exif")
    dpi = info.get("dpi")
    return Beside(
        icc_profile=info.get("icc_profile") or None,
        exif=exif or None,
        xmp=_bytes(info.get("xmp")),
        dpi=None if dpi is None else (float(dpi[0]), float(dpi[1])),
        jpeg_tables=file.quantization if isinstance(file, JpegImageFile) else None,
        lossless=file.format == "WEBP" and _is_lossless_webp(path),
    )


def beside_of_tags(path: Path, tags: Any) -> Beside:
    """Take what belongs to a picture from the tags of a TIFF file."""
    exif = Image.Exif()
    with path.open("rb") as file:
        exif.load_from_fp(file)
        found = exif_of_tags(exif)
    across, down = tags.get(_X_RESOLUTION), tags.get(_Y_RESOLUTION)
    unit = 2.54 if tags.get(_UNIT) == _CENTIMETRE else 1.0
    return Beside(
        icc_profile=_bytes(tags.get(_ICC)),
        exif=found,
        xmp=_bytes(tags.get(_XMP)),
        dpi=None if None in (across, down) else (float(across) * unit, float(down) * unit),
    )


def exif_of_tags(tags: Image.Exif) -> bytes | None:
    """Return the EXIF data of a TIFF file, which lie among the tags of its pixels."""
    made = Image.Exif()
    for tag in tags:
        if tag not in _OF_PIXELS:
            made[tag] = tags.get_ifd(tag) if tag in (0x8769, 0x8825) else tags[tag]
    return made.tobytes() if len(made) else None


def without_turn(beside: Beside) -> Beside:
    """Take the orientation out of EXIF and XMP data."""
    holder = Image.new("L", (1, 1))
    holder.info.update(
        {key: value for key in ("exif", "xmp") if (value := getattr(beside, key)) is not None}
    )
    upright = ImageOps.exif_transpose(holder).info
    return dataclasses.replace(
        beside, exif=upright.get("exif") or None, xmp=_bytes(upright.get("xmp"))
    )


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Turn an array upright, of which EXIF says how it lies."""
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _bytes(data: Any) -> bytes | None:
    return (data.encode() if isinstance(data, str) else data) or None


def _is_lossless_webp(path: Path) -> bool:
    """Tell whether all that is in a WebP file is of its kind that loses nothing."""
    found = []
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            if name == b"ANMF":
                file.seek(16, 1)  # a frame's place and time; its chunks follow
                continue
            found.append(name)
            file.seek(size + size % 2, 1)
    return b"VP8L" in found and b"VP8 " not in found
