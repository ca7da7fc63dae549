"""Networks of windows that pad by themselves: tiles begin where windows do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

import vramx
from vramx.pipelines.upscaling.footprint import Shape
from vramx.pipelines.upscaling.stride import find_stride
from vramx.pipelines.upscaling.tiles import cut

from .networks import Glare, enlarger, seeded

STEP = 1 / 255


class Windows(nn.Module):
    """Mixes the pixels of each window, pads as it needs, and doubles the size."""

    def __init__(self, side: int, mode: str = "reflect") -> None:
        super().__init__()
        self.side, self.mode = side, mode
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        self.within = nn.Parameter(torch.empty(side * side, side * side))
        seeded(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        side = self.side
        x = functional.pad(x, (0, -width % side, 0, -height % side), mode=self.mode)
        windows = functional.unfold(x, side, stride=side).unflatten(1, (3, -1))
        mixed = torch.einsum("ncpw,qp->ncqw", windows, self.within.softmax(1)) + windows
        x = functional.fold(mixed.flatten(1, 2), x.shape[-2:], side, stride=side)
        x = functional.interpolate(torch.sigmoid(self.mix(x)), scale_factor=2)
        return x[..., : 2 * height, : 2 * width]


class Attentive(Windows):
    """Weighs its channels by their means over the whole picture, as HAT and NAFNet do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = super().forward(x)
        return made * torch.sigmoid(made.mean((-2, -1), keepdim=True))


def stride_of(network: nn.Module, scale: int, multiple: int = 1) -> int:
    with torch.inference_mode():
        return find_stride(network, lambda x: x, Shape(3, scale, multiple))


@pytest.mark.parametrize("kind", [Windows, Attentive])
@pytest.mark.parametrize("side", [1, 7, 8, 12, 24])
def test_the_side_of_windows_is_found(kind: Callable[[int], nn.Module], side: int) -> None:
    assert stride_of(kind(side), 2) == side


def test_what_has_no_windows_may_begin_anywhere() -> None:
    assert stride_of(enlarger(2), 2) == 1
    assert stride_of(Glare(), 1) == 1
    assert stride_of(enlarger(2), 2, multiple=5) == 5


def test_a_known_multiple_is_the_least(one_thread: None) -> None:  # noqa: ARG001
    assert stride_of(Windows(8), 2, multiple=2) == 8
    assert stride_of(Windows(3), 2, multiple=2) == 6


@pytest.fixture
def card() -> Iterator[None]:
    with vramx.simulate(capacity="1GiB", granule="4KiB", latency=0.0):
        yield


@pytest.mark.filterwarnings("ignore:.*which computes")
@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize(("height", "width"), [(75, 101), (96, 64), (50, 97), (49, 48)])
def test_tiles_of_a_network_of_windows_equal_the_whole(
    card: None,  # noqa: ARG001
    mode: str,
    height: int,
    width: int,
) -> None:
    network = Windows(8, mode)
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
    with torch.inference_mode():
        wanted = network(picture[None])[0]
    with vramx.super_resolution(
        network, budget="8MiB", block="64KiB", backend="simulated", tile=48
    ) as sr:
        way = sr.forecast(picture)
        made = sr(picture)
        assert way.grid.count > 1
        off = (made - wanted).abs().max().item()
        assert off < STEP
        assert sr.seam_error(picture) == pytest.approx(off, abs=1e-6)


def test_a_tile_that_is_no_multiple_of_what_was_measured_is_refused(card: None) -> None:  # noqa: ARG001
    with pytest.raises(vramx.ConfigError, match="tile 60 is not a multiple of 8"):
        with vramx.super_resolution(
            Windows(8), budget="8MiB", block="64KiB", backend="simulated", tile=60
        ):
            pass
    with vramx.super_resolution(
        Windows(8), budget="8MiB", block="64KiB", backend="simulated", tile=60, multiple=4
    ) as sr:
        assert sr(torch.rand(3, 20, 20)).shape == (3, 40, 40)


@pytest.mark.filterwarnings("ignore:.*which computes")
def test_the_seam_error_is_that_against_the_whole_where_it_fits(card: None) -> None:  # noqa: ARG001
    picture = torch.rand(3, 90, 90, generator=torch.Generator().manual_seed(1))
    with vramx.super_resolution(
        Glare(), budget="32MiB", block="64KiB", backend="simulated", tile=64, overlap=8
    ) as sr:
        off = (sr(picture) - Glare()(picture[None])[0]).abs().max().item()
        assert sr.seam_error(picture) == pytest.approx(off, rel=1e-5)
        assert off > 0


@pytest.mark.parametrize("length", [97, 100, 110, 150, 400])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_of_shifted_seams_some_always_lie_elsewhere(length: int, stride: int) -> None:
    plain, shifted = (cut(length, 96, 8, 1, stride=stride, shifted=each) for each in (False, True))
    assert (plain.starts, plain.size) != (shifted.starts, shifted.size)
    for each in (plain, shifted):
        assert all(start % stride == 0 for start in each.starts)
        assert each.padded >= length
