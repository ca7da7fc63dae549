"""``vramx upscale`` on real files."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import vramx
from vramx.cli import main

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
from safetensors.torch import load_file, save_file  # noqa: E402

from forkserver import run_forked  # noqa: E402
from pipelines import networks, stand_ins  # noqa: E402
from pipelines.clips import picture, read_clip, write_clip  # noqa: E402
from vramx.pipelines import pretrained  # noqa: E402
from vramx.pipelines.video.manifest import Segment  # noqa: E402
from vramx.pipelines.video.segments import SegmentWriter  # noqa: E402

#: Factories by their import spec, both with the scale 2.
NETWORK, OTHER = "pipelines.networks:enlarger", "pipelines.networks:strided"
CARD = ("--backend", "simulated", "--budget", "4MiB", "--block", "64KiB")

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


def upscale(*arguments: object, model: object = NETWORK) -> Result:
    given = ["upscale", *arguments, "--model", model, *CARD]
    return CliRunner().invoke(main, [str(each) for each in given])


def told(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def enlarged(network: Any, pixels: Any) -> Any:
    with vramx.super_resolution(
        network, budget="4MiB", backend="simulated", block="64KiB"
    ) as enlarger:
        return enlarger(pixels)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    Image.fromarray(picture(0)).save(path := tmp_path / "small.png")
    return path


def test_a_picture_is_what_the_library_makes_of_it_and_json_tells_what_was_done(
    small: Path, tmp_path: Path
) -> None:
    found = told(upscale(small, tmp_path / "large.png", "--json", "--scale", 2))
    pixels = np.asarray(Image.open(tmp_path / "large.png"))
    assert np.array_equal(pixels, enlarged(networks.enlarger(), picture(0)))
    assert [each["kind"] for each in found["files"]] == ["picture"]
    assert (found["files"][0]["width"], found["files"][0]["height"]) == (128, 96)
    assert 0 < found["peak_resident"] <= found["budget"] == 4 * 2**20
    assert found["moved_in"] > 0
    assert found["moved_out"] == 0
    assert found["scale"] == 2
    assert 0 < found["files"][0]["seconds"] <= found["seconds"]


def test_quality_and_format_are_as_asked(small: Path, tmp_path: Path) -> None:
    options = ("--quality", 40, "--format", "jpeg")
    assert upscale(small, tmp_path / "large.jpg", *options).exit_code == 0
    Image.fromarray(picture(0)).save(tmp_path / "wanted.jpg", quality=40)
    with Image.open(tmp_path / "large.jpg") as made, Image.open(tmp_path / "wanted.jpg") as wanted:
        assert made.quantization == wanted.quantization
    refused = upscale(small, tmp_path / "a.png", *options)
    assert (refused.exit_code, "JPEG was asked for: name it a.jpeg" in refused.stderr) == (1, True)
    assert upscale(small, tmp_path / "a.jpg", "--quality", 0).exit_code == 2
    (folder := tmp_path / "some").mkdir()
    small.rename(folder / "small.png")
    assert upscale(folder, tmp_path / "larger", *options).exit_code == 0
    assert [path.name for path in (tmp_path / "larger").iterdir()] == ["small.jpeg"]


def test_tiles_and_batches_are_as_asked(small: Path, tmp_path: Path) -> None:
    options = ("--tile", 32, "--overlap", 6, "--batch", 2, "--policy", "lru")
    found = told(upscale(small, tmp_path / "large.png", "--json", *options))
    made = found["files"][0]
    assert (made["way"], made["tile"], made["overlap"]) == ("tiles", [32, 32], 6)
    assert made["share"] > 1


def test_weights_from_a_file_are_used(small: Path, tmp_path: Path) -> None:
    other = networks.seeded(networks.enlarger(), seed=9)
    save_file(other.state_dict(), weights := tmp_path / "other.safetensors")
    assert upscale(small, tmp_path / "a.png", "--weights", weights).exit_code == 0
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(pixels, enlarged(other, picture(0)))
    assert not np.array_equal(pixels, enlarged(networks.enlarger(), picture(0)))


def test_a_checkpoint_goes_through_spandrel(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = networks.seeded(networks.enlarger(), seed=4)

    def build(state: dict[str, Any]) -> stand_ins.ImageModelDescriptor:
        made = networks.enlarger()
        made.load_state_dict(state)
        return stand_ins.ImageModelDescriptor(made)

    monkeypatch.setitem(sys.modules, "spandrel", stand_ins.make_module(build))
    torch.save(network.state_dict(), path := tmp_path / "x2.pth")
    assert upscale(small, tmp_path / "a.png", model=path).exit_code == 0
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(pixels, enlarged(network, picture(0)))


@pytest.mark.usefixtures("model_cache")
def test_a_network_with_trained_weights_goes_by_its_name(small: Path, tmp_path: Path) -> None:
    name = "realesr-animevideov3-x2"
    found = told(upscale(small, tmp_path / "a.png", "--json", model=name))
    assert found["scale"] == 2
    network = pretrained.build(name)
    network.load_state_dict(load_file(pretrained.weights(name)))
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    with pytest.warns(RuntimeWarning, match="not band by band: the rows that it looks at do not"):
        assert np.array_equal(pixels, enlarged(network, picture(0)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_from_a_file_enlarges_as_its_network_does(small: Path, tmp_path: Path) -> None:
    torch.jit.script(networks.enlarger()).save(str(path := tmp_path / "program.pt"))
    assert upscale(small, tmp_path / "a.png", model=path).exit_code == 0
    pixels = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    expected = enlarged(networks.enlarger(), picture(0)).astype(int)
    assert np.abs(pixels - expected).max() <= 1  # its fused kernels may round otherwise


def test_a_video_is_known_by_its_content_and_keeps_its_frames_and_times(tmp_path: Path) -> None:
    times = write_clip(tmp_path / "small.mp4", 8)
    (tmp_path / "small.mp4").rename(source := tmp_path / "small.film")
    found = told(upscale(source, tmp_path / "large.mkv", "--json"))
    assert found["files"][0]["kind"] == "video"
    assert found["files"][0]["frames"] == len(times)
    assert (found["files"][0]["width"], found["files"][0]["height"]) == (128, 96)
    clip = read_clip(tmp_path / "large.mkv")
    assert [frame.shape for frame in clip.frames] == [(96, 128, 3)] * len(times)
    assert clip.audio


def test_a_stopped_video_goes_on_where_it_was_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(source := tmp_path / "small.mp4", 12)
    options = ("--segment", 4, "--codec-option", "crf=10")
    assert upscale(source, tmp_path / "whole.mp4", *options).exit_code == 0

    finish = SegmentWriter.finish
    finished: list[str] = []

    def finish_one(writer: SegmentWriter, counts: Mapping[str, int]) -> Segment:
        if finished:
            raise KeyboardInterrupt
        made = finish(writer, counts)
        finished.append(made.file)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "finish", finish_one)
        assert upscale(source, tmp_path / "large.mp4", *options).exit_code == 130
    assert not (tmp_path / "large.mp4").exists()
    assert finished == ["000000.mp4"]

    again: list[str] = []

    def count(writer: SegmentWriter, counts: Mapping[str, int]) -> Segment:
        made = finish(writer, counts)
        again.append(made.file)
        return made

    monkeypatch.setattr(SegmentWriter, "finish", count)
    assert upscale(source, tmp_path / "large.mp4", *options).exit_code == 0
    assert again == ["000001.mp4", "000002.mp4"]
    frames, expected = (read_clip(tmp_path / f"{n}.mp4").frames for n in ("large", "whole"))
    assert np.array_equal(np.stack(frames), np.stack(expected))


def test_a_folders_pictures_are_enlarged_and_those_that_are_there_are_left(tmp_path: Path) -> None:
    (source := tmp_path / "small").mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(source / f"{number}.png")
    (source / "notes.txt").write_text("no picture")
    (source / "inner").mkdir()
    done = upscale(source, tmp_path / "large")
    assert done.exit_code == 0
    for name in ("notes.txt", "inner"):
        assert f"{source / name} was passed by" in done.stdout
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
    ]
    for number in range(3):
        pixels = np.asarray(Image.open(tmp_path / "large" / f"{number}.png"))
        assert np.array_equal(pixels, enlarged(networks.enlarger(), picture(number)))
    (tmp_path / "large" / "1.png").unlink()
    found = told(upscale(source, tmp_path / "large", "--json"))
    assert [Path(each["target"]).name for each in found["files"]] == ["1.png"]
    assert [Path(each).name for each in found["skipped"]] == ["0.png", "2.png"]
    assert {Path(each["source"]).name for each in found["passed_by"]} == {"notes.txt", "inner"}
    found = told(upscale(source, tmp_path / "large", "--json", "--overwrite"))
    assert len(found["files"]) == 3


def test_a_bad_picture_does_not_keep_the_others_of_its_folder_and_is_told(tmp_path: Path) -> None:
    (source := tmp_path / "small").mkdir()
    Image.fromarray(picture(1)).save(source / "b.png")
    Image.fromarray(picture(0)).save(source / "a.png")
    whole = (source / "a.png").read_bytes()
    (source / "a.png").write_bytes(whole[: len(whole) // 2])
    done = upscale(source, tmp_path / "large", "--json")
    assert done.exit_code == 1
    assert "a.png" in done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert [Path(each["source"]).name for each in found["failed"]] == ["a.png"]
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["b.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["small.png", "large.png", "--model", "no_such_module:x"], 1, "importing no_such_module"),
        (["small.png", "large.png", "--model", "absent.pth"], 1, "there is no file absent.pth"),
        (["small.png", "large.png", "--model", "realesrgan-x8"], 1, "known are realesrgan-x4plus"),
        (
            ["small.png", "a.png", "--model", "realesrgan-x4plus", "--weights", "w.pth"],
            2,
            "--weigh",
        ),
        (["small.png", "small.png", "--overwrite", "--model", NETWORK], 1, "is what is read"),
        (["small.png", "there.png", "--model", NETWORK], 1, "give --overwrite"),
        (["small.png", "large.mp4", "--model", NETWORK], 1, "named as a video"),
        (
            ["small.png", "large.png", "--model", NETWORK, "--scale", "3", "--width", "9"],
            1,
            "leave out --height and --width",
        ),
        (["small.png", "large.png", "--model", NETWORK, "--dtype", "double"], 2, "--dtype"),
        (["small.png", "large.png", "--model", NETWORK, "--weights", "w.pth"], 1, "no file w.pth"),
        (["notes.txt", "large.mp4", "--model", NETWORK], 1, "cannot be read as a video"),
        (["empty", "large", "--model", NETWORK], 1, "holds no pictures"),
        (["empty", "empty", "--model", NETWORK], 1, "another folder"),
        (["small.png", "large.png", "--model", "small.png", "--weights", "w.pth"], 2, "--weights"),
        (["absent.png", "large.png", "--model", NETWORK], 2, "does not exist"),
        (["small.png", "large.png", "--model", NETWORK, "--tile", "big"], 2, "nor auto"),
        (["small.png", "large.png", "--model", NETWORK, "--codec-option", "crf"], 2, "NAME=VALUE"),
        (["small.png", "large.png"], 2, "--model"),
    ],
)
def test_an_error_is_one_line_and_writes_nothing(
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(small.parent)
    Path("notes.txt").write_text("no video")
    Path("empty").mkdir()
    Path("there.png").write_bytes(b"")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    done = CliRunner().invoke(main, ["upscale", *arguments, *CARD])
    assert done.exit_code == code
    assert said in done.stderr
    assert code == 2 or done.stderr.startswith("Error: ")
    assert code == 2 or len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_without_a_card_the_simulated_one_is_not_used_unasked(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "libno_such_driver.so")
    arguments = ["upscale", str(small), str(tmp_path / "a.png"), "--model", NETWORK]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "simulated" in done.stderr
    assert not (tmp_path / "a.png").exists()


AT_TERMINAL = """
    import os, runpy, sys

    os.dup2(os.open(sys.argv.pop(1), os.O_WRONLY | os.O_NOCTTY), 2)
    runpy.run_module("vramx", run_name="__main__", alter_sys=True)
