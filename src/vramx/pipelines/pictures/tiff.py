"""TIFF files of any depth, written rows by rows, with one page or several."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vramx.pipelines.pictures.formats import Layout
from vramx.pipelines.pictures.types import Beside, Pixels

_HEAD, _BIG_HEAD = b"II*\0\x08\0\0\0", b"II+\0\x08\0\0\0" + struct.pack("<Q", 16)
#: From that many bytes on places need 64 bits; tables and data beside the pixels come on top.
_BIG = 2**32 - 2**26
_LONG8, _UNDEFINED, _BYTE = 16, 7, 1
_INCH = 2
_EXIF_PARTS = (0x8769, 0x8825)


class TiffWriter:
    """Writes pages, uncompressed.

    Parameters
    ----------
    file : binary file
        Where to; can be read and sought in.
    nbytes : int
        Of all pages' pixels together.
    """

    def __init__(self, file: BinaryIO, nbytes: int) -> None:
        self._file = file
        self._big = nbytes > _BIG
        self._next = 0  # where the place of the next page belongs

    def page(self, layout: Layout, beside: Beside) -> None:
        """Begin a page; its rows are put next."""
        tags = ImageFileDirectory_v2(_BIG_HEAD if self._big else _HEAD)
        _describe(tags, layout, beside)
        nbytes = layout.height * layout.width * layout.channels * layout.dtype.itemsize
        tags[279], tags[273] = nbytes, 0  # of one strip, right after the tags
        if self._big:
            tags.tagtype[279] = tags.tagtype[273] = _LONG8
        self._file.seek(0, 2)
        if (begun := self._file.tell()) % 2:
            self._file.write(b"\0")
            begun += 1
        if self._next:
            self._file.seek(self._next)
            self._file.write(struct.pack("<Q" if self._big else "<L", begun))
            self._file.seek(begun)
        tags.save(self._file)
        head = 0 if begun else 16 if self._big else 8
        entries = (8 + 20 * len(tags)) if self._big else (2 + 12 * len(tags))
        self._next = begun + head + entries

    def put(self, rows: Pixels) -> None:
        """Write the next rows of the page."""
        self._file.write(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).data)

    def finish(self) -> None:
        """Do nothing more, when all rows have been put."""


def _describe(tags: Any, layout: Layout, beside: Beside) -> None:
    if beside.exif is not None:
        exif = Image.Exif()
        exif.load(beside.exif)
        for tag in exif:
            tags[tag] = exif.get_ifd(tag) if tag in _EXIF_PARTS else exif[tag]
    colours = 1 if layout.channels < 3 else 3
    bits = (8 * layout.dtype.itemsize,) * layout.channels
    tags[256], tags[257], tags[258] = layout.width, layout.height, bits
    tags[259] = 1  # not compressed
    tags[262] = 1 if colours == 1 else 2
    tags[277], tags[278], tags[284] = layout.channels, layout.height, 1
    if layout.channels > colours:
        tags[338] = 2  # alpha that colours are not multiplied by
    if layout.dtype.kind == "f":
        tags[339] = (3,) * layout.channels
    if beside.dpi is not None:
        tags[282], tags[283], tags[296] = *beside.dpi, _INCH
    if beside.icc_profile is not None:
        tags[34675], tags.tagtype[34675] = beside.icc_profile, _UNDEFINED
    if beside.xmp is not None:
        tags[700], tags.tagtype[700] = beside.xmp, _BYTE
