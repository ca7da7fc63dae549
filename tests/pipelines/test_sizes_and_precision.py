"""Results have the size that is asked for, and are computed in the precision that is."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import vramx
from vramx.cli import main

torch = pytest.importorskip("torch")
pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

from pipelines import networks, stand_ins  # noqa: E402
from pipelines.clips import read_clip, write_clip  # noqa: E402
from vramx.integrations import spandrel as door  # noqa: E402
from vramx.integrations.torch.precision import DTYPES, in_dtype  # noqa: E402

NETWORK = "pipelines.networks:enlarger"
CARD = ("--backend", "simulated", "--budget", "4MiB", "--block", "64KiB")
OPEN = {"budget": "4MiB", "block": "64KiB", "backend": "simulated"}

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


def upscale(*arguments: object, model: object = NETWORK) -> Result:
    given = ["upscale", *arguments, "--model", model, *CARD]
    return CliRunner().invoke(main, [str(each) for each in given])


def noise(height: int, width: int, channels: int = 3) -> Any:
    smooth = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
    return smooth if channels > 1 else smooth[:, :, 0]


def enlarged(pixels: Any, **asked: Any) -> Any:
    with vramx.super_resolution(networks.enlarger(), **OPEN, **asked) as sr:
        return sr(pixels)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"scale": 1}, (40, 30)),
        ({"scale": 1.5}, (60, 45)),
        ({"height": 45}, (60, 45)),
        ({"width": 20}, (20, 15)),
        ({"height": 21, "width": 50}, (50, 21)),
        ({"scale": 2}, (80, 60)),
        ({"width": 1}, (1, 1)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_result_is_the_networks_shrunk_as_pillow_does(
    asked: dict[str, Any], size: tuple[int, int], channels: int
) -> None:
    pixels = noise(30, 40, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = enlarged(pixels, **asked)
    assert made.dtype == np.uint8
    colours = 3 if channels > 1 else 1
    large = enlarged(pixels).reshape(60, 80, -1)[..., :colours].squeeze()
    wanted = np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BICUBIC)).astype(int)
    assert made.shape == (*size[::-1], *pixels.shape[2:])
    colour = made.reshape(*made.shape[:2], -1)[..., :colours].reshape(wanted.shape)
    assert np.abs(colour - wanted).max() <= 1


def test_what_the_network_does_not_enlarge_is_told() -> None:
    with pytest.warns(RuntimeWarning, match=r"40x30 becomes 80x60 .* 120x90 by bicubic"):
        assert enlarged(noise(30, 40), scale=3).shape == (90, 120, 3)


def test_bands_and_tiles_are_shrunk_as_the_whole_is() -> None:
    pixels = noise(70, 90)
    wanted = enlarged(pixels, scale=1).astype(int)
    with pytest.warns(RuntimeWarning, match="which computes"):
        tiles = enlarged(pixels, scale=1, tile=48)
    assert np.abs(tiles.astype(int) - wanted).max() <= 1


def test_the_command_tells_and_writes_the_size_that_is_asked_for(tmp_path: Path) -> None:
    Image.fromarray(noise(30, 40)).save(small := tmp_path / "small.png")
    done = upscale(small, out := tmp_path / "large.png", "--height", 45, "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)["files"][0]
    assert Image.open(out).size == (made["width"], made["height"]) == (60, 45)


def test_the_frames_of_a_video_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    write_clip(small := tmp_path / "small.mp4", 6)
    width, height = read_clip(small).frames[0].shape[1::-1]
    done = upscale(small, out := tmp_path / "large.mp4", "--scale", 1.5)
    assert done.exit_code == 0, done.output
    made = read_clip(out).frames
    assert len(made) == 6
    assert made[0].shape[1::-1] == (round(1.5 * width), round(1.5 * height))


@pytest.mark.parametrize(("name", "dtype"), DTYPES.items())
def test_the_precision_that_is_asked_for_is_what_the_network_computes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    seen = set()
    forward = torch.nn.PixelShuffle.forward

    def noted(self: Any, x: torch.Tensor) -> torch.Tensor:
        seen.add(x.dtype)
        return forward(self, x)

    monkeypatch.setattr(torch.nn.PixelShuffle, "forward", noted)
    Image.fromarray(noise(30, 40)).save(small := tmp_path / "small.png")
    done = upscale(small, tmp_path / "large.png", "--dtype", name, "--tile", 32)
    assert done.exit_code == 0, done.output
    assert seen == {dtype}


def descriptor(state: dict[str, Any], **said: Any) -> stand_ins.ImageModelDescriptor:
    network = networks.enlarger()
    network.load_state_dict(state)
    return stand_ins.ImageModelDescriptor(network, **said)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_checkpoint_computes_in_the_precision_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    torch.save(networks.enlarger().to(dtype).state_dict(), path := tmp_path / "x2.pth")
    monkeypatch.setitem(sys.modules, "spandrel", stand_ins.make_module(descriptor))
    assert {each.dtype for each in door.load(path).model.parameters()} == {dtype}


def test_a_network_that_does_not_compute_in_half_precision_is_told_or_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(networks.enlarger().half().state_dict(), path := tmp_path / "x2.pth")

    def build(state: dict[str, Any]) -> stand_ins.ImageModelDescriptor:
        return descriptor(state, supports_half=False)

    monkeypatch.setitem(sys.modules, "spandrel", stand_ins.make_module(build))
    found = door.load(path)
    assert {each.dtype for each in found.model.parameters()} == {torch.float32}
    with pytest.raises(vramx.ConfigError, match=r"in float16, as spandrel says.*float32, bfloat16"):
        in_dtype(found, torch.float16)
    assert in_dtype(found, torch.bfloat16).model[0].weight.dtype == torch.bfloat16
    Image.fromarray(noise(30, 40)).save(small := tmp_path / "small.png")
    done = upscale(small, tmp_path / "large.png", "--dtype", "half", model=path)
    assert done.exit_code == 1
    assert "does not compute in float16" in done.stderr
    assert not (tmp_path / "large.png").exists()