"""


def test_a_bar_is_shown_at_a_terminal_only(small: Path, tmp_path: Path) -> None:
    assert upscale(small, tmp_path / "a.png").stderr == ""
    arguments = ["upscale", str(small), str(tmp_path / "b.png"), "--model", NETWORK, *CARD]
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = run_forked(AT_TERMINAL, os.ttyname(writer), *arguments, "--json")
    os.close(writer)
    shown = os.read(reader, 2**16)
    os.close(reader)
    assert json.loads(done)["files"]
    assert b"small.png" in shown
    assert b"px/s, whole]" in shown


# Parts and previews of videos


@pytest.mark.parametrize(("start", "number"), [("0.2", 5), ("00:00:00.65", 17), (None, 9)])
@pytest.mark.parametrize("source", ["in.mp4", "in.mkv", "in.avi"])
def test_a_preview_is_the_frame_at_its_start_or_one_from_the_middle(
    tmp_path: Path, source: str, start: str | None, number: int
) -> None:
    steady = [512 * n for n in range(20)]
    write_clip(tmp_path / source, audio=False, times=steady, options={"g": "6"})
    given = [] if start is None else ["--start", start]
    target = tmp_path / "frame.png"
    found = told(upscale(tmp_path / source, target, "--preview", *given, "--json"))
    assert [(each["kind"], each["width"]) for each in found["files"]] == [("picture", 128)]
    made = np.asarray(Image.open(target)).astype(float)
    near = range(number - 1, number + 2)
    errors = [np.abs(made - enlarged(networks.enlarger(), picture(n))).mean() for n in near]
    assert min(errors) < 4
    assert np.argmin(errors) in ((1,) if start else (1, 2))  # a middle is between two
    assert {path.name for path in tmp_path.iterdir()} == {source, "frame.png"}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--preview", "--end", "1"], 2, "leave out --end"),
        (["--preview", "--start", "9"], 1, "start 9.0 s is not in"),
        (["--preview", "--start", "soon"], 1, "start 'soon' is no time"),
    ],
)
def test_a_preview_that_cannot_be_is_refused(
    tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    write_clip(tmp_path / "in.mp4", 5, audio=False)
    done = upscale(tmp_path / "in.mp4", tmp_path / "frame.png", *options)
    assert (done.exit_code, message in done.stderr) == (code, True)
    assert not (tmp_path / "frame.png").exists()


def test_options_of_videos_reach_the_library(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=False, format="yuv422p10le")
    options = ["--start", "0.1", "--end", "0.5", "--pix-fmt", "yuv420p", "--on-corrupt", "skip"]
    assert upscale(tmp_path / "in.mp4", tmp_path / "o.mp4", *options).exit_code == 0
    times = read_clip(tmp_path / "in.mp4").times
    assert len(read_clip(tmp_path / "o.mp4").times) == sum(0.1 <= time < 0.5 for time in times)
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
