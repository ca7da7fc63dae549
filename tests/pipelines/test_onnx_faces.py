"""ONNX files in the place of torch networks do what those who made them do with them."""

from __future__ import annotations

import contextlib
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

onnx = pytest.importorskip("onnx", reason="models are read by onnx: pip install 'vramx[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", minversion="1.28")
PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage.data")
pytestmark = pytest.mark.filterwarnings("ignore:.*what the detector took for a face")
from onnx import numpy_helper  # noqa: E402

from onnx_networks import (  # noqa: E402
    write_detector,
    write_enhancer,
    write_recognizer,
    write_retina,
    write_swapper,
    write_yolo,
)
from vramx.pipelines.faces import align, template  # noqa: E402
from vramx.pipelines.onnx.files import read_file  # noqa: E402
from vramx.pipelines.swapping.networks import Detector, Enhancer, Recognizer, Swapper  # noqa: E402

from .clips import X264, read_clip, write_clip  # noqa: E402

SIDE = 128
BLOCK = 64 * 2**10
#: What float32 rounds where values are divided and added in another order, of pixels and parts.
CLOSE = {"rtol": 1e-5, "atol": 1e-3}
Pixels = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


@contextmanager
def computing(network: Any, budget: Any = "16MiB") -> Iterator[Any]:
    with vramx.oversubscribe(budget=budget, block=BLOCK, backend="simulated") as session:
        with network.within(session), torch.inference_mode():
            yield network


def photograph(side: int = SIDE, seed: int = 0) -> Pixels:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[20 * seed :, 512 - max(side, 412) :][:side, :side])


