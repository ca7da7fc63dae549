"""ONNX files in the place of torch networks enlarge pictures as the files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import vramx
from vramx.cli import main

onnx = pytest.importorskip("onnx", reason="models are read by onnx: pip install 'vramx[onnx]'")
pytest.importorskip("onnxruntime", minversion="1.28")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage.data")
from onnx import TensorProto  # noqa: E402

from onnx_networks import write_recognizer, write_upscaler  # noqa: E402
from vramx.pipelines.onnx.footprint import live_bytes  # noqa: E402

from .clips import X264, read_clip, write_clip  # noqa: E402
from .onnx_running import reference  # noqa: E402

KIB, MIB = 2**10, 2**20
#: How far the networks look: three layers of three by three.
REACH = 3
Pixels = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


def photograph(height: int = 96, width: int = 128) -> Pixels:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[40:, 140:][:height, :width])


def wanted(path: Path, picture: Pixels) -> Pixels:
    """What onnxruntime makes of the whole, in the steps of bytes."""
    session = reference(path)
    dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    fed = picture.astype(np.float32)[None].transpose(0, 3, 1, 2) / 255
    (made,) = session.run(None, {"input": fed.astype(dtype)})
    return made[0].transpose(1, 2, 0).astype(np.float32) * 255


def enlarging(path: Path | str, budget: Any = "64MiB", **options: Any) -> Any:
    return vramx.super_resolution(
        path, budget=budget, block=64 * KIB, backend="simulated", **options
    )


def off(made: Pixels, expected: Pixels) -> float:
    """How many steps two pictures are apart at most, of which rounding is half a one."""
    return float(np.abs(made.astype(np.float32) - expected).max())


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_picture_that_fits_is_what_onnxruntime_makes_of_it(
    tmp_path: Path, scale: int, dtype: int
) -> None:
    path = tmp_path / "x.onnx"
    write_upscaler(path, scale=scale, dtype=dtype)
    picture = photograph()
    with enlarging(str(path)) as sr:
        made = sr(picture)
        assert sr.scale == scale
        assert sr.forecast(picture).describe() == "whole"
        assert [(each.name, each.uses > 0) for each in sr.session.modules()] == [("x.onnx", True)]
    assert made.shape == (96 * scale, 128 * scale, 3)
    assert off(made, wanted(path, picture)) <= 0.501
    assert made.std() > 10


def test_a_network_of_one_channel_sees_colours_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    write_upscaler(path, channels=1)
    picture = photograph()
    with enlarging(path) as sr:
        made = sr(picture)
    for colour in range(3):
        plane = picture[..., colour : colour + 1]
        assert off(made[..., colour : colour + 1], wanted(path, plane)) <= 0.501


def test_a_small_budget_is_held_by_tiles_of_which_no_seam_shows(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    write_upscaler(path, features=64)
    weights = 4 * 9 * (3 * 64 + 64 * 64 + 64 * 12)
    picture = photograph(300, 400)
    with enlarging(path, budget=2 * MIB) as sr:
        way = sr.forecast(picture)
        assert way.grid.count > 1
        # What a tile holds between two convolutions, beside the weights.
        held = 2 * 64 * 4 * way.at_once * way.grid.area
        assert held + weights < 2 * MIB
        made = sr(picture)
        stats = sr.session.stats()
    assert 0 < stats.peak_resident <= stats.budget
    assert off(made, wanted(path, picture)) <= 1.001


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize(
    "sides", [(64, 64), (48, 80), (64, "width"), ("height", 48)], ids=lambda sides: f"{sides}"
)
def test_a_file_of_one_size_gets_tiles_of_just_that(
    tmp_path: Path, sides: tuple[Any, Any], told: bool
) -> None:
    fixed, free = tmp_path / "fixed.onnx", tmp_path / "free.onnx"
    write_upscaler(fixed, sides, told=told)
    write_upscaler(free)
    least = min(side for side in sides if isinstance(side, int))
    limits = [side if isinstance(side, int) else least for side in sides]
    with enlarging(fixed, overlap=REACH) as sr:
        assert sr.scale == 2
        for height, width in ((150, 170), (least, least), (least, 99)):
            picture = photograph(height, width)
            way = sr.forecast(picture)
            assert way.grid.rows.size <= limits[0]
            assert way.grid.columns.size <= limits[1]
            made, expected = sr(picture), wanted(free, picture)
            assert made.shape == expected.shape
            # Below its size pictures are reflected, where the network itself puts zeros.
            inner = [
                slice(0, None if length >= side else 2 * (length - REACH))
                for length, side in zip((height, width), [_length(each) for each in sides])
            ]
            assert off(made[tuple(inner)], expected[tuple(inner)]) <= 0.501
        small = sr(photograph(20, 30))
        assert small.shape == (40, 60, 3)
        inner = (slice(0, 2 * (20 - REACH)), slice(0, 2 * (30 - REACH)))
        assert off(small[inner], wanted(free, photograph(20, 30))[inner]) <= 0.501


def _length(side: Any) -> int:
    return side if isinstance(side, int) else 0


def test_the_context_of_tiles_of_one_size_is_measured_and_leaves_most_of_them(
    tmp_path: Path,
) -> None:
    write_upscaler(tmp_path / "near.onnx", (64, 64), layers=2)
    write_upscaler(tmp_path / "far.onnx", (64, 64), layers=40)
    picture = photograph(200, 200)
    with enlarging(tmp_path / "near.onnx") as sr:
        assert 0 < sr.forecast(picture).overlap <= REACH
        assert off(sr(picture), wanted_in_tiles(tmp_path, picture)) <= 1.001
        assert sr.seam_error(picture) < 1 / 255
    with enlarging(tmp_path / "far.onnx") as sr:
        with pytest.warns(RuntimeWarning, match="seams may show"):
            with pytest.warns(RuntimeWarning, match="takes tiles of no other size"):
                sr(picture)
        assert sr.forecast(picture).overlap == 8


def wanted_in_tiles(folder: Path, picture: Pixels) -> Pixels:
    write_upscaler(folder / "free.onnx")
    return wanted(folder / "free.onnx", picture)


def test_what_lives_at_once_is_told_by_shapes(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for features, scale, dtype, item in ((32, 2, 1, 4), (8, 4, 1, 4), (32, 2, 10, 2)):
        write_upscaler(path, features=features, scale=scale, dtype=dtype)
        model = onnx.load(path)
        exported = onnx.helper.make_tensor_value_info
        name = model.graph.node[0].output[0]
        model.graph.value_info.append(exported(name, dtype, [1, features, 8, 8]))
        onnx.save(model, path)
        widest = max(2 * features, features + 3 * scale**2, 2 * 3 * scale**2)
        assert live_bytes(path, (1, 3, 40, 50)) == 40 * 50 * widest * item


def run(*arguments: object, budget: str = "64MiB") -> Result:
    card = ["--backend", "simulated", "--budget", budget, "--block", 64 * KIB]
    return CliRunner().invoke(main, [str(x) for x in ["upscale", *arguments, *card]])


def test_a_video_is_enlarged_by_a_file_alone_and_resumed_by_the_same_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vramx.pipelines.onnx.upscaler import OnnxUpscaler

    path, other = tmp_path / "x.onnx", tmp_path / "other.onnx"
    write_upscaler(path)
    write_upscaler(other, features=12)
    write_clip(tmp_path / "in.mp4", 8, audio=False)
    codec = [word for name in X264 for word in ("--codec-option", f"{name}={X264[name]}")]
    call, seen = OnnxUpscaler.__call__, []

    def stopping(self: Any, pictures: torch.Tensor) -> torch.Tensor:
        seen.extend([pictures.shape] if pictures.shape[-2:] == (48, 64) else [])
        if len(seen) == 4:
            raise KeyboardInterrupt
        return call(self, pictures)

    def enlarge(model: Path, out: str) -> Result:
        more = ("--segment", 2, "--batch", 1, "--json", *codec)
        return run(tmp_path / "in.mp4", tmp_path / out, "--model", model, *more)

    with monkeypatch.context() as patched:
        patched.setattr(OnnxUpscaler, "__call__", stopping)
        stopped = enlarge(path, "out.mp4")
    assert stopped.exit_code == 130, stopped.output
    refused = enlarge(other, "out.mp4")
    assert refused.exit_code == 1
    assert "to go on with it, or delete" in refused.stderr
    done = enlarge(path, "out.mp4")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["scale"] == 2
    assert told["files"][0]["frames"] == 8
    assert enlarge(path, "whole.mp4").exit_code == 0
    made, whole = (read_clip(tmp_path / name).frames for name in ("out.mp4", "whole.mp4"))
    assert all(np.array_equal(a, b) for a, b in zip(made, whole, strict=True))


def not_whole(path: Path) -> None:
    write_upscaler(path, (64, 64))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 150
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("write", "options", "said"),
    [
        (write_recognizer, {}, r"no network that enlarges pictures that is known.*Real-ESRGAN"),
        (not_whole, {}, "not larger by a whole number"),
        (lambda _: None, {}, "there is no file"),
        (lambda path: path.write_bytes(b"PK"), {}, "not an ONNX file"),
        (lambda path: write_upscaler(path, (64, 64)), {"tile": 128}, "of 64x64 alone"),
        (lambda path: write_upscaler(path, (64, 64)), {"overlap": 40}, "takes 64 alone"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, write: Callable[[Path], Any], options: dict[str, Any], said: str
) -> None:
    write(tmp_path / "x.onnx")
    with pytest.raises(vramx.ConfigError, match=said):
        with enlarging(tmp_path / "x.onnx", **options):
            pass


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("x.onnx", ("--dtype", "half"), "give no dtype"),
        ("x.onnx", ("--weights", "w.safetensors"), "package.module:factory"),
        ("absent.onnx", (), "there is no file absent.onnx"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    more: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_upscaler(tmp_path / "x.onnx")
    Image.fromarray(photograph()).save("in.png")
    done = run("in.png", "out.png", "--model", model, *more)
    assert done.exit_code != 0
    assert said in done.stderr
    assert not Path("out.png").exists()


def test_a_network_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    write_upscaler(tmp_path / "x.onnx", features=256)
    with pytest.raises(vramx.OutOfMemoryError, match=r"x\.onnx"):
        with enlarging(tmp_path / "x.onnx", budget="1MiB"):
            pass
