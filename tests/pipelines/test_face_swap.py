"""Faces are swapped where they are and nowhere else, whatever the budget and the batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx

PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage.data")

from vramx.pipelines.faces import align  # noqa: E402

from .face_networks import (  # noqa: E402
    PERSONS,
    PLACES,
    Brightener,
    MeanColour,
    Painter,
    PatchDetector,
    background,
    draw_face,
    portrait,
)

BLOCK = 64 * 2**10
SECONDS = BLOCK / 1e9  # that a block takes on the link
Pixels = np.ndarray[Any, Any]
#: What cutting out and putting back changes in a picture without edges: rounding of float32.
INTERPOLATION = 1e-5


@contextmanager
def swapping(
    detector: Any = None,
    recognizer: Any = None,
    swapper: Any = None,
    enhancer: Any = None,
    budget: Any = "32MiB",
    **options: Any,
) -> Iterator[Any]:
    with vramx.simulate(capacity="64MiB", granule="4KiB", latency=0.0, link=1e9):
        with vramx.face_swap(
            detector or PatchDetector(),
            recognizer or MeanColour(),
            swapper or Painter(),
            enhancer,
            budget=budget,
            block=BLOCK,
            backend="simulated",
            **options,
        ) as fs:
            yield fs


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


def couple() -> Pixels:
    return draw_face(draw_face(background(), "red", 10, 10), "green", 40, 60, side=50)


def covered(
    picture: Pixels, top: int, left: int, side: int, size: int, kind: int | None = None
) -> Pixels:
    """Which pixels lie in the crop that belongs to a face."""
    # The detector sees the pixels' middles from 0 to side - 1, as its box does from 0 to side.
    landmarks = PLACES * side + [left, top]
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    places = np.stack([columns, rows, np.ones_like(rows)])
    x, y = np.tensordot(align(landmarks, size, kind).matrix[:2], places, axes=1)
    return (x >= 0) & (x <= size - 1) & (y >= 0) & (y <= size - 1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    person=st.sampled_from(PERSONS),
    top=st.integers(0, 56),
    left=st.integers(0, 88),
    enhanced=st.booleans(),
    bytes_=st.booleans(),
)
def test_pixels_that_no_mask_covers_are_the_same_bits_and_the_face_is_changed(
    person: str, top: int, left: int, enhanced: bool, bytes_: bool
) -> None:
    target = draw_face(background(), person, top, left)
    if not bytes_:
        target = target.astype(np.float32) / 255
    source = np.array([0.2, 0.9, 0.4])
    with swapping(enhancer=Brightener() if enhanced else None) as fs:
        made = fs(source, target)
    inside = covered(target, top, left, 40, 128)
    if enhanced:
        inside |= covered(target, top, left, 40, 512)
    assert not inside.all()
    assert np.array_equal(made[~inside], target[~inside])
    white = 255 if bytes_ else 1
    nose = (top + 25, left + 20)
    wanted = target[nose] / white / 2 + source / np.linalg.norm(source) / 2
    wanted = wanted.clip(0, 1) * (1.25 if enhanced else 1)
    assert np.abs(made[nose] / white - wanted.clip(0, 1)).max() < 0.02


class Found(nn.Module):
    """A detector that finds the same faces in each picture, told by corners and sides."""

    def __init__(self, *places: tuple[float, float, float]) -> None:
        super().__init__()
        self.rows = torch.tensor([self.row(*place) for place in places]).float()

    @staticmethod
    def row(top: float, left: float, side: float) -> list[float]:
        box = [left, top, left + side, top + side, 0.9]
        return [*box, *(PLACES * side + [left, top]).ravel()]

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return [self.rows] * len(pictures)


class Middle(nn.Module):
    """Paints the middle of a crop red, and leaves what is around it."""

    def forward(self, crops: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        made = crops.clone()
        made[:, :, 44:100, 34:94] = torch.tensor([1.0, 0, 0])[:, None, None]
        return made


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 150), st.integers(24, 60)),
        min_size=2,
        max_size=4,
    ),
    batch=st.integers(1, 3),
)
def test_faces_whose_crops_overlap_lose_nothing_of_each_other(
    places: list[tuple[int, int, int]], batch: int
) -> None:
    picture = np.full((160, 220, 3), 128, np.uint8)

    def redness(*faces: tuple[int, int, int]) -> Any:
        with swapping(Found(*faces), swapper=Middle(), batch=batch) as fs:
            made = next(iter(fs(np.ones(3), [picture, picture]))).astype(int)
        return made[..., 0] - made[..., 1]

    together = redness(*places)
    for each in places:  # a crop that is cut out of another's edge is a little blurred
        assert not ((redness(each) > 90) & (together < 45)).any()


@pytest.mark.parametrize("wrong", [PLACES[[1, 0, 2, 4, 3]], np.full((5, 2), 0.5)])
def test_what_has_landmarks_as_no_face_has_is_passed_by_counted_and_told(wrong: Any) -> None:
    detector = Found((20, 20, 40), (60, 70, 30))
    detector.rows[1, 5:] = torch.from_numpy(wrong * 30 + [70, 60]).float().ravel()
    pictures = [background(shift=n) for n in range(3)]
    with swapping(detector) as fs:
        with pytest.warns(RuntimeWarning, match="^frame 0: .* is passed by") as told:
            made = [*fs(np.ones(3), pictures)]
        assert len(told) == 1
        _, frames = next(fs._run(fs._sources(np.ones(3)), pictures[:1], str))
    assert (len(frames[0].faces), frames[0].counts["unfit"]) == (1, 1)
    inside = covered(pictures[0], 20, 20, 40, 128)
    for before, after in zip(pictures, made):
        assert np.array_equal(before[~inside], after[~inside])
        assert not np.array_equal(before, after)


def test_a_swapper_that_changes_nothing_gives_the_picture_back() -> None:
    rows, columns = np.mgrid[:96, :128].astype(np.float32)
    smooth = np.dstack([rows, columns, rows + columns]) / 224
    face = np.concatenate([[30, 20, 80, 70, 1], (PLACES * 50 + [30, 20]).ravel()])
    found = torch.tensor(face).float()[None, None]
    with swapping(lambda pictures: found.expand(len(pictures), -1, -1), swapper=Painter(0)) as fs:
        assert np.abs(fs(np.ones(3), smooth) - smooth).max() < INTERPOLATION
        photograph = couple()
        off = np.abs(fs(np.ones(3), photograph).astype(int) - photograph)
        assert off.mean() < 0.5


def test_a_real_photographs_face_is_swapped_where_its_landmarks_are() -> None:
    from skimage import data

    photograph = data.astronaut()
    landmarks = [207.0, 107, 241, 107, 226, 128, 211, 148, 240, 147]
    row = torch.tensor([[180, 70, 270, 180, 0.99, *landmarks]])
    with swapping(lambda pictures: [row] * len(pictures), enhancer=Brightener(1.0)) as fs:
        made = fs(np.array([0.0, 1.0, 0.0]), photograph)
    assert made[128, 226, 1] > photograph[128, 226, 1] * 0.5 + 100
    assert abs(int(made[128, 226, 0]) - photograph[128, 226, 0] / 2) < 12
    assert np.array_equal(made[330:], photograph[330:])
    assert made.dtype == np.uint8


# Budgets and batches


def models(layers: int = 6) -> list[Any]:
    return [
        PatchDetector(),
        MeanColour(layers),
        Painter(0.5, layers),
        Brightener(1.1, layers),
    ]


def frames() -> list[Pixels]:
    """Faces come, go and overlap; some frames have none."""
    shown = [couple(), background(), portrait("green"), portrait("red"), background(), couple()]
    return [*shown, draw_face(couple(), "blue", 30, 40)]


def test_a_budget_of_half_the_weights_is_held_and_gives_the_bits_of_all_resident() -> None:
    results = []
    for budget in (64 * BLOCK, 9 * BLOCK):
        with swapping(*models(), budget=budget, batch=2, reference=portrait("green")) as fs:
            results.append([*fs(portrait("blue"), frames())])
            stats = fs.session.stats()
            assert stats.managed >= 18 * BLOCK
            assert stats.peak_resident <= budget
    assert stats.moved_in > stats.managed
    assert stats.moved_out == 0
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


def test_the_next_stages_weights_come_while_one_computes_and_wrap_to_the_next_frame() -> None:
    chain = models(16)
    with swapping(*chain, budget=24 * BLOCK, batch=1, reference=np.ones(3), similarity=0) as fs:
        for module in (layer for model in chain[1:] for layer in model.layers):
            module.register_forward_hook(
                lambda *_: fs.session.device.compute(0.8 * SECONDS)  # 48 use 24 + 4 in flight
            )
        made = fs(portrait("blue"), itertools.repeat(portrait("red")))
        for _ in range(4):
            next(made)
        for _ in range(4):
            before, began = fs.session.stats(), fs.session.device.now
            next(made)
            after = fs.session.stats()
            assert after.misses == before.misses
            assert fs.session.device.now - began <= 1.01 * 0.8 * 48 * SECONDS


def test_stages_that_no_frame_takes_leave_first() -> None:
    with swapping(*models(), budget=13 * BLOCK, policy="lru") as fs:
        made = fs(np.ones(3), itertools.chain(frames()[:1], itertools.repeat(portrait("red"))))
        for _ in range(2):
            next(made)
        before = fs.session.stats()
        for _ in range(8):
            next(made)
        assert fs.session.stats().moved_in == before.moved_in  # the recognizer is not used


@pytest.mark.parametrize("size", [None, 96])
def test_the_batch_does_not_change_the_result(size: int | None) -> None:
    results = []
    shown = [*frames(), couple()[:80], couple()[:80]]
    for batch in (1, 2, 3, 64):
        detector = vramx.FaceModel(PatchDetector(), size=size)
        with swapping(detector, *models(1)[1:], batch=batch) as fs:
            results.append([*fs(portrait("blue"), shown)])
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert np.array_equal(one, other)


def test_models_get_no_more_at_once_than_the_batch_and_each_arrival_serves_several_frames() -> None:
    detector, swapper = PatchDetector(), Painter()
    with swapping(detector, swapper=swapper, batch=4) as fs:
        assert len([*fs(np.ones(3), [couple()] * 9)]) == 9
    assert [shape[0] for shape in detector.calls] == [4, 4, 1]
    assert swapper.calls == [4, 4, 4, 4, 2]


class Narrow(Painter):
    """Takes no more crops at once than it says, as a full card would."""

    most = 1

    def forward(self, crops: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        if len(crops) > self.most:
            raise torch.OutOfMemoryError(f"{len(crops)} crops do not fit")
        return super().forward(crops, embeddings)


def test_where_memory_runs_out_fewer_go_at_once_from_then_on_with_the_same_result() -> None:
    with swapping() as fs:
        wanted = [*fs(np.ones(3), frames())]
    swapper = Narrow()
    with swapping(swapper=swapper) as fs:
        with pytest.warns(RuntimeWarning, match="did not fit the swapper: going on with"):
            got = [*fs(np.ones(3), frames())]
        assert set(swapper.calls) == {1}
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
        swapper.most = 0
        with pytest.raises(torch.OutOfMemoryError, match="1 crops do not fit"):
            fs(np.ones(3), couple())


# Which faces, whose face


def changed(made: Pixels, target: Pixels) -> list[bool]:
    """Whether the couple's noses differ: of the red and the green one."""
    return [bool((made[at] != target[at]).any()) for at in ((35, 30), (72, 85))]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [True, True]),
        ({"faces": "largest"}, [False, True]),
        ({"reference": portrait("red")}, [True, False]),
        ({"reference": torch.tensor([1.0, 0, 0])}, [True, False]),
        ({"reference": portrait("red"), "faces": "largest"}, [True, False]),
        ({"reference": portrait("red"), "similarity": 0.0}, [True, True]),
        ({"reference": portrait("red"), "similarity": 0.0, "faces": "largest"}, [False, True]),
        ({"reference": portrait("blue")}, [False, False]),
        ({"score": 0.95}, [False, False]),
    ],
)
def test_just_the_faces_that_are_meant_are_swapped(
    options: dict[str, Any], wanted: list[bool]
) -> None:
    with swapping(**options) as fs:
        made = fs(np.ones(3), couple())
    assert changed(made, couple()) == wanted


