"""The tensors of a GGUF file, from its header."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vramx.checkpoints.tensors import StoredTensor
from vramx.errors import ConfigError

MAGIC = b"GGUF"
#: Names of types by their numbers, as ggml.h has them.
_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1"), 6)),
    **dict(enumerate(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), 10)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL"), 16)),
    **dict(enumerate(("IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64"), 21)),
    **dict(enumerate(("IQ1_M", "BF16"), 29)),
    **dict(enumerate(("TQ1_0", "TQ2_0"), 34)),
    39: "MXFP4",
}
#: What values take, by the number of their kind; a string and an array are read.
_FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)")


class _Header:
    """Reads little-endian values, no more than the file has."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._file = file

    @property
    def place(self) -> int:
        return self._file.tell()

    def raw(self, nbytes: int) -> bytes:
        if nbytes > self.size - self.place:
            raise self.damaged("it ends within its header")
        return self._file.read(nbytes)

    def skip(self, nbytes: int) -> None:
        if nbytes > self.size - self.place:
            raise self.damaged("it ends within its header")
        self._file.seek(nbytes, 1)

    def number(self, kind: str) -> int:
        return int(struct.unpack(f"<{kind}", self.raw(struct.calcsize(kind)))[0])

    def text(self) -> str:
        return self.raw(self.number("Q")).decode("utf-8", "replace")

    def count(self, what: str) -> int:
        """Read how many follow, each of which takes a byte at least."""
        found = self.number("Q")
        if found > self.size:
            raise self.damaged(f"it claims {found} {what}")
        return found

    def damaged(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self.path}, a GGUF file, is damaged or cut short ({self.size} bytes): {why}"
        )

    def value(self, kind: int, depth: int = 0) -> int | None:
        """Pass by a value; return it if it is a whole number of 32 bits, as an alignment is."""
        if kind == 4:
            return self.number("I")
        if kind in _FIXED:
            self.skip(_FIXED[kind])
        elif kind == _STRING:
            self.skip(self.number("Q"))
        elif kind == _ARRAY and depth < 4:
            inner, count = self.number("I"), self.count("values")
            if inner in _FIXED:
                self.skip(_FIXED[inner] * count)
            else:
                for _ in range(count):
                    self.value(inner, depth + 1)
        else:
            raise self.damaged(f"a value of the unknown kind {kind}")
        return None


def read_gguf(path: Path) -> Iterator[StoredTensor]:
    """List the tensors of a GGUF file, and of its other parts where it is one of several.

    Parameters
    ----------
    path : Path
        The file.

    Yields
    ------
    StoredTensor
        With ggml's name of the type.

    Raises
    ------
    ConfigError
        If a file is not there, damaged or of a version or type that is not known.
    OSError
        If it cannot be read.
    """
    part = _PART.fullmatch(path.name)
    if part is None:
        yield from _read(path)
        return
    for number in range(1, int(part[3]) + 1):
        file = path.with_name(f"{part[1]}-{number:05d}-of-{part[3]}{part[4]}")
        if not file.is_file():
            raise ConfigError(f"there is no file {file}, part {number} of {int(part[3])}")
        yield from _read(file)


def _read(path: Path) -> Iterator[StoredTensor]:
    with path.open("rb") as file:
        header = _Header(path, file)
        if header.raw(4) != MAGIC:
            raise ConfigError(f"{path} is not a GGUF file")
        version = header.number("I")
        if version not in (2, 3):
            raise ConfigError(
                f"{path} is a GGUF file of version {version}; 2 and 3 are read, little-endian"
            )
        tensors, pairs = header.count("tensors"), header.count("settings")
        alignment = 32
        for _ in range(pairs):
            name, kind = header.text(), header.number("I")
            found = header.value(kind)
            if name == "general.alignment" and found:
                alignment = found
        found_tensors = [_tensor(header) for _ in range(tensors)]
        start = -(-header.place // alignment) * alignment
    for tensor, offset in found_tensors:
        if start + offset + tensor.nbytes > header.size:
            raise header.damaged(f"it ends within {tensor.name}")
        yield tensor


def _tensor(header: _Header) -> tuple[StoredTensor, int]:
    name, dimensions = header.text(), header.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise header.damaged(f"{name} has {dimensions} dimensions")
    sides = [header.number("Q") for _ in range(dimensions)]
    kind, offset = header.number("I"), header.number("Q")
    if kind not in _TYPES:
        raise ConfigError(f"{header.path}: {name} is of the type {kind}, which is not known")
    if math.prod(sides) > 2**63:
        raise header.damaged(f"{name} has sides of {sides}")
    return StoredTensor(name, tuple(reversed(sides)), _TYPES[kind]), offset
