"""PNG files of any depth, written rows by rows."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from vramx.pipelines.pictures.formats import Layout
from vramx.pipelines.pictures.types import Beside, Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = (0, 4, 2, 6)  # by the number of channels
_PIXELS_A_METRE = 1 / 0.0254
#: Bytes of rows that are filtered at once: what stays in a processor's cache.
_BLOCK = 2**18

Bytes = npt.NDArray[np.uint8]


class PngWriter:
    """Writes one picture.

    Parameters
    ----------
    file : binary file
        Where to.
    layout : Layout
        The picture: of bytes or of 16 bits.
    beside : Beside
        What is kept of it.
    """

    def __init__(self, file: BinaryIO, layout: Layout, beside: Beside) -> None:
        self._file = file
        self._deep = layout.dtype.itemsize == 2
        self._step = layout.channels * layout.dtype.itemsize
        self._above: Bytes = np.zeros((1, layout.width * self._step), np.uint8)
        self._stream = zlib.compressobj(6, zlib.DEFLATED, 15, 8, zlib.Z_FILTERED)
        file.write(_SIGNATURE)
        bits, kind = 8 * layout.dtype.itemsize, _COLOUR_TYPES[layout.channels - 1]
        self._chunk(
            b"IHDR", struct.pack(">IIBBBBB", layout.width, layout.height, bits, kind, 0, 0, 0)
        )
        if beside.icc_profile is not None:
            self._chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(beside.icc_profile))
        if beside.dpi is not None:
            across, down = (round(each * _PIXELS_A_METRE) for each in beside.dpi)
            self._chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
        if beside.exif is not None:
            self._chunk(b"eXIf", beside.exif.removeprefix(b"Exif\0\0"))
        if beside.xmp is not None:
            self._chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + beside.xmp)

    def put(self, rows: Pixels) -> None:
        """Write the next rows, ``(rows, width)`` or ``(rows, width, channels)``."""
        stored = rows.astype(">u2") if self._deep else rows
        lines = np.ascontiguousarray(stored).view(np.uint8).reshape(len(rows), -1)
        count = max(_BLOCK // lines.shape[1], 1)
        for low in range(0, len(lines), count):
            block = lines[low : low + count]
            filtered = _filtered(block, self._above, self._step)
            self._above = block[-1:].copy()
            if packed := self._stream.compress(filtered.data):
                self._chunk(b"IDAT", packed)

    def finish(self) -> None:
        """Write what is left, when all rows have been put."""
        self._chunk(b"IDAT", self._stream.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, data: bytes) -> None:
        check = zlib.crc32(data, zlib.crc32(name))
        for part in (struct.pack(">I", len(data)), name, data, struct.pack(">I", check)):
            self._file.write(part)


def _filtered(lines: Bytes, above: Bytes, step: int) -> Bytes:
    """Put each row as differences by the one of PNG's filters that leaves the least.

    Parameters
    ----------
    lines : numpy.ndarray
        Of shape ``(rows, bytes)``.
    above : numpy.ndarray
        The row before them.
    step : int
        Bytes of a pixel.

    Returns
    -------
    numpy.ndarray
        Of shape ``(rows, 1 + bytes)``: the filter's number first.
    """
    up = np.concatenate((above, lines[:-1]))
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], corner[:, step:] = lines[:, :-step], up[:, :-step]
    guesses = {
        0: np.zeros_like(lines),
        1: left,
        2: up,
        4: _paeth(left, up, corner),
    }
    made = np.empty((len(lines), lines.shape[1] + 1), np.uint8)
    least = np.full(len(lines), np.iinfo(np.uint64).max, np.uint64)
    for number, guess in guesses.items():
        differences = lines - guess
        cost = np.minimum(differences, -differences).sum(1, dtype=np.uint64)
        better = cost < least
        made[better, 0], made[better, 1:] = number, differences[better]
        least[better] = cost[better]
    return made


def _paeth(left: Bytes, up: Bytes, corner: Bytes) -> Bytes:
    a, b, c = (each.astype(np.int16) for each in (left, up, corner))
    of_left, of_up, of_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(of_up <= of_corner, up, corner)
    is_left = (of_left <= of_up) & (of_left <= of_corner)
    return np.where(is_left, left, nearest)
