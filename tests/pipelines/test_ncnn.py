"""Weights in ncnn's format are read as they were written, and nothing else is."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vramx

pytest.importorskip("torch")
from vramx.pipelines.pretrained.ncnn import read

TAG = struct.pack("<I", 0x01306B47)
#: Outputs, inputs and kernel of convolutions; each is followed by a PReLU.
SHAPES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3, 5])),
    min_size=1,
    max_size=3,
)


def written(shapes: list[tuple[int, int, int]]) -> tuple[bytes, bytes, list[np.ndarray]]:
    """Write layers with the numbers 0, 1, 2, … for weights."""
    lines = ["Input data 0 1 data"]
    content, tensors, number = b"", [], 0

    def numbers(shape: tuple[int, ...], dtype: str) -> bytes:
        nonlocal number
        made = np.arange(number, number + np.prod(shape)).reshape(shape).astype(dtype)
        number = (number + made.size) % 2000  # which float16 holds exactly
        tensors.append(made)
        return made.tobytes() + bytes(-made.nbytes % 4)

    for place, (outputs, inputs, kernel) in enumerate(shapes):
        count = outputs * inputs * kernel**2
        lines.append(
            f"Convolution c{place} 1 1 data a 0={outputs} 1={kernel} 4={kernel // 2} 5=1 6={count}"
        )
        content += TAG + numbers((outputs, inputs, kernel, kernel), "<f2")
        content += numbers((outputs,), "<f4")
        lines.append(f"PReLU p{place} 1 1 a data 0={outputs}")
        content += numbers((outputs,), "<f4")
    text = "\n".join(["7767517", f"{len(lines)} 9", *lines])
    return text.encode(), content, tensors


@given(SHAPES)
def test_what_is_read_is_what_was_written(shapes: list[tuple[int, int, int]]) -> None:
    layers, content, tensors = written(shapes)
    found = [tensor for each in read(layers, content) for tensor in each.tensors.values()]
    assert [(each.shape, each.dtype) for each in found] == [(t.shape, t.dtype) for t in tensors]
    assert all(map(np.array_equal, found, tensors))


@given(SHAPES, st.data())
def test_weights_of_any_other_length_are_refused(
    shapes: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    layers, content, _ = written(shapes)
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(vramx.ConfigError):
        read(layers, content[:length])
    with pytest.raises(vramx.ConfigError, match="are left"):
        read(layers, content + bytes(1 + length))


@given(SHAPES, st.data())
def test_a_damaged_list_of_layers_is_refused_by_type_or_read_within_the_file(
    shapes: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    layers, content, _ = written(shapes)
    place = data.draw(st.integers(0, len(layers) - 1))
    damaged = layers[:place] + data.draw(st.binary(max_size=3)) + layers[place + 1 :]
    try:
        found = read(damaged, content)
    except vramx.ConfigError:
        return
    assert sum(t.nbytes for each in found for t in each.tensors.values()) <= len(content)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"7767517", b"7767518", "begins with"),
        (b"3 9", b"4 9", "states 4 layers"),
        (b"PReLU p0", b"Scale p0", "is a 'Scale', which is not known"),
        (b"1=3", b"1=3 3=2", "has the options"),
        (b" 4=1", b" 4=0", "pads otherwise"),
        (b"5=1", b"5=0", "has no bias"),
        (b"6=18", b"6=19", "no multiple"),
        (b"6=18", b"6=999999999", "no multiple"),
        (b"6=18", b"6=900000000", "are there"),
        (b"6=18", b"6=-18", "in the place of a count"),
        (b"6=18", b"6=1000000000000000000000", "in the place of a count"),
        (b"0=2 1", b"0=0 1", "in the place of a count"),
        (b" 1 1 data a", b" 1 x data a", "is not a layer"),
        (b"Input", b"\xff", "not text"),
    ],
)
def test_what_is_not_expected_is_refused_with_the_reason(old: bytes, new: bytes, said: str) -> None:
    layers, content, _ = written([(2, 1, 3)])
    assert layers.count(old) == 1
    with pytest.raises(vramx.ConfigError, match=said):
        read(layers.replace(old, new), content)


def test_weights_in_another_precision_are_refused() -> None:
    layers, content, _ = written([(2, 1, 3)])
    with pytest.raises(vramx.ConfigError, match="0x000d4b38; only float16"):
        read(layers, struct.pack("<I", 0x000D4B38) + content[4:])
