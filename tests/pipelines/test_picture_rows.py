"""A file whose rows are written as they are done is what the whole picture becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vramx
from vramx.pipelines.upscaling import engine
from vramx.pipelines.upscaling.resizing import RowResizer, resize, resized_rows
from vramx.pipelines.upscaling.streaming import enlarged_rows

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")


class Failing(nn.Module):
    """Doubles pictures; once, at a call that is chosen, there is no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 12, 3, padding=1)
        self.left = -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise vramx.OutOfMemoryError("no memory")
        return nn.functional.pixel_shuffle(self.layer(x).sigmoid(), 2)


@pytest.fixture
def network() -> Failing:
    torch.manual_seed(0)
    return Failing()


def enlarging(network: nn.Module, **sizes: Any) -> Any:
    options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
    return vramx.super_resolution(network, **options, **sizes)


@pytest.mark.parametrize("sizes", [{}, {"tile": 32, "overlap": 2, "batch": 1}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.filterwarnings("ignore:.*computes")
def test_rows_are_those_of_the_whole_picture(
    one_thread: None,  # noqa: ARG001
    network: Failing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    sizes: dict[str, int],
) -> None:
    monkeypatch.setattr(engine, "_AT_ONCE", 1500)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, len(mode)), np.uint8)
    pixels = pixels[:, :, 0] if mode == "L" else pixels
    Image.fromarray(pixels).save(tmp_path / "in.png")
    with vramx.simulate(capacity="64MiB", granule="4KiB"), enlarging(network, **sizes) as sr:
        wanted = sr(pixels)
        sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as made:
        assert np.array_equal(np.asarray(made), wanted)


@pytest.mark.filterwarnings("ignore:.*computes")
def test_rows_that_were_written_before_memory_ran_out_are_written_and_told_once(
    one_thread: None,  # noqa: ARG001
    network: Failing,
    tmp_path: Path,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    sizes = {"tile": 32, "overlap": 2, "batch": 1}
    told: list[vramx.Progress] = []
    with vramx.simulate(capacity="64MiB", granule="4KiB"), enlarging(network, **sizes) as sr:
        wanted = sr(pixels)
        network.left = 4  # the first row of tiles has been done; smaller ones end elsewhere
        with pytest.warns(RuntimeWarning, match="going on"):
            sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png", on_progress=told.append)
    done = [each.done for each in told]
    assert done == sorted(done)
    assert 0 < told[-1].done == told[-1].total
    with Image.open(tmp_path / "out.png") as made:
        assert np.abs(np.asarray(made).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_rows_of_alpha_are_those_of_the_whole(scale: int) -> None:
    planes = torch.rand((1, 1, 17, 9), generator=torch.Generator().manual_seed(0))
    whole = enlarged_rows(planes, scale, 0, 17 * scale)
    assert whole.shape == (1, 1, 17 * scale, 9 * scale)
    for low in range(0, 17 * scale, 5):
        count = min(5, 17 * scale - low)
        part = enlarged_rows(planes, scale, low, count)
        assert (part - whole[:, :, low : low + count]).abs().max() <= 1e-6


SIZES = [(17, 9), (5, 9), (17, 4), (41, 20), (1, 1), (16, 8)]


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_resized_as_the_whole_is_which_is_as_torch_does(size: tuple[int, int]) -> None:
    pictures = torch.rand((2, 3, 17, 9), generator=torch.Generator().manual_seed(0))
    wanted = nn.functional.interpolate(pictures, size=size, mode="bicubic", antialias=True)
    whole = resize(pictures, size)
    assert (whole - wanted.clamp(0, 1)).abs().max() <= 1e-5
    for count in (1, 4, 17):
        resizer = RowResizer(17, size)
        by_rows = torch.cat([resizer.put(rows) for rows in pictures.split(count, dim=2)], dim=2)
        assert torch.equal(by_rows, whole)
    low = size[0] // 3
    part = resized_rows(pictures, size, low, size[0] - low)
    assert torch.equal(part, whole[:, :, low:])


@pytest.mark.parametrize("scale", [0.7, 1.5, 3])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_file_of_another_size_is_what_the_picture_becomes(
    network: Failing, tmp_path: Path, scale: float, channels: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, channels), np.uint8).squeeze()
    Image.fromarray(pixels).save(tmp_path / "in.png")
    sizes = {"tile": 40, "overlap": 4, "scale": scale}
    with vramx.simulate(capacity="64MiB", granule="4KiB"), enlarging(network, **sizes) as sr:
        wanted = sr(pixels)
        sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as made:
        assert np.array_equal(np.asarray(made), wanted)
