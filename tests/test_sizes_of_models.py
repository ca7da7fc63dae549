"""What a model takes is told from headers, as people have models, and damage is told by name."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import vramx
from vramx.checkpoints import read_model
from vramx.cli import main

Sizes = dict[str, tuple[tuple[int, ...], int]]


def sizes(path: Path) -> Sizes:
    return {each.name: (each.shape, each.nbytes) for each in read_model(path)}


# GGUF


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(tensors: list[tuple[str, tuple[int, ...], int, int]], alignment: int = 32) -> bytes:
    """A file of tensors: name, shape, ggml's number of the type, and bytes."""
    settings = [
        text("general.alignment") + struct.pack("<II", 4, alignment),
        text("general.name") + struct.pack("<I", 8) + text("small"),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
        text("scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.0, 1.0, 2.0),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings)) + b"".join(settings)
    offset, data = 0, b""
    for name, shape, kind, nbytes in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", kind, offset)
        padded = -(-nbytes // alignment) * alignment
        offset, data = offset + padded, data + bytes(padded)
    return head + bytes(-len(head) % alignment) + data


SMALL_GGUF = [
    ("blk.0.attn.weight", (4, 256), 12, 4 * 144),
    ("blk.0.norm.weight", (256,), 0, 1024),
    ("output.weight", (2, 64), 2, 2 * 2 * 18),
]


def test_a_gguf_file_tells_shapes_and_what_quantised_blocks_take(tmp_path: Path) -> None:
    for alignment in (32, 64):
        (path := tmp_path / "model.gguf").write_bytes(gguf(SMALL_GGUF, alignment))
        assert sizes(path) == {name: (shape, took) for name, shape, _, took in SMALL_GGUF}


def test_a_gguf_file_that_ends_within_its_last_tensor_is_told(tmp_path: Path) -> None:
    (path := tmp_path / "model.gguf").write_bytes(gguf(SMALL_GGUF)[:-40])
    with pytest.raises(vramx.ConfigError, match=r"ends within output\.weight"):
        read_model(path)


def test_a_gguf_model_in_parts_is_read_whole(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    paths[0].write_bytes(gguf(SMALL_GGUF[:1]))
    with pytest.raises(vramx.ConfigError, match=r"00002-of-00002.*part 2 of 2"):
        read_model(paths[0])
    paths[1].write_bytes(gguf(SMALL_GGUF[1:]))
    assert list(sizes(paths[0])) == [name for name, *_ in SMALL_GGUF]


# ONNX


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def initializer(name: str, shape: tuple[int, ...], kind: int, *more: bytes, packed: bool) -> bytes:
    sides = (
        field(1, b"".join(map(varint, shape))) if packed else b"".join(field(1, n) for n in shape)
    )
    return field(5, sides + field(2, kind) + field(8, name.encode()) + b"".join(more))


def outside(**said: object) -> bytes:
    pairs = [field(1, key.encode()) + field(2, str(value).encode()) for key, value in said.items()]
    return b"".join(field(13, pair) for pair in pairs) + field(14, 1)


def onnx(*initializers: bytes) -> bytes:
    node = field(1, field(1, b"x") + field(4, b"Relu"))
    return field(1, 8) + field(2, b"tests") + field(7, node + b"".join(initializers))


def onnx_model(folder: Path) -> bytes:
    (folder / "weights.data").write_bytes(bytes(4096))
    where = outside(location="weights.data", offset=1024, length=2048)
    return onnx(
        initializer("a", (4, 5), 1, field(9, bytes(80)), packed=True),
        initializer("b", (1024,), 10, where, packed=False),
        initializer("c", (3,), 7, field(7, bytes([1, 2, 3])), packed=True),
        initializer("names", (1,), 8, field(6, b"text"), packed=True),
    )


def test_an_onnx_file_tells_its_initializers_and_those_kept_beside_it(tmp_path: Path) -> None:
    (path := tmp_path / "model.onnx").write_bytes(onnx_model(tmp_path))
    assert sizes(path) == {"a": ((4, 5), 80), "b": ((1024,), 2048), "c": ((3,), 24)}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (outside(location="../weights.data"), "not in its folder"),
        (outside(location="absent.data"), "there is no file .*absent.data"),
        (outside(location="weights.data", offset=3000), "weights.data is damaged or cut short"),
        (outside(location="weights.data", offset="far"), "weights.data is damaged"),
    ],
)
def test_data_that_an_onnx_file_does_not_have_beside_it_are_named(
    tmp_path: Path, where: bytes, said: str
) -> None:
    (tmp_path / "weights.data").write_bytes(bytes(4096))
    model = onnx(initializer("b", (1024,), 10, where, packed=True))
    (path := tmp_path / "model.onnx").write_bytes(model)
    with pytest.raises(vramx.ConfigError, match=said):
        read_model(path)


@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_whatever_is_cut_off_or_changed_only_typed_errors_come(tmp_path: Path, kind: str) -> None:
    whole = gguf(SMALL_GGUF) if kind == "gguf" else onnx_model(tmp_path)
    path = tmp_path / "model"
    chance = random.Random(0)
    cuts = [whole[:length] for length in range(3, len(whole), max(1, len(whole) // 200))]
    changed = []
    for _ in range(400):
        bad = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(4, min(len(bad), 400))] = chance.randrange(256)
        changed.append(bytes(bad))
    refused = 0
    for content in (*cuts, *changed):
        path.write_bytes(content)
        try:
            read_model(path)
        except vramx.ConfigError as error:
            assert str(tmp_path) in str(error)
            refused += 1
    assert refused > len(cuts) // 2


# Folders


def weights(path: Path, *names: str) -> int:
    save_file({name: np.zeros((4, 8), np.float16) for name in names}, path)
    return 64 * len(names)


def transformers_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in shards.items():
        weights(folder / file, name)
    index = json.dumps({"weight_map": shards})
    (folder / "model.safetensors.index.json").write_text(index)


def test_a_folder_of_transformers_is_read_by_its_index(tmp_path: Path) -> None:
    transformers_folder(folder := tmp_path / "model")
    assert sizes(folder) == {"a": ((4, 8), 64), "b": ((4, 8), 64)}
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(vramx.ConfigError, match=r"there is no file .*00002-of-00002"):
        read_model(folder)


def diffusers_folder(folder: Path) -> None:
    parts = {
        "_class_name": "Pipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps(parts))
    for name in ("scheduler", "text_encoder", "unet"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    weights(folder / "text_encoder" / "model.safetensors", "embed")
    weights(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", "conv", "norm")


def test_a_folder_of_diffusers_is_read_component_by_component(tmp_path: Path) -> None:
    diffusers_folder(folder := tmp_path / "pipeline")
    assert set(sizes(folder)) == {"text_encoder.embed", "unet.conv", "unet.norm"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink(),
            "no weights",
        ),
        (lambda f: (f / "model_index.json").write_text("{"), "model_index.json is damaged"),
        (lambda f: (f / "model_index.json").write_text("[]"), "holds a list"),
        (lambda f: (f / "model_index.json").write_text('{"vae": ["a", "B"]}'), "names vae"),
        (lambda f: (f / "model_index.json").write_text('{"../x": ["a", "B"]}'), "not whole"),
        (lambda f: (f / "model_index.json").write_text("{}"), "holds no weights"),
        (lambda f: (f / "model_index.json").unlink(), "holds no weights: a folder of"),
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(
                b"\x09"
            ),
            "neither safetensors",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_told(
    tmp_path: Path, damage: Callable[[Path], Any], said: str
) -> None:
    diffusers_folder(folder := tmp_path / "pipeline")
    damage(folder)
    with pytest.raises(vramx.ConfigError, match=said):
        read_model(folder)


@pytest.mark.parametrize("kind", ["gguf", "onnx", "transformers", "diffusers"])
def test_plan_and_doctor_tell_what_each_takes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    if kind == "gguf":
        path.write_bytes(gguf(SMALL_GGUF))
    elif kind == "onnx":
        path.write_bytes(onnx_model(tmp_path))
    else:
        (transformers_folder if kind == "transformers" else diffusers_folder)(path)
    taken = sum(nbytes for _, nbytes in sizes(path).values())
    done = CliRunner().invoke(main, ["forecast", str(path), "--card", "RTX 3060", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["weights"] == taken
    found = json.loads(CliRunner().invoke(main, ["doctor", str(path), "--json"]).stdout)
    said = [each for each in found["findings"] if each["check"] == "model"]
    assert said[0]["severity"] == "ok"
    assert f"{len(sizes(path))} tensors" in said[0]["what"]
