"""Bands: each row of each layer once, the same values as at once, in the memory that was told."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import vramx
from vramx.pipelines.upscaling import bands
from vramx.pipelines.upscaling.fitting import fitting_bands
from vramx.pipelines.upscaling.footprint import peak_bytes
from vramx.pipelines.upscaling.layers import NotByRowsError
from vramx.pipelines.upscaling.schedule import load, order
from vramx.pipelines.upscaling.tracing import trace

from .networks import Dense, Glare, enlarger, seeded

ROUNDING = 2e-6


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> Iterator[None]:  # noqa: ARG001
    """Small tensors are no faster on more threads."""
    with torch.no_grad():
        yield


class Upscaler(nn.Module):
    """Like ESRGAN's: residual dense blocks, a long skip and two doublings."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Sequential(Dense(6), Dense(6), Dense(6))
        self.up = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.body(x)
        for _ in range(2):
            doubled = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = functional.leaky_relu(self.up(doubled), 0.2, inplace=True)
        return self.last(x)


class Compact(nn.Module):
    """Like SRVGG's: convolutions, a pixel shuffle, and the picture itself, enlarged, added."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.PReLU(5), nn.Conv2d(5, 27, 5, padding=2)
        )
        self.shuffle = nn.PixelShuffle(3)
        self.mode = mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.shuffle(self.body(x))
        made += functional.interpolate(x, scale_factor=3, mode=self.mode)
        return made


class Folding(nn.Module):
    """Works on pictures folded to half their size, pads by itself, and asks for sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(12, 8, 3, padding=2, dilation=2)
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.bend = nn.ReLU(inplace=True)
        self.gain = nn.Parameter(torch.full((1, 4, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, height, width = x.size()
        x = functional.pad(x, (0, -width % 2, 0, -height % 2), "reflect")
        made = self.a(functional.pixel_unshuffle(x, 2))
        one, other = made.chunk(2, dim=1)
        bent = self.b(one) * self.gain
        kept = bent + 0
        self.bend(bent)
        made = torch.cat((bent, kept, other), dim=1)
        return functional.pixel_shuffle(made, 2)[:, :, :height, :width]


class Strided(nn.Module):
    """Halves the size by a convolution and doubles it again, with a skip past both."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.last = nn.Conv2d(7, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.up(torch.tanh(self.down(x))), x], 1))


class InPlace(nn.Module):
    """Changes values that a convolution read before, whose rows come later than the change."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.a(x)
        before = self.b(made)
        return before + functional.relu(made, inplace=True) + made


def shrinking(factor: float, mode: str) -> list[nn.Module]:
    """Enlarges four times, and shrinks that, as networks that were trained for four times do."""
    return [
        nn.Conv2d(3, 48, 3, padding=1),
        nn.PixelShuffle(4),
        nn.Upsample(scale_factor=factor, mode=mode),
        nn.Conv2d(3, 3, 3, padding=1),
    ]


NETWORKS: dict[str, tuple[Any, int]] = {
    "esrgan": (Upscaler, 1),
    "pixel shuffle": (lambda: enlarger(2), 1),
    "nearest base": (lambda: Compact("nearest"), 1),
    "bilinear base": (lambda: Compact("bilinear"), 1),
    "bicubic base": (lambda: Compact("bicubic"), 1),
    "folding": (Folding, 2),
    "strided": (Strided, 2),
    "in place": (InPlace, 1),
    "three quarters": (lambda: nn.Sequential(*shrinking(0.75, "bicubic")), 1),
    "a half": (lambda: nn.Sequential(*shrinking(0.5, "bilinear")), 1),
    "tanh": (lambda: nn.Sequential(nn.Conv2d(3, 32, 1), nn.Tanh(), nn.Conv2d(32, 3, 1)), 1),
    "upsampling alone": (lambda: nn.Upsample(scale_factor=3), 1),
}
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 12), st.integers(1, 2))
HEIGHTS = st.lists(st.integers(1, 30), min_size=4, max_size=4)


class Computed(TorchDispatchMode):
    """Counts the values that convolutions give."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.convolution:
            self.values += made.numel()
        return made


def by_bands(network: nn.Module, picture: torch.Tensor, heights: list[int]) -> torch.Tensor:
    graph = trace(network, *picture.shape[1:])
    least = max(getattr(layer.rows, "factor", 1) for layer in graph.layers)
    chosen = [max(least, each) for each in heights[: graph.stages]]
    found: list[torch.Tensor] = []
    reached = 0

    def emit(low: int, rows: torch.Tensor) -> None:
        nonlocal reached
        assert low == reached  # from the top, without gaps
        reached += rows.shape[2]
        found.append(rows.clone())

    bands.run(graph, order(graph, chosen), picture, emit)
    return torch.cat(found, dim=2)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=SIZES, heights=HEIGHTS)
def test_bands_of_any_height_give_what_the_network_gives_and_compute_each_value_once(
    name: str, size: tuple[int, int, int], heights: list[int]
) -> None:
    make, multiple = NETWORKS[name]
    network = seeded(make())
    height, width, count = size
    picture = torch.rand(count, 3, multiple * height, multiple * width)
    before = picture.clone()
    with Computed() as whole:
        wanted = network(picture.clone())
    with Computed() as once:
        made = by_bands(network, picture, heights)
    assert made.shape == wanted.shape
    # Where sizes change by fractions, places in the whole are rounded too.
    assert (made - wanted).abs().max() <= (1e-5 if "quarters" in name else ROUNDING)
    assert once.values == whole.values
    assert torch.equal(picture, before)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["esrgan", "nearest base", "folding", "strided", "tanh"]),
    height=st.integers(4, 60),
    heights=HEIGHTS,
)
def test_what_bands_take_is_what_was_told(name: str, height: int, heights: list[int]) -> None:
    make, multiple = NETWORKS[name]
    network = seeded(make())
    picture = torch.rand(1, 3, multiple * height, 16)
    graph = trace(network, *picture.shape[1:])
    least = max(getattr(layer.rows, "factor", 1) for layer in graph.layers)
    chosen = [max(least, each) for each in heights[: graph.stages]]
    steps = order(graph, chosen)

    def run(x: torch.Tensor) -> torch.Tensor:
        bands.run(graph, steps, x, lambda low, rows: None)  # noqa: ARG005
        return x

    taken, _ = peak_bytes(run, picture)
    most = 4 * load(graph, chosen).elements
    assert 0.5 * most <= taken <= 1.1 * most


@pytest.mark.parametrize("name", NETWORKS)
def test_low_bands_take_a_part_of_what_the_whole_takes_at_once(name: str) -> None:
    make, multiple = NETWORKS[name]
    graph = trace(seeded(make()), 3, 150 * multiple, 40 * multiple)
    least = max(getattr(layer.rows, "factor", 1) for layer in graph.layers)
    low = load(graph, [2 * least] * graph.stages).elements
    assert low <= 0.25 * load(graph, [10**6] * graph.stages).elements


def test_less_memory_gives_lower_bands_and_no_band_takes_more_than_there_is() -> None:
    graph = trace(seeded(Upscaler()), 3, 200, 40)
    whole = load(graph, [200, 400, 800]).elements
    counts = []
    for part in (1.0, 0.7, 0.5, 0.3, 0.2, 0.1):
        chosen = fitting_bands(graph, int(part * whole))
        if chosen is not None:
            assert load(graph, chosen).elements <= part * whole
            counts.append(load(graph, chosen).steps)
    assert len(counts) > 3
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    assert fitting_bands(graph, 10) is None


def asks(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Glare(), "mean"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=8)), "AdaptiveAvgPool2d"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "is pad"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), "pads by reflect"),
        (nn.Sequential(nn.ConvTranspose2d(3, 3, 2, 2)), "ConvTranspose2d"),
        (nn.Sequential(nn.InstanceNorm2d(3)), "InstanceNorm2d"),
        (nn.Sequential(nn.Upsample(scale_factor=1.3)), "8x8 to 1.3 of that"),
        (nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)), "rows"),
        (nn.Sequential(nn.Flatten()), "Flatten"),
    ],
)
def test_what_does_not_go_by_rows_is_told(network: nn.Module, message: str) -> None:
    with pytest.raises(NotByRowsError, match=message):
        trace(network.eval(), 3, 8, 8)


def test_hooks_and_what_looks_at_values_do_not_go_by_rows() -> None:
    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return asks(x)

    with pytest.raises(NotByRowsError, match=re.escape("torch.fx cannot trace it")):
        trace(Asks(), 3, 8, 8)
    hooked = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(NotByRowsError, match="hooks"):
        trace(hooked, 3, 8, 8)


class Turns(nn.Module):
    """Does something else each time, which tracing cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.turn = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.turn += 1
        return self.conv(x) * (self.turn % 7)


def test_a_network_whose_layers_give_something_else_than_it_does_not_go_by_bands() -> None:
    with vramx.simulate(capacity="1GiB", granule="4KiB", latency=0.0):
        with vramx.super_resolution(
            seeded(Turns()), multiple=1, budget="512KiB", block="4KiB", backend="simulated"
        ) as sr:
            assert sr.forecast(torch.rand(3, 600, 600)).figures()["way"] == "tiles"


@settings(max_examples=10)
@given(height=st.integers(150, 170), width=st.integers(20, 40), colours=st.sampled_from([1, 3]))
def test_sides_that_are_no_multiples_and_grey_pictures_go_by_bands_too(
    height: int, width: int, colours: int
) -> None:
    network = seeded(Folding())
    picture = torch.rand(colours, height, width)
    extension = (0, -width % 2, 0, -height % 2)
    extended = functional.pad(picture.expand(3, -1, -1)[None], extension, mode="reflect")
    wanted = network(extended)[0, :, :height, :width]
    if colours == 1:
        wanted = wanted.mean(0, keepdim=True)
    budget = 48 * 2**10 + 20 * height * width  # the picture itself lies there, too
    with vramx.simulate(capacity="1GiB", granule="4KiB", latency=0.0):
        with vramx.super_resolution(
            network, multiple=2, budget=budget, block="4KiB", backend="simulated"
        ) as sr:
            assert "in bands of" in sr.forecast(picture).describe()
            made = sr(picture)
    assert made.shape == wanted.shape
    assert (made - wanted.clamp(0, 1)).abs().max() <= ROUNDING


def test_a_picture_beyond_the_budget_goes_band_by_band_while_weights_stream() -> None:
    network = seeded(Upscaler())
    weights = sum(each.nbytes for each in network.parameters())
    picture = torch.rand(3, 300, 60)
    wanted = network(picture[None])[0].clamp(0, 1)
    taken, _ = peak_bytes(network, picture[None])
    budget = taken // 3
    with vramx.simulate(capacity="1GiB", granule="4KiB", latency=0.0):
        with vramx.super_resolution(
            network, budget=budget, block="4KiB", backend="simulated"
        ) as sr:
            way = sr.forecast(picture)
            assert "in bands of" in way.describe()
            assert way.share == 1
            made = sr(picture)
            assert sr.session.stats().peak_resident <= budget
            assert sr.seam_error(picture) <= ROUNDING
    assert (made - wanted).abs().max() <= ROUNDING
    assert weights < budget
    small = [each.numel() for each in network.parameters()]
    with vramx.simulate(capacity="1GiB", granule="4KiB", latency=0.0):
        with vramx.oversubscribe("8KiB", block="4KiB", backend="simulated") as session:
            session.manage(network)
            with torch.inference_mode():
                made = by_bands(network, picture[None], [32, 32, 32])[0].clamp(0, 1)
            assert session.stats().moved_in > 4 * sum(small)
            assert session.stats().unleased_accesses == 0
    assert (made - wanted).abs().max() <= ROUNDING


class Meeting(nn.Module):
    """Waits in its call, for a moment, until another network is called too."""

    def __init__(self, comes: threading.Event, awaited: threading.Event) -> None:
        super().__init__()
        self.inside = nn.Conv2d(3, 3, 3, padding=1)
        self.comes, self.awaited = comes, awaited

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.comes.set()
        self.awaited.wait(0.2)
        return self.inside(x)


def test_traces_of_two_threads_leave_modules_as_they_were() -> None:
    before = nn.Module.__call__, nn.Module.__getattr__
    first, second, over = (threading.Event() for _ in range(3))

    def trace_first() -> None:
        trace(Meeting(first, second), 3, 8, 8)
        over.set()

    threads = [
        threading.Thread(target=trace_first),
        threading.Thread(target=trace, args=(Meeting(second, over), 3, 8, 8)),
    ]
    threads[0].start()
    assert first.wait(60)
    threads[1].start()
    for each in threads:
        each.join(60)
    assert (nn.Module.__call__, nn.Module.__getattr__) == before
