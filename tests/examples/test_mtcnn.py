"""MTCNN finds faces where they are, within a budget as without one."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import vramx

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("skimage")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
face_models = importlib.import_module("face_models")
mtcnn = importlib.import_module("mtcnn")

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")
#: Read off the astronaut's picture: eyes, nose, corners of the mouth.
LANDMARKS = ((203, 101), (248, 104), (224, 128), (203, 140), (246, 140))


def as_tensor(picture: Any) -> Any:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(("top", "left"), [(0, 0), (20, 100), (30, 150)])
def test_a_face_is_found_with_its_landmarks(top: int, left: int) -> None:
    picture = as_tensor(face_models.astronaut()[top : top + 256, left : left + 256])
    with torch.inference_mode():
        (face,) = mtcnn.MTCNN()(picture)[0]
    offset = torch.tensor([left, top])
    assert (face[5:].view(5, 2) + offset - torch.tensor(LANDMARKS)).abs().max() < 4
    assert face[4] > 0.99
    box = face[:4].view(2, 2) + offset
    assert (box[0] < torch.tensor(LANDMARKS).amin(0)).all()
    assert (box[1] > torch.tensor(LANDMARKS).amax(0)).all()


def test_each_picture_has_its_own_faces_and_some_have_none() -> None:
    face, none = as_tensor(face_models.astronaut()[:256, 100:356]), torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        found = mtcnn.MTCNN()(torch.cat([none, face, none]))
    assert [tuple(each.shape) for each in found] == [(0, 15), (1, 15), (0, 15)]


def test_a_picture_smaller_than_any_face_has_none() -> None:
    with torch.inference_mode():
        assert mtcnn.MTCNN()(torch.rand(1, 3, 5, 7))[0].shape == (0, 15)


def test_no_box_that_is_kept_overlaps_a_better_one_and_what_is_dropped_does() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator)
    boxes = torch.cat([corner, corner + 0.2 + torch.rand(60, 2, generator=generator) / 3], 1)
    scores = torch.rand(60, generator=generator)

    def overlap(a: int, b: int) -> float:
        low, high = torch.maximum(boxes[a, :2], boxes[b, :2]), torch.minimum(boxes[a], boxes[b])[2:]
        shared = (high - low).clamp(min=0).prod()
        areas = [(boxes[each, 2:] - boxes[each, :2]).prod() for each in (a, b)]
        return float(shared / (sum(areas) - shared))

    kept = mtcnn.suppress(boxes, scores, 0.4).tolist()
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    for place, box in enumerate(kept):
        assert all(overlap(box, better) <= 0.4 for better in kept[:place])
    for box in set(range(60)) - set(kept):
        assert any(overlap(box, each) > 0.4 and scores[each] > scores[box] for each in kept)


def test_faces_are_swapped_within_a_budget_as_without_vramx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = face_models.astronaut()[:256, 100:356]
    source = (picture * np.array([0.6, 1.0, 0.6])).round().astype(np.uint8)

    def swapped(**options: Any) -> tuple[Any, int, vramx.Stats]:
        models = [
            mtcnn.MTCNN(),
            face_models.ColourRecognizer(),
            face_models.TintSwapper(),
            face_models.Sharpener(),
        ]
        weights = sum(each.nbytes for model in models for each in model.parameters())
        with vramx.face_swap(*models, **options) as fs:
            return fs(source, picture), weights, fs.session.stats()

    made, weights, stats = swapped(budget="4MiB", backend="simulated", block="256KiB")
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "libno_such_driver.so")
    with pytest.warns(RuntimeWarning, match="vramx manages nothing"):
        expected, _, _ = swapped(on_missing="cpu")
    assert np.array_equal(made, expected)
    assert stats.peak_resident <= 4 * 2**20 < weights
    assert not np.array_equal(made, picture)


def test_without_the_package_or_with_another_file_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    class Altered:
        def locate_file(self, _: str) -> Path:
            (tmp_path / "pnet.pt").write_bytes(b"")
            return tmp_path / "pnet.pt"

    for found in (fail, lambda _: Altered()):
        monkeypatch.setattr(metadata, "distribution", found)
        with pytest.raises(
            vramx.ConfigError, match=r"pip install --no-deps facenet-pytorch==2\.6\.0"
        ):
            mtcnn.read_weights("pnet")