def test_a_source_is_a_picture_of_any_kind_its_file_or_an_embedding(tmp_path: Path) -> None:
    picture = portrait("blue")
    PIL_Image.fromarray(picture).save(tmp_path / "me.png")
    with swapping() as fs:
        (face,) = fs.find(picture)
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-6)
        wanted = fs(picture, couple())
        for source in (
            PIL_Image.fromarray(picture),
            torch.from_numpy(picture).permute(2, 0, 1),
            tmp_path / "me.png",
            str(tmp_path / "me.png"),
            face.embedding,
            torch.from_numpy(face.embedding * 7),
        ):
            assert np.array_equal(fs(source, couple()), wanted)


def test_of_several_faces_in_a_source_the_largest_is_taken() -> None:
    with swapping() as fs:
        assert [face.area for face in fs.find(couple())] == [2500, 1600]
        taken = fs.find(couple())[0].embedding
        assert np.array_equal(fs(couple(), portrait("blue")), fs(taken, portrait("blue")))


def test_a_source_or_reference_without_a_face_is_an_error_that_names_it(tmp_path: Path) -> None:
    PIL_Image.fromarray(background()).save(tmp_path / "wall.png")
    with swapping() as fs:
        with pytest.raises(vramx.NoFaceError, match=r"the source .*wall\.png shows no face"):
            fs(tmp_path / "wall.png", couple())
    with pytest.raises(vramx.NoFaceError, match="the reference shows no face with a score"):
        with swapping(reference=background()):
            pass
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()


