"""ONNX files in the place of torch networks do what those who made them do with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import vramx
from vramx.cli import main

pytest.importorskip("onnx", reason="models are read by onnx: pip install 'vramx[onnx]'")
pytest.importorskip("onnxruntime", minversion="1.28")
pytest.importorskip("skimage.data")
PIL_Image = pytest.importorskip("PIL.Image")
import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from onnx_networks import (  # noqa: E402
    write_detector,
    write_enhancer,
    write_recognizer,
    write_swapper,
)
from vramx.pipelines.faces import template  # noqa: E402
from vramx.pipelines.swapping.networks import Enhancer, Recognizer, Swapper  # noqa: E402

from .clips import X264, read_clip, write_clip  # noqa: E402
from .onnx_running import (  # noqa: E402
    BLOCK,
    SIDE,
    computing,
    embedding,
    photograph,
    planes,
    reference,
    resaved,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*what the detector took for a face")


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


@pytest.mark.parametrize("normalises", [False, True])
def test_embeddings_are_those_of_insightface(tmp_path: Path, normalises: bool) -> None:
    arcface = pytest.importorskip("insightface.model_zoo.arcface_onnx")
    path = tmp_path / "rec.onnx"
    write_recognizer(path, normalises=normalises)
    crops = [photograph(112, seed) for seed in range(3)]
    theirs = arcface.ArcFaceONNX(str(path), reference(path))
    wanted = theirs.get_feat([crop[..., ::-1] for crop in crops])
    with computing(Recognizer(path, 4)) as recognizer:
        made = np.stack(recognizer([planes(crop) for crop in crops]))
    np.testing.assert_allclose(made, wanted / np.linalg.norm(wanted, axis=1)[:, None], atol=1e-6)


@pytest.mark.parametrize("side", [128, 256])
def test_crops_are_swapped_as_by_insightface(tmp_path: Path, side: int) -> None:
    inswapper = pytest.importorskip("insightface.model_zoo.inswapper")
    common = pytest.importorskip("insightface.app.common")
    path = tmp_path / "swap.onnx"
    write_swapper(path, side)
    theirs = inswapper.INSwapper(str(path), reference(path))
    crop = photograph(side)
    kps = template(128, side).astype(np.float32)  # which cut out all of the picture
    source = common.Face(embedding=embedding())
    wanted, matrix = theirs.get(crop[..., ::-1], common.Face(kps=kps), source, paste_back=False)
    np.testing.assert_allclose(matrix, np.eye(3)[:2], atol=1e-5)
    with computing(Swapper(path, 4)) as swapper:
        ((made, mask),) = swapper([planes(crop)], [embedding()])
    assert mask is None
    off = made.permute(1, 2, 0).numpy() * 255 - wanted[..., ::-1]
    # insightface cuts the fraction off.
    assert off.min() > -0.01
    assert off.max() < 1.01
    assert np.abs(wanted[..., ::-1].astype(int) - crop).mean() > 5


def test_a_swapper_without_a_map_gets_the_embedding_and_masks_are_used(tmp_path: Path) -> None:
    path = tmp_path / "swap.onnx"
    write_swapper(path, mapped=False, mask=True)
    crops = [photograph(seed=seed) for seed in range(2)]
    with computing(Swapper(path, 4)) as swapper:
        made = swapper([planes(crop) for crop in crops], [embedding(0), embedding(1)])
    for seed, (crop, (picture, mask)) in enumerate(zip(crops, made, strict=True)):
        fed = {"target": planes(crop)[None].numpy(), "source": embedding(seed)[None]}
        wanted = reference(path).run(None, fed)
        np.testing.assert_allclose(picture, wanted[0][0], atol=1e-6)
        np.testing.assert_allclose(mask, wanted[1][0, 0], atol=1e-6)


NUMBERS = {
    "codeformer": ("weight", np.float64, [1]),
    "other": ("w", np.float32, []),
    "half": ("w", np.float16, [1]),
}


@pytest.mark.parametrize("side", [128, 512])
@pytest.mark.parametrize("kind", ["gfpgan", *NUMBERS])
def test_crops_are_enhanced_from_black_as_minus_one(tmp_path: Path, kind: str, side: int) -> None:
    path, weight, beside = tmp_path / "enhancer.onnx", None, {}
    if kind != "gfpgan":
        name, dtype, sides = NUMBERS[kind]
        weight = (name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sides)
        beside = {name: np.full(sides, 0.5, dtype)}
    write_enhancer(path, side, weight)
    crop = photograph(side)
    (wanted,) = reference(path).run(None, {"input": planes(crop)[None].numpy() * 2 - 1, **beside})
    with computing(Enhancer(path, 4)) as enhancer:
        (made,) = enhancer([planes(crop)])
    np.testing.assert_allclose(made, (wanted[0] + 1) / 2, atol=1e-6)
    assert wanted.std() > 0.1


def test_shapes_of_outputs_need_not_be_told(tmp_path: Path) -> None:
    def forget(graph: Any) -> None:
        for dimension in graph.output[0].type.tensor_type.shape.dim:
            dimension.dim_param = f"any_{dimension.dim_value}"

    for kind, write in ((Enhancer, write_enhancer), (Swapper, write_swapper)):
        path = resaved(forget, lambda path, write=write: write(path, 128), tmp_path / "x.onnx")
        with computing(kind(path, 4)) as network:
            more = () if kind is Enhancer else ([embedding()],)
            (made,) = network([planes(photograph())], *more)
            picture = made if kind is Enhancer else made[0]
            assert picture.shape == (3, 128, 128)


# The chain

MODELS = ("detector", "recognizer", "swapper")
#: In all 3 MiB, the largest 1.6.
BUDGET = "1.75MiB"


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    paths = {role: tmp_path / f"{role}.onnx" for role in MODELS}
    write_detector(paths["detector"])
    write_recognizer(paths["recognizer"])
    write_swapper(paths["swapper"])
    return paths


@contextmanager
def swapping(models: dict[str, Any], **options: Any) -> Iterator[Any]:
    card = {"budget": "16MiB", "block": BLOCK, "backend": "simulated", "score": 0.95}
    given = {**models, "detector": vramx.FaceModel(models["detector"], size=SIDE)}
    with vramx.face_swap(**given, **{**card, **options}) as fs:
        yield fs


def test_a_small_budget_is_held_and_changes_nothing(models: dict[str, Path]) -> None:
    models["enhancer"] = models["swapper"].with_name("enhancer.onnx")
    write_enhancer(models["enhancer"], 128)
    pictures = [photograph(seed=seed) for seed in range(3)]
    made = {}
    for budget in ("16MiB", BUDGET):
        with swapping(models, budget=budget, batch=2) as fs:
            made[budget] = [*fs(pictures[0], pictures)]
            stats = fs.session.stats()
            assert stats.peak_resident <= stats.budget
            used = {each.name: each.uses for each in fs.session.modules()}
            assert set(used) == {path.name for path in models.values()}
            assert min(used.values()) > 0
    evicted = stats.evictions
    assert evicted > 0
    assert stats.moved_out == 0
    for large, small, picture in zip(*made.values(), pictures, strict=True):
        assert np.array_equal(large, small)
        assert not np.array_equal(large, picture)


def test_in_a_session_of_the_caller_s_nothing_is_left(models: dict[str, Path]) -> None:
    with vramx.oversubscribe(budget="16MiB", block=BLOCK, backend="simulated") as session:
        before = session.stats().managed
        given = {role: str(path) for role, path in models.items()}
        with vramx.face_swap(**given, session=session, score=0.93) as fs:
            assert session.stats().managed > before
            assert fs.find(photograph())
        assert session.stats().managed == before


def command(folder: Path, models: dict[str, Path], *more: object, out: str = "out.mp4") -> Any:
    paths = [folder / name for name in ("me.png", "in.mp4", out)]
    given = [word for role, path in models.items() for word in (f"--{role}", path)]
    given += ["--size", "detector", SIDE, "--score", 0.95, "--json", "--segment", 2]
    card = ["--backend", "simulated", "--budget", BUDGET, "--block", BLOCK]
    codec = [word for name in X264 for word in ("--codec-option", f"{name}={X264[name]}")]
    return CliRunner().invoke(
        main, [str(x) for x in ["swap", *paths, *given, *card, *codec, *more]]
    )


def test_a_video_is_swapped_by_files_alone_and_resumed_by_the_same_alone(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL_Image.fromarray(photograph()).save(tmp_path / "me.png")
    count = 4
    write_clip(tmp_path / "in.mp4", count, audio=False, draw=lambda n: photograph(seed=n))
    call, left = Swapper.__call__, [3]

    def stopping(self: Any, *given: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return call(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Swapper, "__call__", stopping)
        assert command(tmp_path, models, "--batch", 1).exit_code == 130
    assert (tmp_path / "out.mp4.parts").is_dir()
    other = tmp_path / "other.onnx"
    write_swapper(other)
    model = onnx.load(other)
    (first, *_) = model.graph.initializer
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * 2, first.name))
    onnx.save(model, other)
    refused = command(tmp_path, {**models, "swapper": other}, "--batch", 1)
    assert refused.exit_code == 1
    assert "to go on with it, or delete" in refused.stderr
    moved = models["swapper"].rename(tmp_path / "moved.onnx")  # the same, under another name
    done = command(tmp_path, {**models, "swapper": moved}, "--batch", 1)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["frames"] == count
    assert told["swapped"] > count
    assert told["stats"]["peak_resident"] <= told["stats"]["budget"]
    command(tmp_path, {**models, "swapper": moved}, "--batch", 1, out="whole.mp4")
    made, whole, source = (
        read_clip(tmp_path / name).frames for name in ("out.mp4", "whole.mp4", "in.mp4")
    )
    for got, wanted, before in zip(made, whole, source, strict=True):
        assert np.array_equal(got, wanted)
        assert np.abs(got.astype(int) - before).mean() > 10


# What is refused


def fix_count(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def fix_oblong(graph: Any) -> None:
    for axis, side in ((2, 64), (3, 96)):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side


@pytest.mark.parametrize(
    ("role", "write", "said"),
    [
        ("detector", write_recognizer, r"no detector that is known: it takes input\.1 float32"),
        ("detector", write_recognizer, r"\(any, 3, 112, 112\).*SCRFD.*YOLO-face.*RetinaFace"),
        ("recognizer", write_detector, r"no recognizer that is known.*ArcFace"),
        ("swapper", write_recognizer, r"no swapper that is known.*inswapper"),
        ("enhancer", write_swapper, r"no enhancer that is known.*GFPGAN.*CodeFormer"),
        ("mask", write_recognizer, "not taken as ONNX files"),
        ("detector", lambda path: resaved(fix_count, write_detector, path), "must be 1"),
        ("detector", lambda path: resaved(fix_oblong, write_detector, path), "must be square"),
        ("detector", lambda path: path.write_bytes(b"<html>"), "not an ONNX file"),
        ("detector", lambda path: path.write_bytes(b"\x08\x09\x12\x7f"), "damaged"),
        ("detector", lambda _: None, "there is no file"),
    ],
)
def test_what_is_not_recognised_is_refused_by_what_was_found_and_what_is_known(
    models: dict[str, Path], tmp_path: Path, role: str, write: Callable[[Path], Any], said: str
) -> None:
    write(tmp_path / "odd.onnx")
    with pytest.raises(vramx.ConfigError, match=rf"^{role}: .*odd\.onnx.*") as error:
        vramx.face_swap(**{**models, role: tmp_path / "odd.onnx"})
    error.match(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "a.onnx", "modules": [torch.nn.ReLU()]}, "leave modules out"),
        ({"model": "a.pt"}, r"a\.pt is not named as an ONNX file"),
    ],
)
def test_a_path_is_of_an_onnx_file_alone(given: dict[str, Any], said: str) -> None:
    with pytest.raises(vramx.ConfigError, match=said):
        vramx.FaceModel(**given)


def test_a_size_that_a_file_does_not_take_is_refused(models: dict[str, Path]) -> None:
    for role, size, said in (("swapper", 256, "of 128 alone"), ("detector", 100, "multiple of 32")):
        with pytest.raises(vramx.ConfigError, match=f"{role}: size {size} .*{said}"):
            vramx.face_swap(**{**models, role: vramx.FaceModel(models[role], size=size)})


def test_a_dtype_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    PIL_Image.fromarray(photograph()).save(tmp_path / "me.png")
    write_clip(tmp_path / "in.mp4", 2, audio=False)
    done = command(tmp_path, models, "--dtype", "swapper", "half")
    assert done.exit_code == 1
    assert "give no dtype" in done.stderr


def test_an_embedding_of_another_length_is_refused(models: dict[str, Path]) -> None:
    with swapping(models) as fs:
        with pytest.raises(vramx.ConfigError, match=r"of 512 numbers, but .* have 3"):
            fs(np.array([1.0, 0, 0]), photograph())


def test_what_was_said_of_a_file_counts(models: dict[str, Path]) -> None:
    crop = photograph()
    said = vramx.FaceModel(models["swapper"], value_range=(-1, 1), order="BGR")
    with computing(Swapper(said, 4)) as swapper:
        ((made, _),) = swapper([planes(crop)], [embedding()])
    emap = numpy_helper.to_array(onnx.load(models["swapper"]).graph.initializer[-1])
    latent = embedding() @ emap
    fed = {
        "target": planes(crop).flip(0)[None].numpy() * 2 - 1,
        "source": (latent / np.linalg.norm(latent))[None],
    }
    (wanted,) = reference(models["swapper"]).run(None, fed)
    np.testing.assert_allclose(made, (wanted[0, ::-1] + 1) / 2, atol=1e-5)
