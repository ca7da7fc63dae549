"""The example that swaps faces does what it says, on a short clip."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
for package in ("av", "PIL", "skimage", "torch", "tqdm"):
    pytest.importorskip(package)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
face_models = importlib.import_module("face_models")
swap_faces = importlib.import_module("swap_faces")

FRAMES = 10


def frames(path: Path) -> list[Any]:
    import av

    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 1
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("swapped")
    capture = pytest.MonkeyPatch()
    said: list[str] = []
    capture.setattr("builtins.print", lambda *given, **_: said.append(" ".join(map(str, given))))
    try:
        arguments = ["--simulated", "--frames", str(FRAMES), "--folder", str(folder)]
        assert swap_faces.main(arguments) == 0, said
    finally:
        capture.undo()
    return folder, "\n".join(said)


def test_the_face_turns_green_and_the_rest_stays(made: tuple[Path, str]) -> None:
    before, after = (frames(made[0] / name) for name in ("clip.mp4", "swapped.mp4"))
    assert len(before) == len(after) == FRAMES
    with_face = round(0.8 * FRAMES)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        greener = (new[..., 1] - new[..., 0]) - (old[..., 1] - old[..., 0])
        if number < with_face:
            top, left = round(60 * number / FRAMES), round(100 + 60 * np.sin(6 * number / FRAMES))
            assert greener[128 - top, 226 - left] > 40  # the nose
        else:
            assert abs(greener).mean() < 6


def test_the_figures_are_those_of_a_run_within_the_budget(made: tuple[Path, str]) -> None:
    said = made[1]
    weights, budget, peak, moved = map(
        float,
        re.findall(r"(?:weights|budget|peak resident|moved in) ([\d.]+)", said),
    )
    assert peak <= budget < weights
    assert moved > weights
    assert "10 frames, 8 faces swapped, 2 frames without a face" in said


def test_an_error_is_told_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--simulated", "--frames", "2", "--folder", str(tmp_path), "--budget", "8 apples"]
    assert swap_faces.main(arguments) == 1
    assert "8 apples" in capsys.readouterr().err