def test_a_frame_without_a_face_passes_or_is_an_error_that_names_it() -> None:
    with swapping(batch=3) as fs:
        made = [*fs(np.ones(3), frames())]
        assert np.array_equal(made[1], frames()[1])
    with swapping(batch=3, on_no_face="error") as fs:
        with pytest.raises(vramx.NoFaceError, match=r"^frame 1: no face was found"):
            [*fs(np.ones(3), frames())]
        with pytest.raises(vramx.NoFaceError, match=r"^the target: no face"):
            fs(np.ones(3), background())
    with swapping(lambda pictures: [torch.zeros(0, 15)] * len(pictures)) as fs:
        assert np.array_equal(fs(np.ones(3), couple()), couple())
    with swapping(reference=portrait("red"), on_no_face="error") as fs:
        with pytest.raises(vramx.NoFaceError, match=r"frame 1: of 1 faces none resembles .* 0\.07"):
            [*fs(np.ones(3), [couple(), portrait("green")])]


# What models take and give


def test_models_get_the_size_range_and_order_that_they_want() -> None:
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., torch.Tensor]:
        def model(crops: torch.Tensor, *_: Any) -> torch.Tensor:
            seen[name] = crops
            return crops

        return model

    target = draw_face(background(), "red", 20, 40)
    with swapping(
        swapper=vramx.FaceModel(keep("swapper"), size=256, value_range=(-1, 1), order="BGR"),
        enhancer=vramx.FaceModel(keep("enhancer"), size=64, template=112, value_range=(0, 255)),
    ) as fs:
        made = fs(np.ones(3), target)
    assert seen["swapper"].shape == (1, 3, 256, 256)
    assert seen["enhancer"].shape == (1, 3, 64, 64)
    nose = seen["swapper"][0, :, 162, 126]  # 81 of 128 in the template, and 8 pixels more
    assert nose[2] > 0.6
    assert nose[:2].max() < -0.5
    assert -1 <= seen["swapper"].min() < -0.8
    assert 200 < seen["enhancer"].max() <= 255
    assert np.abs(made.astype(int) - target).mean() < 1