def planes(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def detected(path: Path, *pictures: Pixels, score: float = 0.7) -> list[list[Any]]:
    given = vramx.FaceModel(path, size=pictures[0].shape[0])
    with computing(Detector(given, 4, score)) as detector:
        return detector([planes(picture) for picture in pictures])


def rows(faces: list[Any]) -> Pixels:
    return np.array([[*each.box, each.score, *each.landmarks.flatten()] for each in faces])


def reference() -> Any:
    """What insightface runs sums in vramx's order: weights are not packed."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    return lambda path: onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


# Detectors


@pytest.mark.parametrize(("levels", "batched"), [(3, False), (3, True), (5, False)])
@pytest.mark.parametrize("kinds", [("score", "bbox", "kps"), ("score", "bbox")])
def test_scrfd_finds_what_insightface_finds(
    tmp_path: Path, kinds: tuple[str, ...], levels: int, batched: bool
) -> None:
    path = tmp_path / "det.onnx"
    write_detector(path, kinds, levels=levels, batched=batched)
    theirs = insightface_detector(path, levels)
    pictures = [photograph(seed=seed) for seed in range(3)]
    told = pytest.warns(RuntimeWarning, match="boxes alone")
    with contextlib.nullcontext() if "kps" in kinds else told:
        found = detected(path, *pictures)
    for faces, picture in zip(found, pictures, strict=True):
        boxes, landmarks = theirs.detect(picture[..., ::-1], (SIDE, SIDE))
        assert len(boxes) > 3
        np.testing.assert_allclose(rows(faces)[:, :5], boxes, **CLOSE)
        if landmarks is not None:
            np.testing.assert_allclose(rows(faces)[:, 5:], landmarks.reshape(-1, 10), **CLOSE)


def insightface_detector(path: Path, levels: int) -> Any:
    scrfd = pytest.importorskip("insightface.model_zoo.scrfd")
    retina = pytest.importorskip("insightface.model_zoo.retinaface")
    session = reference()(path)
    if levels == 3:
        made = scrfd.SCRFD(str(path), session, static_shape_sessions=False)
    else:
        made = retina.RetinaFace(str(path), session)
    made.det_thresh = 0.7
    return made


def test_landmarks_of_a_detector_without_any_lie_in_its_boxes_as_a_face_s(tmp_path: Path) -> None:
    write_detector(tmp_path / "det.onnx", ("score", "bbox"))
    with pytest.warns(RuntimeWarning, match="boxes alone"):
        (faces,) = detected(tmp_path / "det.onnx", photograph())
    assert faces
    for face in faces:
        box, inside = face.box.reshape(2, 2), face.landmarks
        assert (inside > box[0]).all()
        assert (inside < box[1]).all()
        align(face.landmarks, 112)  # which refuses what lies as no face's do


def test_outputs_of_scrfd_may_come_in_any_order(tmp_path: Path) -> None:
    write_detector(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    outputs = [*model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(outputs[place] for place in (4, 8, 0, 2, 6, 1, 7, 3, 5))
    onnx.save(model, tmp_path / "b.onnx")
    first, second = (
        rows(*detected(tmp_path / name, photograph())) for name in ("a.onnx", "b.onnx")
    )
    assert len(first) > 3
    assert np.array_equal(first, second)


def boxes_of_yolo(found: Pixels) -> Pixels:
    x, y, width, height, *rest = found
    marks = np.stack(rest[1:]).reshape(5, 3, -1)[:, :2].reshape(10, -1)
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return np.stack([*corners, rest[0], *marks], axis=1)


def boxes_of_retina(found: list[Pixels]) -> Pixels:
    offsets, scores, marks = (each[0].astype(np.float64) for each in found)
    made, number = [], 0
    for stride, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for row in range(SIDE // stride):
            for column in range(SIDE // stride):
                middle = np.array([column + 0.5, row + 0.5]) * stride
                for size in sizes:
                    at = middle + 0.1 * size * offsets[number, :2]
                    half = size * np.exp(0.2 * offsets[number, 2:]) / 2
                    points = middle + 0.1 * size * marks[number].reshape(5, 2)
                    made.append([*(at - half), *(at + half), scores[number, 1], *points.flatten()])
                    number += 1
    assert number == len(offsets)
    return np.array(made)


def best(candidates: Pixels, least: float) -> Pixels:
    """Keep of overlapping boxes that of the highest score, the slow way."""
    kept: list[Pixels] = []
    for row in sorted(candidates, key=lambda row: -row[4]):
        if row[4] >= least and all(shared(row, other) <= 0.4 for other in kept):
            kept.append(row)
    return np.array(kept)


def shared(a: Pixels, b: Pixels) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:4], b[2:4])
    both = np.prod(np.maximum(high - low + 1, 0))
    one, other = (np.prod(each[2:4] - each[:2] + 1) for each in (a, b))
    return float(both / (one + other - both))


def test_yolo_face_is_read_as_its_layout_says(tmp_path: Path) -> None:
    path = tmp_path / "yolo.onnx"
    write_yolo(path, SIDE)
    picture = photograph()
    (found,) = reference()(path).run(None, {"images": planes(picture)[None].numpy()})
    wanted = best(boxes_of_yolo(found[0]), 0.5)
    assert len(wanted) > 3
    np.testing.assert_allclose(rows(*detected(path, picture, score=0.5)), wanted, **CLOSE)


@pytest.mark.parametrize("softmax", [False, True])
def test_retinaface_is_read_as_its_layout_says(tmp_path: Path, softmax: bool) -> None:
    path = tmp_path / "retina.onnx"
    write_retina(path, softmax=softmax)
    pictures = [photograph(seed=seed) for seed in range(2)]
    session = reference()(path)
    for faces, picture in zip(detected(path, *pictures, score=0.7), pictures, strict=True):
        fed = picture[..., ::-1].astype(np.float32) - (104, 117, 123)
        made = session.run(None, {"input0": fed.transpose(2, 0, 1)[None].astype(np.float32)})
        if not softmax:
            made[1] = np.exp(made[1]) / np.exp(made[1]).sum(-1, keepdims=True)
        wanted = best(boxes_of_retina(made), 0.7)
        assert len(wanted) > 3
        np.testing.assert_allclose(rows(faces), wanted, rtol=1e-4, atol=1e-3)


def test_a_larger_picture_is_shrunk_to_the_detector_s_size_and_faces_lie_where_they_are(
    tmp_path: Path,
) -> None:
    write_yolo(tmp_path / "yolo.onnx", SIDE)
    small, large = (waves(side) for side in (SIDE, 3 * SIDE))
    with computing(Detector(tmp_path / "yolo.onnx", 4, 0.6)) as detector:
        (here,), (there,) = (detector([each]) for each in (small, large))
    best = [rows(each)[:3, 5:] for each in (here, there)]
    assert len(best[0]) == 3
    np.testing.assert_allclose(best[1], 3 * (best[0] + 0.5) - 0.5, atol=1)


def waves(side: int) -> torch.Tensor:
    """Draw a picture that shows nothing so small that it is lost when it is shrunk."""
    along = (torch.arange(side) + 0.5) / side
    planes = [torch.outer(torch.sin(n * along), torch.cos((5 - n) * along)) for n in (1, 2, 4)]
    return torch.stack(planes).abs()


def test_weights_beside_a_file_are_used_and_tell_it_from_others(tmp_path: Path) -> None:
    whole, apart = tmp_path / "whole.onnx", tmp_path / "apart.onnx"
    write_detector(whole)
    onnx.save(onnx.load(whole), apart, save_as_external_data=True, location="apart.data")
    first, second = (rows(*detected(path, photograph())) for path in (whole, apart))
    assert len(first) > 3
    assert np.array_equal(first, second)
    before = read_file(apart).digest
    with (tmp_path / "apart.data").open("r+b") as file:
        file.write(b"\1")
    assert read_file(apart).digest != before
    (tmp_path / "apart.data").unlink()
    with pytest.raises(vramx.ConfigError, match=r"there is no file .*apart\.data"):
        read_file(apart)


# The other models


@pytest.mark.parametrize("normalises", [False, True])
def test_embeddings_are_those_of_insightface(tmp_path: Path, normalises: bool) -> None:
    arcface = pytest.importorskip("insightface.model_zoo.arcface_onnx")
    path = tmp_path / "rec.onnx"
    write_recognizer(path, normalises=normalises)
    crops = [photograph(112, seed) for seed in range(3)]
    theirs = arcface.ArcFaceONNX(str(path), reference()(path))
    wanted = theirs.get_feat([crop[..., ::-1] for crop in crops])
    with computing(Recognizer(path, 4)) as recognizer:
        made = np.stack(recognizer([planes(crop) for crop in crops]))
    np.testing.assert_allclose(made, wanted / np.linalg.norm(wanted, axis=1)[:, None], atol=1e-6)


def embedding(seed: int = 0) -> Pixels:
    values = np.random.default_rng(seed).standard_normal(512)
    return (values / np.linalg.norm(values)).astype(np.float32)


@pytest.mark.parametrize("side", [128, 256])
def test_crops_are_swapped_as_by_insightface(tmp_path: Path, side: int) -> None:
    inswapper = pytest.importorskip("insightface.model_zoo.inswapper")
    common = pytest.importorskip("insightface.app.common")
    path = tmp_path / "swap.onnx"
    write_swapper(path, side)
    theirs = inswapper.INSwapper(str(path), reference()(path))
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
        wanted = reference()(path).run(None, fed)
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
    (wanted,) = reference()(path).run(None, {"input": planes(crop)[None].numpy() * 2 - 1, **beside})
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


def resaved(change: Callable[[Any], None], write: Callable[[Path], None], path: Path) -> Path:
    write(path)
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


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
    (wanted,) = reference()(models["swapper"]).run(None, fed)
    np.testing.assert_allclose(made, (wanted[0, ::-1] + 1) / 2, atol=1e-5)
