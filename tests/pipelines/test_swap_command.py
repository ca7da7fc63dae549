"""`vramx swap` does what the library does, says so in text and JSON, and fails in one line."""

from __future__ import annotations

import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import vramx
from forkserver import processes
from vramx.cli import main

pytest.importorskip("av")
PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage.data")

from .clips import X264, read_clip, write_clip  # noqa: E402
from .face_networks import MeanColour, Painter, PatchDetector, portrait  # noqa: E402
from .test_face_swap_files import COUNT, WANTED, picture  # noqa: E402

TESTS = Path(__file__).resolve().parents[1]
HERE = "pipelines.face_networks"
MODELS = {
    "--detector": f"{HERE}:PatchDetector",
    "--recognizer": f"{HERE}:MeanColour",
    "--swapper": f"{HERE}:Painter",
}
CARD = {"--backend": "simulated", "--budget": "64MiB"}
CODEC = [word for name in X264 for word in ("--codec-option", f"{name}={X264[name]}")]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a face, a picture and a clip; the current folder is that of the models."""
    monkeypatch.chdir(TESTS)
    PIL_Image.fromarray(portrait("blue")).save(tmp_path / "me.png")
    PIL_Image.fromarray(picture(0)).save(tmp_path / "in.png")
    write_clip(tmp_path / "in.mp4", COUNT, draw=picture)
    return tmp_path


def command(folder: Path, target: str, out: str, *more: object, **models: str) -> list[str]:
    options = {**MODELS, **CARD, **{f"--{role}": each for role, each in models.items()}}
    paths = [folder / "me.png", folder / target, folder / out]
    return ["swap", *map(str, [*paths, *[x for pair in options.items() for x in pair], *more])]


def run(*given: Any, **models: str) -> Result:
    return CliRunner().invoke(main, command(*given, **models))


def swapped(target: str, out: Path, folder: Path, **options: Any) -> Any:
    models = (PatchDetector(), MeanColour(), Painter())
    with vramx.face_swap(*models, backend="simulated", budget="64MiB", **options) as fs:
        if target.endswith(".mp4"):
            video = vramx.VideoOptions(codec_options=X264)
            fs.swap_video(folder / "me.png", folder / target, out, video)
        else:
            fs.swap_picture(folder / "me.png", folder / target, out)


def test_a_clip_is_swapped_as_the_library_does_it(folder: Path) -> None:
    done = run(folder, "in.mp4", "out.mp4", "--json", *CODEC)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    stats = told.pop("stats")
    assert told == {"out": str(folder / "out.mp4"), **WANTED}
    assert 0 < stats["peak_resident"] <= stats["budget"] == 64 * 2**20
    swapped("in.mp4", folder / "wanted.mp4", folder)
    got, wanted = read_clip(folder / "out.mp4"), read_clip(folder / "wanted.mp4")
    assert got.times == wanted.times
    assert got.audio == wanted.audio
    assert all(np.array_equal(a, b) for a, b in zip(got.frames, wanted.frames, strict=True))


def test_a_picture_is_swapped_and_text_says_what_json_does(folder: Path) -> None:
    done = run(folder, "in.png", "out.png")
    assert done.exit_code == 0, done.stderr
    said = "1 frames, 1 faces found, 1 swapped; no face in 0 frames, 0 unchanged"
    assert done.stdout == f"{folder / 'out.png'}: {said}\n"
    swapped("in.png", folder / "wanted.png", folder)
    assert (folder / "out.png").read_bytes() == (folder / "wanted.png").read_bytes()


def test_quality_and_format_of_a_picture_are_as_asked(folder: Path) -> None:
    options = ("--quality", 40, "--format", "jpeg")
    assert run(folder, "in.png", "out.jpg", *options).exit_code == 0
    PIL_Image.fromarray(picture(0)).save(folder / "wanted.jpg", quality=40)
    with PIL_Image.open(folder / "out.jpg") as made:
        with PIL_Image.open(folder / "wanted.jpg") as wanted:
            assert made.quantization == wanted.quantization
    for out, code, said in (
        ("a.png", 1, "JPEG was asked for"),
        ("a.mp4", 2, "--quality and --format are for pictures"),
    ):
        done = run(folder, "in.png", out, *options)
        assert (done.exit_code, said in done.stderr) == (code, True)


class Tint(nn.Module):
    """Makes crops of -1 to 1 in the order BGR one colour."""

    def forward(self, crops: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(crops) + 0 * embeddings.sum()
        return ones * torch.tensor([-1.0, 0.0, 1.0])[:, None, None]


class Grey(nn.Module):
    """Brightens."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return crops * self.gain