def test_a_detector_of_a_fixed_size_sees_pictures_that_fit_and_finds_the_same_places() -> None:
    picture = draw_face(background(), "red", 20, 60, side=60)
    with swapping() as fs:
        (wanted,) = fs.find(picture)
    for size in (64, 96, 300):
        detector = PatchDetector()
        with swapping(vramx.FaceModel(detector, size=size)) as fs:
            (found,) = fs.find(picture)
        assert detector.calls == [(1, 3, size, size)]
        pixel = max(1, 128 / size)
        assert np.abs(found.landmarks - wanted.landmarks).max() <= pixel
        assert np.abs(found.box - wanted.box).max() <= pixel


@pytest.mark.parametrize(("height", "width", "shrunk"), [(90, 200, (29, 64)), (41, 17, (64, 27))])
def test_the_corners_of_what_a_detector_sees_are_those_of_the_picture(
    height: int, width: int, shrunk: tuple[int, int]
) -> None:
    rows, columns = shrunk
    corners = [-0.5, -0.5, columns - 0.5, rows - 0.5]
    row = torch.tensor([[*corners, 1, *PLACES.ravel() * 20]])
    picture = np.full((height, width, 3), 0.5, np.float32)

    def detector(pictures: torch.Tensor) -> list[torch.Tensor]:
        assert (pictures[..., :rows, :columns] - 0.5).abs().max() < 1e-6
        assert pictures[..., rows:, :].sum() == pictures[..., columns:].sum() == 0
        return [row]

    with swapping(vramx.FaceModel(detector, size=64)) as fs:
        (face,) = fs.find(picture)
    assert np.allclose(face.box, [-0.5, -0.5, width - 0.5, height - 0.5], atol=1e-4)


