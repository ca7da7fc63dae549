"""Weights in ncnn's format: layers as text (``.param``), and their weights in order (``.bin``).

Only what published networks consist of is known; anything else is refused. No size that a file
states is believed before it was compared with the bytes that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vramx.errors import ConfigError

_MAGIC = "7767517"
_FLOAT16 = 0x01306B47
_WITHOUT_WEIGHTS = frozenset(
    ("Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp", "PixelShuffle")
)
#: Of a convolution: outputs, kernel, padding, whether there is a bias, count of weights; then the
#: activation and its parameters.
_CONVOLUTION = frozenset((0, 1, 4, 5, 6))
_ACTIVATION = frozenset((9, -23310))

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Weights:
    """What a layer holds.

    Attributes
    ----------
    layer : str
        The layer's name.
    kind : str
        ``"Convolution"`` or ``"PReLU"``.
    tensors : dict of str to numpy.ndarray
        ``"weight"``, and ``"bias"`` of a convolution, shaped as torch has them, float16 or float32
        as stored.
    """

    layer: str
    kind: str
    tensors: dict[str, Array]


class _Stored:
    """The bytes of a ``.bin``, taken from its start."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    @property
    def left(self) -> int:
        return len(self._content) - self._place

    def take(self, count: int, dtype: str, layer: str) -> Array:
        """Take numbers, and what pads them to four bytes."""
        size = count * np.dtype(dtype).itemsize
        padded = size + -size % 4
        if padded > self.left:
            raise ConfigError(
                f"layer {layer} needs {padded} bytes of weights, of which {self.left} are there: "
                "the file is cut short or not the one that its layers are of"
            )
        numbers = np.frombuffer(self._content, dtype, count, self._place)
        self._place += padded
        return numbers


def read(layers: bytes, content: bytes) -> list[Weights]:
    """Read the weights of a network.

    Parameters
    ----------
    layers : bytes
        The content of the ``.param`` file.
    content : bytes
        That of the ``.bin`` file.

    Returns
    -------
    list of Weights
        Of the layers that have some, in their order.

    Raises
    ------
    ConfigError
        If either is not in the format, holds a layer that is not known, or ends early or late.
    """
    stored = _Stored(content)
    found = []
    for line in _lines(layers):
        kind, layer, options = _parsed(line)
        if kind == "Convolution":
            found.append(Weights(layer, kind, _convolution(layer, options, stored)))
        elif kind == "PReLU":
            _require(layer, options.keys() == {0}, "has other options than its channels")
            slopes = stored.take(_count(layer, options[0]), "<f4", layer)
            found.append(Weights(layer, kind, {"weight": slopes}))
        else:
            _require(layer, kind in _WITHOUT_WEIGHTS, f"is a {kind!r}, which is not known")
    if stored.left:
        raise ConfigError(f"{stored.left} bytes are left after the weights of the last layer")
    return found


def _lines(layers: bytes) -> list[str]:
    try:
        magic, counts, *lines = layers.decode("ascii").splitlines()
        stated = int(counts.split()[0])
    except (ValueError, IndexError) as error:
        raise ConfigError("the list of layers is not text in ncnn's format") from error
    if magic != _MAGIC or stated != len(lines):
        raise ConfigError(
            f"the list of layers begins with {magic[:20]!r} and states {stated} layers, of which "
            f"{len(lines)} are there; ncnn's begins with {_MAGIC}"
        )
    return lines


def _parsed(line: str) -> tuple[str, str, dict[int, str]]:
    """Take apart ``kind name inputs outputs … key=value …``."""
    words = line.split()
    try:
        kind, layer, inputs, outputs = words[:4]
        first = 4 + int(inputs) + int(outputs)
        pairs = [word.split("=") for word in words[first:]]
        return kind, layer, {int(key): value for key, value in pairs}
    except ValueError as error:
        raise ConfigError(f"{line[:80]!r} is not a layer in ncnn's format") from error


def _convolution(layer: str, options: dict[int, str], stored: _Stored) -> dict[str, Array]:
    known = options.keys() in (_CONVOLUTION, _CONVOLUTION | _ACTIVATION)
    _require(layer, known, f"has the options {sorted(options)}, which are not known")
    outputs, kernel, count = (_count(layer, options[key]) for key in (0, 1, 6))
    _require(layer, options[4] == str(kernel // 2), "pads otherwise than to keep the size")
    _require(layer, options[5] == "1", "has no bias")
    inputs, rest = divmod(count, outputs * kernel**2)
    _require(
        layer,
        inputs > 0 and rest == 0,
        f"has {count} weights, which is no multiple for {outputs} outputs",
    )
    tag = int(stored.take(1, "<u4", layer)[0])
    _require(layer, tag == _FLOAT16, f"is stored as {tag:#010x}; only float16 is read")
    weight = stored.take(count, "<f2", layer).reshape(outputs, inputs, kernel, kernel)
    return {"weight": weight, "bias": stored.take(outputs, "<f4", layer)}


def _count(layer: str, text: str) -> int:
    is_count = text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0
    _require(layer, is_count, f"has {text[:20]!r} in the place of a count")
    return int(text)


def _require(layer: str, met: bool, otherwise: str) -> None:
    if not met:
        raise ConfigError(f"layer {layer} {otherwise}")
