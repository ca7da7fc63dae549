"""Several faces go where they are meant to, and what lies before a face stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import vramx
from vramx.cli import main

pytest.importorskip("av")
PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage.data")

from vramx.pipelines.faces import align  # noqa: E402

from .clips import write_clip  # noqa: E402
from .face_networks import (  # noqa: E402
    PLACES,
    MeanColour,
    Painter,
    PatchDetector,
    background,
    draw_face,
    portrait,
)

TESTS = Path(__file__).resolve().parents[1]
RED, GREEN, BLUE = (np.eye(3)[k] for k in range(3))
#: Where three faces lie: the middle one is the largest.
LEFTS = {"green": (20, 6, 30), "red": (30, 46, 40), "blue": (20, 94, 30)}

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


def trio() -> Any:
    drawn = background()
    for person, (top, left, side) in LEFTS.items():
        draw_face(drawn, person, top, left, side)
    return drawn


@contextmanager
def swapping(swapper: Any = "painter", **options: Any) -> Iterator[Any]:
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        with vramx.face_swap(
            PatchDetector(),
            MeanColour(),
            Painter(part=1.0) if swapper == "painter" else swapper,
            budget="32MiB",
            block=2**16,
            backend="simulated",
            **options,
        ) as fs:
            yield fs


def noses(made: Any) -> list[list[int]]:
    """The colours in the middle of the three faces, from left to right."""
    places = [(top + side // 2, left + side // 2) for top, left, side in LEFTS.values()]
    return [made[place].tolist() for place in places]


def painted(embedding: Any) -> list[int]:
    return [round(255 * float(each)) for each in embedding]


def test_sources_go_to_faces_from_left_to_right_and_further_faces_stay() -> None:
    target = trio()
    with swapping() as fs:
        all_three = noses(fs([RED, GREEN, BLUE], target))
        assert all_three == [painted(each) for each in (RED, GREEN, BLUE)]
        two = noses(fs([BLUE, GREEN], target))
        assert two == [painted(BLUE), painted(GREEN), noses(target)[2]]
        assert noses(fs([BLUE], target)) == noses(fs(BLUE, target)) == [painted(BLUE)] * 3


def test_sources_go_to_the_references_in_their_places_wherever_those_are() -> None:
    target = trio()
    references = [portrait("blue"), portrait("green")]
    with swapping(reference=references) as fs:
        made = noses(fs([RED, BLUE], target))
        assert made == [painted(BLUE), noses(target)[1], painted(RED)]
        turned = noses(fs([RED, BLUE], np.ascontiguousarray(target[:, ::-1]))[:, ::-1])
        assert turned[0] == made[0]
        one = noses(fs(RED, target))
        assert one == [painted(RED), noses(target)[1], painted(RED)]


@pytest.mark.parametrize(
    ("options", "sources", "said"),
    [
        ({"reference": [RED]}, [RED, BLUE], "2 sources are for as many references"),
        ({"faces": "largest"}, [RED, BLUE], "the largest face is swapped, but there are 2"),
        ({}, [], "the source is an empty list"),
        ({"swapper": None}, RED, "without a swapper faces are only found"),
    ],
)
def test_faces_of_which_it_is_not_known_where_they_go_are_refused(
    options: dict[str, Any], sources: Any, said: str
) -> None:
    with swapping(**options) as fs:
        with pytest.raises(vramx.ConfigError, match=said):
            fs(sources, trio())


class LeftHalf(nn.Module):
    """Takes the left half of crops for the face; as scores of three classes, of which 2 is it."""

    def __init__(self, as_classes: bool) -> None:
        super().__init__()
        self.as_classes = as_classes

    def forward(self, crops: torch.Tensor) -> Any:
        left = torch.zeros_like(crops[:, :1])
        left[..., : crops.shape[-1] // 2] = 1
        if not self.as_classes:
            return left
        return torch.cat([1 - left, torch.full_like(left, 0.2), left], dim=1), None


@pytest.mark.parametrize("size", [512, 128])
@pytest.mark.parametrize("as_classes", [False, True])
def test_what_the_mask_does_not_take_for_the_face_stays_as_it_is(
    as_classes: bool, size: int
) -> None:
    target = draw_face(background(), "red", 20, 40, 50)
    mask = vramx.FaceModel(LeftHalf(as_classes), size=size, classes=(2,) if as_classes else ())
    with swapping() as fs:
        without = fs(BLUE, target)
    with swapping(mask=mask) as fs:
        made = fs(BLUE, target)
    place = align(PLACES * 50 + [40, 20], size, None)
    rows, columns = np.mgrid[: target.shape[0], : target.shape[1]]
    across = np.tensordot(place.matrix[0], np.stack([columns, rows, np.ones_like(rows)]), axes=1)
    right, left = across > size / 2 + size / 30, across < size / 2 - size / 30
    assert np.array_equal(made[right], target[right])
    assert np.abs(made[left].astype(int) - without[left].astype(int)).max() <= 1
    assert not np.array_equal(without[right], target[right])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (vramx.FaceModel(LeftHalf(True), classes=(3,)), "scores of 3 classes, .* no class 3"),
        (LeftHalf(True), "the mask gave a tensor"),
        (nn.Identity(), r"not masks of \(3, 1, 512, 512\)"),
    ],
)
def test_a_mask_that_is_none_is_told(model: Any, said: str) -> None:
    with swapping(mask=model) as fs:
        with pytest.raises(vramx.ConfigError, match=said):
            fs(BLUE, trio())


def test_classes_are_of_masks_alone() -> None:
    with pytest.raises(vramx.ConfigError, match="swapper: classes are of a mask"):
        vramx.face_swap(PatchDetector(), MeanColour(), vramx.FaceModel(Painter(), classes=(1,)))
    with pytest.raises(vramx.ConfigError, match=r"classes .* are not whole numbers"):
        vramx.FaceModel(Painter(), classes=(-1,))


# The command


def models(*names: str) -> list[str]:
    kinds = {"detector": "PatchDetector", "recognizer": "MeanColour", "swapper": "Painter"}
    return [x for name in names for x in (f"--{name}", f"pipelines.face_networks:{kinds[name]}")]


def run(
    *arguments: object, roles: tuple[str, ...] = ("detector", "recognizer", "swapper")
) -> Result:
    card = ["--backend", "simulated", "--budget", "64MiB"]
    return CliRunner().invoke(main, ["swap", *map(str, arguments), *models(*roles), *card])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(TESTS)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        PIL_Image.fromarray(trio()).save(tmp_path / "in" / name)
    for person in LEFTS:
        PIL_Image.fromarray(portrait(person)).save(tmp_path / f"{person}.png")
    return tmp_path


def test_one_bad_file_never_ends_a_folder_and_each_is_named(folder: Path) -> None:
    (folder / "in" / "bad.png").write_bytes(b"no picture")
    (folder / "in" / "notes.txt").write_text("no picture either")
    done = run(folder / "blue.png", folder / "in", folder / "out", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert [each["out"] for each in told["files"]] == [
        str(folder / "out" / name) for name in ("a.png", "b.png")
    ]
    assert [each["swapped"] for each in told["files"]] == [3, 3]
    assert [each["source"] for each in told["failed"]] == [str(folder / "in" / "bad.png")]
    assert [each["source"] for each in told["passed_by"]] == [str(folder / "in" / "notes.txt")]
    assert "bad.png" in done.stderr
    with swapping(Painter()) as fs:
        wanted = fs(folder / "blue.png", trio())
    made = np.asarray(PIL_Image.open(folder / "out" / "b.png"))
    assert np.array_equal(made, wanted)
    again = run(folder / "blue.png", folder / "in", folder / "out")
    assert "a.png: was there already" in again.stdout


def test_sources_and_references_of_the_command_are_those_of_the_library(folder: Path) -> None:
    target, out = folder / "in" / "a.png", folder / "out.png"
    sources = ["--source", folder / "red.png", "--source", folder / "blue.png"]
    references = ["--reference", folder / "blue.png", "--reference", folder / "green.png"]
    done = run(target, out, *sources, *references)
    assert done.exit_code == 0, done.output
    with swapping(Painter(), reference=[portrait("blue"), portrait("green")]) as fs:
        wanted = fs([portrait("red"), portrait("blue")], trio())
    assert np.array_equal(np.asarray(PIL_Image.open(out)), wanted)


def test_each_person_of_a_clip_is_written_once_and_serves_as_a_reference(folder: Path) -> None:
    def drawn(number: int) -> Any:
        shown = draw_face(background(), "red", 20, 60)
        return draw_face(shown, "green", 30, 6, 36) if number >= 2 else shown

    write_clip(folder / "in.mp4", 5, draw=drawn)
    asked = ["--faces-of", folder / "in.mp4", "--thumbnails", folder / "faces", "--similarity", 0.8]
    done = run(*asked, "--json", roles=("detector", "recognizer"))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["thumbnails"]
    assert [(each["frame"], each["face"]) for each in found] == [(0, 0), (2, 0)]
    assert sorted(path.name for path in (folder / "faces").iterdir()) == [
        "frame000000-face0.png",
        "frame000002-face0.png",
    ]
    target = draw_face(draw_face(background(), "red", 20, 60), "green", 30, 6, 36)
    with swapping(reference=found[1]["path"], similarity=0.8) as fs:
        made = fs(BLUE, target)
    assert made[48, 24].tolist() == painted(BLUE)
    assert np.array_equal(made[:, 60:], target[:, 60:])
    again = run(*asked, roles=("detector", "recognizer"))
    assert again.exit_code == 1
    assert "exists: name another folder" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "roles", "said"),
    [
        (["a", "b"], ("detector", "recognizer", "swapper"), "give SOURCE, TARGET and OUT, not 2"),
        (["a", "b", "c"], ("detector", "recognizer"), "--swapper"),
        (["--faces-of", "x"], ("detector", "recognizer"), "belong together"),
        (["--source", "a", "b", "c", "d"], ("detector", "recognizer", "swapper"), "not 3 paths"),
        (["a", "--faces-of", "x", "--thumbnails", "y"], ("detector", "recognizer"), "leave out"),
    ],
)
def test_paths_that_are_too_few_or_many_are_wrong_usage(
    arguments: list[str], roles: tuple[str, ...], said: str
) -> None:
    done = run(*arguments, roles=roles)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_model_computes_in_the_precision_that_is_asked_for_it(folder: Path) -> None:
    out = folder / "out.png"
    asked = ["--dtype", "swapper", "bf16", "--dtype", "recognizer", "float"]
    done = run(folder / "blue.png", folder / "in" / "a.png", out, *asked)
    assert done.exit_code == 0, done.output
    with vramx.simulate(capacity="64MiB"):
        with vramx.face_swap(
            PatchDetector(), MeanColour(), Painter().bfloat16(), budget="64MiB", backend="simulated"
        ) as fs:
            wanted = fs(portrait("blue"), trio())
    assert np.array_equal(np.asarray(PIL_Image.open(out)), wanted)
