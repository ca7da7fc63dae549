"""Faces are cut out where their landmarks say, and put back where they were."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vramx

pytest.importorskip("skimage")
torch = pytest.importorskip("torch")
from vramx.pipelines.faces import align, feathered, template  # noqa: E402

SIZES = (112, 128, 512)
#: The astronaut's eyes, nose and corners of the mouth.
LANDMARKS = np.array([[207.0, 107.0], [241, 107], [226, 128], [211, 148], [240, 147]])


def similarity(turn: float, scale: float, x: float, y: float) -> np.ndarray[Any, Any]:
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    return np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])


def apply(matrix: np.ndarray[Any, Any], points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


transforms = st.builds(
    similarity,
    st.floats(-math.pi, math.pi),
    st.floats(0.05, 20),
    st.floats(-2000, 2000),
    st.floats(-2000, 2000),
)


def astronaut() -> np.ndarray[Any, Any]:
    from skimage import data

    return data.astronaut()


@given(matrix=transforms, size=st.sampled_from(SIZES))
def test_landmarks_that_a_similarity_moved_give_that_similarity_back(
    matrix: np.ndarray[Any, Any], size: int
) -> None:
    moved = apply(np.linalg.inv(matrix), template(size))
    assert np.allclose(align(moved, size).matrix, matrix, rtol=1e-6, atol=1e-6)


@given(
    matrix=transforms,
    size=st.sampled_from(SIZES),
    noise=st.lists(st.floats(-3, 3), min_size=10, max_size=10),
)
def test_no_similarity_nearby_fits_better_and_none_mirrors(
    matrix: np.ndarray[Any, Any], size: int, noise: list[float]
) -> None:
    points = apply(np.linalg.inv(matrix), template(size) + np.reshape(noise, (5, 2)))
    found = align(points, size).matrix
    cos, sin = found[0, 0], found[1, 0]
    assert np.allclose(found[:2, :2], [[cos, -sin], [sin, cos]])

    def misfit(matrix: np.ndarray[Any, Any]) -> float:
        return float(((apply(matrix, points) - template(size)) ** 2).sum())

    best = misfit(found)
    for nearby in (
        similarity(0.01, 1, 0, 0),
        similarity(-0.01, 1, 0, 0),
        similarity(0, 1.01, 0, 0),
        similarity(0, 0.99, 0, 0),
        similarity(0, 1, 0.3, 0),
        similarity(0, 1, 0, -0.3),
    ):
        assert misfit(nearby @ found) >= best - 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_what_lies_at_a_landmark_lies_at_the_templates_place_in_the_crop(size: int) -> None:
    rows, columns = np.mgrid[:512, :512].astype(np.float64)
    places = np.dstack([columns, rows])  # each pixel tells where it is
    face = align(LANDMARKS, size)
    crop = face.crop(places)
    assert crop.shape == (size, size, 2)
    for (x, y), wanted in zip(apply(face.matrix, LANDMARKS), LANDMARKS, strict=True):
        left, top = int(x), int(y)
        corners = crop[top : top + 2, left : left + 2]
        weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
        assert np.allclose((corners * weights[..., None]).sum((0, 1)), wanted, atol=1e-6)


@settings(max_examples=25)
@given(
    turn=st.floats(-math.pi, math.pi),
    scale=st.floats(0.5, 1.5),
    x=st.floats(-150, 150),
    y=st.floats(-150, 150),
    feather=st.floats(0, 0.5),
)
def test_pasting_what_was_cut_out_changes_nothing_outside_and_no_smooth_picture_inside(
    turn: float, scale: float, x: float, y: float, feather: float
) -> None:
    middle = similarity(0, 1, 256, 256)
    moved = middle @ similarity(turn, scale, x, y) @ np.linalg.inv(middle)
    face = align(apply(moved, LANDMARKS), 128)
    rows, columns = np.mgrid[:512, :512]
    smooth = np.dstack([rows, columns, rows + columns]) / 1024.0
    pasted = face.paste(smooth, face.crop(smooth), feather=feather)
    # Where the crop reaches beyond the picture, its edge goes on, which is not smooth.
    corners = apply(np.linalg.inv(face.matrix), np.array([[0, 0], [127, 0], [0, 127], [127, 127]]))
    if corners.min() >= 0 and corners.max() <= 511:
        assert np.abs(pasted - smooth).max() < 1e-6
    other = face.paste(smooth, 1 - face.crop(smooth), feather=feather)
    places = np.dstack([columns, rows]).reshape(-1, 2)
    within = apply(face.matrix, places).reshape(512, 512, 2)
    outside = ((within < 0) | (within > 127)).any(-1)
    assert np.array_equal(other[outside], smooth[outside])


def test_a_photographs_face_survives_the_way_out_and_back() -> None:
    picture = astronaut()
    before = picture.copy()
    face = align(LANDMARKS, 512)
    crop = face.crop(picture)
    pasted = face.paste(picture, crop)
    assert pasted.dtype == crop.dtype == np.uint8
    assert np.array_equal(picture, before)
    assert np.abs(pasted.astype(int) - picture).mean() < 1
    marked = face.paste(picture, np.full_like(crop, 255))
    nose = marked[128, 226]
    assert (nose == 255).all()
    assert np.array_equal(marked[400:], picture[400:])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_tensors_and_arrays_are_cut_and_pasted_to_the_same_bits(dtype: type, size: int) -> None:
    def turned(pixels: np.ndarray[Any, Any]) -> Any:
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    picture = astronaut().astype(dtype)
    face = align(np.add(LANDMARKS, [200, -60]), size)  # a part of it lies beyond the picture
    crop = face.crop(picture)
    assert torch.equal(face.crop(turned(picture)), turned(crop))
    mask = np.random.default_rng(0).random((size, size))
    changed = crop[::-1]
    pasted = face.paste(picture, changed, mask=mask)
    assert not np.array_equal(pasted, picture)
    planes = turned(picture)
    made = face.paste(planes, turned(changed), mask=torch.from_numpy(mask))
    assert torch.equal(made, turned(pasted))
    assert torch.equal(planes, turned(picture))
    with pytest.raises(vramx.ConfigError, match="this picture takes"):
        face.paste(planes, turned(changed[1:]))


@given(size=st.integers(2, 200), feather=st.floats(0, 0.5))
def test_a_mask_is_symmetric_and_falls_smoothly_from_the_middle_to_the_edges(
    size: int, feather: float
) -> None:
    mask = feathered(size, feather)
    assert mask.shape == (size, size)
    assert ((mask >= 0) & (mask <= 1)).all()
    assert np.allclose(mask, mask.T)
    assert np.allclose(mask, mask[::-1])
    row = mask[size // 2]
    assert (np.diff(row[: (size + 1) // 2]) >= -1e-12).all()
    if feather * size >= 1:
        assert np.abs(np.diff(row)).max() <= np.pi / 2 / (feather * size) + 1e-12
    if feather == 0:
        assert (mask == 1).all()


@pytest.mark.parametrize(
    ("landmarks", "size", "message"),
    [
        (LANDMARKS, 100, "template of 100 pixels"),
        (LANDMARKS[:4], 112, r"shape \(4, 2\)"),
        (LANDMARKS * np.nan, 112, "finite"),
        (np.full((5, 2), 7.0), 112, "all in one place"),
        (LANDMARKS[[1, 0, 2, 4, 3]], 112, "as no face's do.*order is left eye, right eye"),
        (LANDMARKS[[0, 1, 2, 4, 3]], 112, "as no face's do"),
        (LANDMARKS[[2, 0, 1, 3, 4]], 112, "as no face's do"),
        (LANDMARKS[:, ::-1], 112, "as no face's do"),
    ],
)
def test_landmarks_that_are_no_face_are_refused(landmarks: Any, size: int, message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        align(landmarks, size)


@given(
    aside=st.floats(-75, 75),
    nods=st.floats(-30, 30),
    tilts=st.floats(-180, 180),
    scale=st.floats(0.2, 20),
)
def test_landmarks_of_heads_that_look_aside_are_a_face(
    aside: float, nods: float, tilts: float, scale: float
) -> None:
    head = np.array([[-30, -20, 0], [30, -20, 0], [0, 10, 28], [-24, 40, 4], [24, 40, 4]], float)
    turns = [(0, 2, aside), (1, 2, nods), (0, 1, tilts)]
    for one, other, degrees in turns:
        turn = np.eye(3)
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn[one, one], turn[one, other], turn[other, one], turn[other, other] = cos, -sin, sin, cos
        head = head @ turn.T
    assert align(scale * head[:, :2] + 300, 112).size == 112


def test_a_face_of_another_shape_or_dtype_is_not_pasted() -> None:
    face = align(LANDMARKS, 128)
    picture = astronaut()
    for wrong in (np.zeros((112, 112, 3), np.uint8), np.zeros((128, 128, 3))):
        with pytest.raises(vramx.ConfigError, match="but this picture takes uint8"):
            face.paste(picture, wrong)
    with pytest.raises(vramx.ConfigError, match=r"feather 0\.6"):
        face.paste(picture, face.crop(picture), feather=0.6)


def test_beyond_the_picture_its_edge_goes_on() -> None:
    picture = np.full((60, 60, 3), 200, np.uint8)
    face = align(LANDMARKS - LANDMARKS.mean(0), 112)
    crop = face.crop(picture)
    assert (crop == 200).all()
    assert (face.paste(picture, crop) == 200).all()