def test_programs_in_files_get_what_was_said_of_them(folder: Path) -> None:
    torch.jit.script(Tint()).save(str(folder / "tint.pt"))
    shapes = ({0: torch.export.Dim("n")},)
    program = torch.export.export(Grey(), (torch.rand(2, 3, 256, 256),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "grey.pt2")
    said = ["--black-white", "swapper", "-1", "1", "--order", "swapper", "BGR"]
    said += ["--size", "swapper", 64, "--template", "swapper", 112, "--size", "enhancer", 256]
    models = {"swapper": str(folder / "tint.pt"), "enhancer": str(folder / "grey.pt2")}
    done = run(folder, "in.png", "out.png", *said, **models)
    assert done.exit_code == 0, done.stderr
    nose = np.asarray(PIL_Image.open(folder / "out.png"))[33, 24].astype(int)
    assert np.abs(nose - [255, 127.5, 0]).max() < 4


def test_frames_without_the_face_are_counted_or_an_error_that_names_one(folder: Path) -> None:
    reference = ["--reference", folder / "me.png"]
    done = run(folder, "in.mp4", "out.mp4", *reference, "--json")
    assert json.loads(done.stdout)["unchanged"] == COUNT
    done = run(folder, "in.mp4", "other.mp4", "--no-face", "error")
    assert done.exit_code == 1
    assert "in.mp4, frame 5: no face was found" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("models", "more", "code", "message"),
    [
        ({"detector": "absent.pt"}, [], 1, "detector: there is no file absent.pt"),
        ({"detector": "os:getcwd"}, [], 1, "detector: os:getcwd() made a str, not a network"),
        ({"swapper": f"{HERE}:MeanColour"}, [], 1, "TypeError"),
        ({"detector": f"{HERE}:MeanColour"}, [], 1, "the detector gave"),
        ({}, ["--size", "swapper", "3"], 1, "swapper: --size 3"),
        ({}, ["--size", "enhancer", "256"], 2, "no enhancer"),
        ({}, ["--size", "painter", "256"], 2, "painter"),
        ({}, ["--budget", "8 apples"], 1, "8 apples"),
        ({}, ["--score", "0"], 1, "score 0"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_nothing_is_written(
    folder: Path, models: dict[str, str], more: list[str], code: int, message: str
) -> None:
    done = run(folder, "in.png", "out.png", *more, **models)
    assert done.exit_code == code
    assert message in done.stderr
    assert code == 2 or len(done.stderr.splitlines()) == 1
    assert not (folder / "out.png").exists()


def test_a_missing_package_is_named_with_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    for name in [name for name in sys.modules if name.startswith("vramx.pipelines.")]:
        if name.endswith("faces") or "swapping" in name:
            monkeypatch.delitem(sys.modules, name)
    done = run(folder, "in.png", "out.png")
    assert done.exit_code == 1
    assert "pip install 'vramx[torch,video,faces]'" in done.stderr


def interrupted(given: list[str], told: Connection) -> None:
    """Run a command in a process that is interrupted; tell its exit code and what it says."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    os.chdir(TESTS)
    forward, left = Painter.forward, [10]

    def stopping(self: Painter, *given: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, *given)

    Painter.forward = stopping
    done = CliRunner().invoke(main, given)
    told.send((done.exit_code, done.stderr))


def test_an_interrupted_job_says_how_to_go_on_and_ends_as_one_that_was_not(folder: Path) -> None:
    more = ("--segment", 6, "--batch", 1, *CODEC)
    given = command(folder, "in.mp4", "out.mp4", "--json", *more)
    heard, told = processes.Pipe(duplex=False)
    process = processes.Process(target=interrupted, args=(given, told))
    process.start()
    told.close()
    code, said = heard.recv()
    process.join()
    assert code == 130, said
    assert "goes on" in said
    assert not (folder / "out.mp4").exists()
    assert (folder / "out.mp4.parts").is_dir()
    told = json.loads(CliRunner().invoke(main, given).stdout)
    assert {key: told[key] for key in WANTED} == WANTED
    run(folder, "in.mp4", "wanted.mp4", *more)
    got, wanted = read_clip(folder / "out.mp4"), read_clip(folder / "wanted.mp4")
    assert all(np.array_equal(a, b) for a, b in zip(got.frames, wanted.frames, strict=True))


def test_a_preview_is_one_frame_with_its_faces_swapped(folder: Path) -> None:
    done = run(folder, "in.mp4", "frame.png", "--preview", "--start", "0.01", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["frames"], told["faces"], told["swapped"]) == (1, 1, 1)
    frame = read_clip(folder / "in.mp4").frames[1]
    made = np.asarray(PIL_Image.open(folder / "frame.png"))
    assert made.shape == frame.shape
    assert np.abs(made.astype(float) - frame).max() > 50
