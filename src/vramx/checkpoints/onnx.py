"""The initializers of an ONNX file, without their values.

ONNX files are protocol buffers (onnx.proto3): fields, each with its number and how long it is.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vramx.checkpoints.tensors import StoredTensor
from vramx.errors import ConfigError

#: Names of types by their numbers in TensorProto.DataType; those of no numbers are left out.
_TYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3",
    19: "F8_E5M2",
    20: "F8_E5M2",
    21: "U4",
    22: "I4",
    23: "F4",
}
_STRINGS = 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Numbers of fields: of a model its graph, of that the initializers, and of those.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14

Span = tuple[int, int]


def is_named_as_onnx(path: Path) -> bool:
    """Tell whether a file's name promises an ONNX model."""
    return path.suffix.lower() == ".onnx"


def is_onnx(begins: bytes) -> bool:
    """Tell whether a file begins as ONNX files do: with the version of the format."""
    return len(begins) > 2 and begins[0] == 0x08 and 3 <= begins[1] < 32


def read_onnx(path: Path) -> Iterator[StoredTensor]:
    """List the initializers of an ONNX file.

    Parameters
    ----------
    path : Path
        The file; what it keeps in others beside it must be there.

    Yields
    ------
    StoredTensor
        The initializers of its graph.

    Raises
    ------
    ConfigError
        If it is damaged, or data that it names are not there or cut short.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = _Reader(path, content)
        for number, kind, graph in reader.fields((0, len(content))):
            if number != _GRAPH or kind != _BYTES:
                continue
            for inner, inner_kind, tensor in reader.fields(graph):
                if inner == _INITIALIZER and inner_kind == _BYTES:
                    yield from reader.tensor(tensor)


class _Reader:
    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content

    def _damaged(self, why: str) -> ConfigError:
        size = len(self._content)
        return ConfigError(f"{self._path} is damaged or cut short ({size} bytes): {why}")

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                break
            byte = self._content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, place
        raise self._damaged("a number in it does not end")

    def fields(self, span: Span) -> Iterator[tuple[int, int, Span]]:
        """Go through the fields of a message: number, kind, and where they lie.

        Of a number, that is its value and 0.
        """
        place, end = span
        while place < end:
            tag, place = self._varint(place, end)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value, place = self._varint(place, end)
                yield number, kind, (value, 0)
                continue
            if kind == _BYTES:
                length, place = self._varint(place, end)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise self._damaged(f"a field of the unknown kind {kind}")
            if number == 0 or length > end - place:
                raise self._damaged("a field reaches beyond what holds it")
            yield number, kind, (place, place + length)
            place += length

    def _text(self, span: Span) -> str:
        return self._content[span[0] : span[1]].decode("utf-8", "replace")

    def tensor(self, span: Span) -> Iterator[StoredTensor]:
        """Read an initializer; one of strings is passed by."""
        fields: dict[int, list[Span]] = {}
        sides: list[int] = []
        for number, kind, value in self.fields(span):
            if number != _DIMS:
                fields.setdefault(number, []).append(value)
            else:
                sides += [value[0]] if kind == _VARINT else self._packed(value)
        data_type, external = (fields.get(n, [(0, 0)])[-1][0] for n in (_DATA_TYPE, _LOCATION))
        name = "".join(self._text(value) for value in fields.get(_NAME, [])[-1:])
        if data_type == _STRINGS:
            return
        if data_type not in _TYPES:
            raise ConfigError(
                f"{self._path}: {name} is of the type {data_type}, which is not known"
            )
        found = StoredTensor(name, tuple(sides), _TYPES[data_type])
        if external:
            self._check_external(found, dict(map(self._pair, fields.get(_EXTERNAL, []))))
        for first, last in fields.get(_RAW, []):
            if last - first != found.nbytes:
                raise self._damaged(f"{name} has {last - first} bytes of {found.nbytes}")
        yield found

    def _packed(self, span: Span) -> list[int]:
        place, values = span[0], []
        while place < span[1]:
            value, place = self._varint(place, span[1])
            values.append(value)
        return values

    def _pair(self, span: Span) -> tuple[str, str]:
        texts = {n: self._text(where) for n, kind, where in self.fields(span) if kind == _BYTES}
        return texts.get(1, ""), texts.get(2, "")

    def _check_external(self, tensor: StoredTensor, said: dict[str, str]) -> None:
        name = PurePosixPath(said.get("location", ""))
        if not name.name or name.is_absolute() or ".." in name.parts:
            raise ConfigError(
                f"{self._path} names {str(name)!r} for {tensor.name}, which is not in its folder"
            )
        file = self._path.parent / name
        if not file.is_file():
            raise ConfigError(f"there is no file {file}, in which {self._path} keeps {tensor.name}")
        offset = said.get("offset", "0")
        if not (offset.isdecimal() and int(offset) + tensor.nbytes <= file.stat().st_size):
            raise ConfigError(
                f"{file} is damaged or cut short ({file.stat().st_size} bytes): it ends within "
                f"{tensor.name}"
            )