def test_masks_of_the_swapper_say_what_is_taken() -> None:
    def half(crops: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masks = torch.zeros(len(crops), 1, 128, 128)
        masks[..., :64] = 1
        return torch.ones_like(crops), masks

    target = draw_face(background(), "red", 20, 40)
    with swapping(swapper=half) as fs:
        made = fs(np.ones(3), target)
    assert (made[45, 50] > 250).all()
    assert np.array_equal(made[:, 62:], target[:, 62:])


def test_weights_of_half_precision_get_pictures_of_half_precision() -> None:
    chain = [MeanColour().half(), Painter().half(), Brightener().half()]
    with swapping(PatchDetector().half(), *chain) as fs:
        made = fs(portrait("blue"), couple())
    assert changed(made, couple()) == [True, True]


@pytest.mark.parametrize(
    ("role", "gives", "message"),
    [
        ("detector", torch.zeros(1, 4, 14), "detector gave .*, not faces of .any, 15"),
        ("detector", torch.zeros(2, 4, 15), r"\(2, 4, 15\) for 1 pictures, not a tensor of \(1, f"),
        ("detector", [torch.zeros(15)], r"detector gave .* \(15,\), not faces of \(any, 15\)"),
        ("detector", None, "detector gave a NoneType for 1 pictures"),
        ("detector", torch.full((1, 1, 15), torch.nan), "detector gave faces .* not finite"),
        ("recognizer", torch.zeros(3), r"recognizer gave .* \(3,\), not embeddings of \(1, any\)"),
        ("recognizer", torch.zeros(1, 3), "recognizer gave is no embedding: .* length 0"),
        (
            "swapper",
            torch.zeros(1, 3, 64, 64),
            r"swapper gave .* pictures of \(1, 3, 128, 128",
        ),
        ("swapper", torch.full((1, 3, 128, 128), torch.inf), "swapper gave .* not finite"),
        ("swapper", (torch.zeros(1, 3, 128, 128),), "swapper gave a tuple of a tensor of shape"),
        (
            "swapper",
            (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128)),
            r"swapper gave .*, not masks of \(1, 1, 128, 128\)",
        ),
        ("enhancer", "a picture", r"enhancer gave a str, not pictures of \(1, 3, 512, 512\)"),
    ],
)
def test_what_a_model_must_not_give_is_refused_by_its_name_and_what_it_gave(
    role: str, gives: Any, message: str
) -> None:
    with swapping(**{role: lambda *_: gives}) as fs:
        with pytest.raises(vramx.ConfigError, match=message):
            fs(portrait("red"), portrait("green"))


def test_an_embedding_of_another_model_is_no_reference() -> None:
    with swapping(reference=np.ones(4)) as fs:
        with pytest.raises(vramx.ConfigError, match="4 numbers, but the recognizer makes 3"):
            fs(np.ones(3), couple())


