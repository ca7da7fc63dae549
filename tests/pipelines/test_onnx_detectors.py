"""Detectors in ONNX files find what those who made them find with them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vramx

pytest.importorskip("onnx", reason="models are read by onnx: pip install 'vramx[onnx]'")
pytest.importorskip("onnxruntime", minversion="1.28")
pytest.importorskip("skimage.data")
import onnx

from onnx_networks import write_detector, write_retina, write_yolo
from vramx.pipelines.faces import align
from vramx.pipelines.onnx.boxes import without_duplicates
from vramx.pipelines.onnx.files import read_file
from vramx.pipelines.swapping.networks import Detector

from .onnx_running import SIDE, Pixels, computing, photograph, planes, reference

#: What float32 rounds where values are divided and added in another order, of pixels and parts.
CLOSE = {"rtol": 1e-5, "atol": 1e-3}


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


def detected(path: Path, *pictures: Pixels, score: float = 0.7) -> list[list[Any]]:
    given = vramx.FaceModel(path, size=pictures[0].shape[0])
    with computing(Detector(given, 4, score)) as detector:
        return detector([planes(picture) for picture in pictures])


def rows(faces: list[Any]) -> Pixels:
    return np.array([[*each.box, each.score, *each.landmarks.flatten()] for each in faces])


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
    session = reference(path)
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


def share_much(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Tell by whole numbers whether two boxes share more than 0.4 of what they cover."""
    wide, high = (
        max(0, min(one[at + 2], other[at + 2]) - max(one[at], other[at]) + 1) for at in (0, 1)
    )
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other))
    return 10 * wide * high > 4 * (areas - wide * high)


def test_yolo_face_is_read_as_its_layout_says(tmp_path: Path) -> None:
    path = tmp_path / "yolo.onnx"
    write_yolo(path, SIDE)
    picture = photograph()
    (found,) = reference(path).run(None, {"images": planes(picture)[None].numpy()})
    wanted = best(boxes_of_yolo(found[0]), 0.5)
    assert len(wanted) > 3
    np.testing.assert_allclose(rows(*detected(path, picture, score=0.5)), wanted, **CLOSE)


@pytest.mark.parametrize("softmax", [False, True])
def test_retinaface_is_read_as_its_layout_says(tmp_path: Path, softmax: bool) -> None:
    path = tmp_path / "retina.onnx"
    write_retina(path, softmax=softmax)
    pictures = [photograph(seed=seed) for seed in range(2)]
    session = reference(path)
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


BOX = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2, st.integers(0, 9))


@given(st.lists(BOX, max_size=12))
def test_of_boxes_that_share_much_the_best_is_kept(drawn: list[tuple[int, ...]]) -> None:
    boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in drawn]
    scores = [score for *_, score in drawn]
    found = np.array(boxes, np.float32).reshape(-1, 4)
    kept = without_duplicates(found, np.array(scores, np.float32))
    assert [*kept] == sorted(kept, key=lambda number: (-scores[number], number))
    for number, box in enumerate(boxes):
        above = [each for each in kept if (-scores[each], each) < (-scores[number], number)]
        covered = any(share_much(box, boxes[each]) for each in above)
        assert covered == (number not in kept)