# Pictures of any type


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_pil_image_comes_back_in_its_mode_with_its_alpha(mode: str) -> None:
    given_ = PIL_Image.fromarray(couple()).convert(mode)
    if "A" in mode:
        given_.putalpha(77)
    found = PatchDetector()(torch.from_numpy(couple()).permute(2, 0, 1)[None] / 255)
    with swapping(lambda pictures: found * len(pictures)) as fs:
        made = fs(np.array([1.0, 0, 0]), given_)
    assert (made.mode, made.size) == (given_.mode, given_.size)
    before, after = np.asarray(given_), np.asarray(made)
    assert (before != after).any()
    assert np.array_equal(before[:, 122:], after[:, 122:])
    if "A" in mode:
        assert (after[..., -1] == 77).all()


def test_a_batch_of_pictures_in_one_tensor_comes_back_as_one() -> None:
    batch = torch.from_numpy(np.stack([couple(), background(), couple()])).permute(0, 3, 1, 2)
    with swapping(batch=2) as fs:
        made = fs(np.ones(3), batch)
        assert made.dtype == torch.uint8
        assert torch.equal(made[1], batch[1])
        alone = torch.from_numpy(fs(np.ones(3), couple())).permute(2, 0, 1)
        assert torch.equal(made[0], alone)
        assert torch.equal(made[2], alone)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (np.ones(3), "clip.mp4", "str is not a picture"),
        (np.ones(3), None, "NoneType is not a picture"),
        (np.zeros(3), couple(), "the source is no embedding: .* length 0"),
        (np.full(3, np.nan), couple(), "the source is no embedding"),
        (torch.zeros(2, 3, 8, 8), couple(), "one picture shows a face, but 2 were given"),
        (7, couple(), "int is not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(source: Any, target: Any, message: str) -> None:
    with swapping() as fs:
        with pytest.raises(vramx.ConfigError, match=message):
            fs(source, target)


def test_pictures_are_read_no_more_than_a_batch_ahead() -> None:
    read = []

    def pictures() -> Iterator[Pixels]:
        for number in range(7):
            read.append(number)
            yield couple()

    with swapping(batch=3) as fs:
        made = fs(np.ones(3), pictures())
        assert not read
        for done, _ in enumerate(made):
            assert len(read) == min(3 * (done // 3 + 1), 7)


# The scope


def test_modules_are_as_they_were_after_the_scope() -> None:
    chain = models(2)
    for model in chain[:2]:
        model.train()
    for model in chain[2:]:
        model.eval()
    training: list[bool] = []
    chain[1].register_forward_hook(lambda module, *_: training.append(module.training))
    inner = nn.Linear(2, 2)

    def paint(*given: torch.Tensor) -> torch.Tensor:
        painted: torch.Tensor = chain[2](*given)
        return painted + 0 * inner(torch.ones(2)).sum()

    swapper = vramx.FaceModel(paint, [chain[2], inner])
    with swapping(chain[0], chain[1], swapper, chain[3]) as fs:
        fs(portrait("red"), couple())
        assert fs.session.stats().managed >= 6 * BLOCK
        assert fs.session.stats().unleased_accesses == 0
        session = fs.session
    assert training == [False]
    assert [model.training for model in chain] == [True, True, False, False]
    with pytest.raises(vramx.SessionClosedError, match="inside its scope"):
        fs(np.ones(3), couple())
    with pytest.raises(vramx.SessionClosedError):
        session.prefetch(chain[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": 3}, "detector: .* not a int"),
        ({"detector": vramx.FaceModel(PatchDetector(), template=112)}, "detector: .* no template"),
        ({"swapper": vramx.FaceModel(Painter(), template=100)}, "swapper: .* 100 pixels"),
        ({"faces": "some"}, "faces 'some' is not one of 'all', 'largest'"),
        ({"similarity": 40}, "similarity 40"),
        ({"score": 0}, "score 0"),
        ({"on_no_face": "skip"}, "on_no_face 'skip'"),
        ({"feather": 0.7}, "feather 0.7"),
        ({"batch": 0}, "batch 0"),
        ({"budget": "no size"}, "no size"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        with swapping(**options):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size 8"),
        ({"size": "large"}, "size 'large'"),
        ({"value_range": (1, 0)}, r"value_range \(1, 0\)"),
        ({"value_range": 255}, "value_range 255"),
        ({"order": "RBG"}, "order 'RBG'"),
        ({"modules": [3]}, "this is not: int"),
    ],
)
def test_a_bad_description_of_a_model_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        vramx.FaceModel(abs, **options)
