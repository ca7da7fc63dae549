"""Super resolution gives what the network alone would, for any size, type and budget."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx
from trials import trials
from vramx.pipelines.upscaling.footprint import peak_bytes
from vramx.pipelines.upscaling.reach import measure_reach
from vramx.pipelines.upscaling.sizing import Rates, Sizes
from vramx.pipelines.upscaling.tiles import Grid, cut, smallest_tile, tile_of_count

from .networks import Glare, enlarger, seeded, strided

PIL_Image = pytest.importorskip("PIL.Image")
skimage_data = pytest.importorskip("skimage.data")

#: What tiles may differ by from the whole: kernels add in other orders for other sizes.
ROUNDING = 2e-6
BLOCK = 64 * 2**10


@contextmanager
def enlarging(model: nn.Module, budget: Any = "32MiB", **options: Any) -> Iterator[Any]:
    with vramx.simulate(capacity="1GiB", granule="4KiB", latency=0.0):
        with vramx.super_resolution(
            model, budget=budget, block=BLOCK, backend="simulated", **options
        ) as sr:
            yield sr


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


def astronaut(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(skimage_data.astronaut()[80 : 80 + height, 180 : 180 + width])


def whole(model: nn.Module, picture: torch.Tensor, scale: int, multiple: int = 1) -> torch.Tensor:
    """What the network makes of the whole picture at once, extended by reflection."""
    height, width = picture.shape[-2:]
    extension = [(0, 0), (0, -height % multiple), (0, -width % multiple)]
    extended = torch.from_numpy(np.pad(picture.numpy(), extension, mode="reflect"))
    with torch.inference_mode():
        return model(extended[None])[0, :, : scale * height, : scale * width]


@pytest.mark.filterwarnings("ignore:.*which computes")
@settings(
    max_examples=trials(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    overlap=st.integers(6, 9),
    steps=st.integers(0, 6),
    batch=st.integers(1, 5),
    with_stride=st.booleans(),
)
def test_tiles_equal_the_whole_where_the_overlap_covers_what_the_network_sees(
    height: int, width: int, overlap: int, steps: int, batch: int, with_stride: bool
) -> None:
    model, multiple = (strided(4), 4) if with_stride else (enlarger(2), 1)
    overlap += 2 if with_stride else 0
    tile = smallest_tile(overlap, multiple) + steps * multiple
    generator = torch.Generator().manual_seed(height * 100 + width)
    picture = torch.rand(3, height, width, generator=generator)
    wanted = whole(model, picture, 2, multiple)
    with enlarging(model, tile=tile, overlap=overlap, batch=batch) as sr:
        assert sr.scale == 2
        got = sr(picture)
        assert got.shape == (3, 2 * height, 2 * width)
        assert (got - wanted).abs().max() <= ROUNDING
        assert sr.seam_error(picture) <= 2 * ROUNDING


@settings(max_examples=200)
@given(
    length=st.integers(1, 300),
    overlap=st.integers(0, 20),
    multiple=st.sampled_from([1, 2, 3, 8]),
    steps=st.integers(0, 12),
    scale=st.integers(1, 4),
    shifted=st.booleans(),
)
def test_tiles_cover_a_side_and_count_one_in_sum_and_nothing_near_their_inner_edges(
    length: int, overlap: int, multiple: int, steps: int, scale: int, shifted: bool
) -> None:
    tile = smallest_tile(overlap, multiple) + steps * multiple
    found = cut(length, tile, overlap, multiple, shifted=shifted)
    assert length <= found.padded < length + multiple
    assert found.size <= tile
    assert all(start % multiple == 0 for start in (*found.starts, found.size))
    total = torch.zeros(found.padded * scale)
    for place, (start, counts) in enumerate(zip(found.starts, found.weights(scale), strict=True)):
        assert (counts >= 0).all()
        if place > 0:
            assert counts[: overlap * scale].sum() == 0
        if place < len(found.starts) - 1 and overlap:
            assert counts[-overlap * scale :].sum() == 0
        total[start * scale : (start + found.size) * scale] += counts
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


@settings(max_examples=200)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    overlap=st.integers(0, 40),
    multiple=st.sampled_from([1, 2, 8]),
    pixels=st.integers(2500, 2_500_000),
)
def test_chosen_tiles_fit_and_no_even_grid_of_those_that_fit_computes_less(
    height: int, width: int, overlap: int, multiple: int, pixels: int
) -> None:
    sizes = Sizes(None, None, multiple, pixels)
    grid, batch = sizes.plan(height, width, overlap, Rates(0, 1))
    most = sizes.side(overlap) ** 2
    assert grid.area <= max(pixels, most)
    assert batch == 1 or batch * grid.area <= pixels
    for one, side in ((grid.rows, height), (grid.columns, width)):
        assert side <= one.padded < side + multiple
    for down in (1, 2, 3, 5, 8):
        for across in (1, 2, 3, 5, 8):
            tall, wide = (
                tile_of_count(side, count, overlap, multiple)
                for side, count in ((height, down), (width, across))
            )
            if tall * wide <= most and min(tall, wide) > smallest_tile(overlap, multiple) + overlap:
                other = Grid(
                    cut(height, tall, overlap, multiple), cut(width, wide, overlap, multiple)
                )
                rounding = 2 * grid.count * multiple * (grid.rows.size + grid.columns.size)
                assert grid.count * grid.area <= other.count * other.area + rounding


@settings(max_examples=100)
@given(
    size=st.tuples(st.integers(100, 2000), st.integers(100, 2000)),
    overlap=st.integers(0, 40),
    pixels=st.integers(10_000, 500_000),
)
def test_where_launches_take_the_time_fewer_tiles_are_chosen(
    size: tuple[int, int], overlap: int, pixels: int
) -> None:
    sizes = Sizes(None, 1, 1, pixels)
    by_pixels, by_tiles = (
        sizes.plan(*size, overlap, rates)[0] for rates in (Rates(0, 1), Rates(1, 0))
    )
    assert by_tiles.count <= by_pixels.count
    assert by_tiles.count * by_tiles.area >= by_pixels.count * by_pixels.area


@settings(max_examples=100)
@given(
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    overlap=st.integers(0, 96),
    pixels=st.integers(1, 100_000),
)
def test_whatever_little_fits_no_picture_is_computed_many_times(
    size: tuple[int, int], overlap: int, pixels: int
) -> None:
    grid, _ = Sizes(None, None, 1, pixels).plan(*size, overlap, Rates(0, 1))
    side = smallest_tile(overlap, 1) + overlap
    assert grid.count * grid.area <= 16 * (size[0] + side) * (size[1] + side)


@pytest.mark.parametrize("rates", [Rates(0, 1), Rates(1, 0)])
@pytest.mark.parametrize("overlap", [0, 32])
def test_a_row_of_tiles_takes_little_once_it_is_put_together(rates: Rates, overlap: int) -> None:
    sizes = Sizes(None, None, 1, 2_100_000, scale=4)
    for height, width in ((3000, 4000), (5000, 900), (900, 20_000)):
        grid, _ = sizes.plan(height, width, overlap, rates)
        assert grid.rows.size * width * 4**2 * 3 * 4 <= 2**29


def test_a_frame_that_fits_goes_through_whole_and_asked_for_tiles_are_kept() -> None:
    grid, _ = Sizes(None, None, 2, 2_100_000).plan(1080, 1920, 32, Rates(0, 1))
    assert (grid.count, grid.area) == (1, 1080 * 1920)
    grid, _ = Sizes(256, None, 2, 2_100_000).plan(1080, 1920, 32, Rates(0, 1))
    assert (grid.rows.size, grid.columns.size) == (256, 256)


def test_shifted_seams_lie_elsewhere() -> None:
    plain, shifted = (cut(400, 100, 8, 4, shifted=each) for each in (False, True))
    assert not set(plain.starts[1:-1]) & set(shifted.starts[1:-1])


def test_seams_of_a_network_that_sees_everything_are_measured() -> None:
    picture = torch.from_numpy(astronaut(120, 120)).permute(2, 0, 1).float() / 255
    model = Glare()
    with enlarging(model, tile=64, overlap=8) as sr:
        off = (sr(picture) - whole(model, picture, 1)).abs().max().item()
        assert off > 0.05
        assert sr.seam_error(picture) > off / 4
    with enlarging(model, tile=128, overlap=8) as sr:
        assert sr.seam_error(picture) == 0
        assert torch.equal(sr(picture), whole(model, picture, 1))


def test_a_network_that_may_see_the_whole_picture_is_told_where_there_are_seams() -> None:
    with enlarging(Glare(), batch=2, budget="3MiB") as sr:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sr(torch.rand(3, 100, 100))
        with pytest.warns(RuntimeWarning, match="looks farther than 96 pixels.*seam_error"):
            sr(torch.rand(3, 400, 500))
        assert sr.seam_error(torch.rand(3, 400, 500)) > 0


def test_what_is_computed_twice_is_told_with_what_would_bring_it_down() -> None:
    picture = torch.rand(3, 200, 200)
    with enlarging(Unseen(enlarger(2)), tile=64, overlap=16) as sr:
        way = sr.forecast(picture)
        assert way.share == way.grid.count * 64 * 64 / 200**2 > 1.5
        assert f"computes {way.share:.2f} times its pixels" in way.describe()
        with pytest.warns(RuntimeWarning, match="not band by band.*|times the room for") as told:
            sr(picture)
        factor = float(str(told[0].message).split("times its pixels. ")[1].split(" ")[0])
    pixels = int(factor * way.at_once * way.grid.area)
    grid, _ = Sizes(None, 1, 1, int(1.2 * pixels)).plan(200, 200, 16, Rates(0, 1))
    assert grid.count * grid.area <= 1.5 * 200**2


def test_convolutions_of_half_precision_have_their_channels_last_within_the_scope_alone() -> None:
    model = enlarger(2).half()
    strides = [each.stride() for each in model.parameters()]
    picture = torch.rand(3, 20, 20)
    for kept in (False, True):
        with vramx.simulate(capacity="1GiB", granule="4KiB", latency=0.0):
            with vramx.oversubscribe("1MiB", block=BLOCK, backend="simulated") as session:
                if kept:
                    session.manage(model)
                with vramx.super_resolution(model, session=session) as sr:
                    weights = [each.weight for each in model.modules() if hasattr(each, "weight")]
                    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
                    assert sr(picture).shape == (3, 40, 40)
                assert session.manages(model) == kept
                assert [each.stride() for each in model.parameters()] == strides
    assert [each.stride() for each in model.parameters()] == strides


def test_the_overlap_is_found_by_how_far_a_cut_is_seen() -> None:
    reaches = []
    picture = torch.rand(3, 300, 280, generator=torch.Generator().manual_seed(1))
    for model in (nn.Upsample(scale_factor=3), nn.AvgPool2d(11, 1, 5), Glare()):
        with enlarging(model, batch=2) as sr:
            made = measure_reach(model, picture, sr._ready.engine.shape, 0.5 / 255)
            reaches.append(made)
    assert reaches[0] == 0
    assert reaches[1] == 5
    assert reaches[2] > 32


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_scale_is_found(scale: int) -> None:
    with enlarging(enlarger(scale)) as sr:
        assert sr.scale == scale
        assert sr(astronaut(20, 30)).shape == (20 * scale, 30 * scale, 3)


# Budgets


def test_a_picture_goes_whole_if_and_only_if_what_it_takes_fits_beside_the_weights() -> None:
    model = Unseen(enlarger(4, features=16))
    weights = sum(p.nbytes for p in model.parameters())
    for budget in (4 * 2**20, 16 * 2**20, 64 * 2**20):
        with enlarging(model, budget, overlap=6) as sr:
            side = sr._ready.engine.sizes.side(6)
            with torch.inference_mode():
                peak, _ = peak_bytes(model, torch.rand(1, 3, side, side))
                grown, _ = peak_bytes(model, torch.rand(1, 3, 2 * side, 2 * side))
            assert peak + weights <= budget < grown + weights
            assert sr.forecast(torch.rand(3, side, side)).share == 1
            assert sr.forecast(torch.rand(3, 2 * side, 2 * side)).share > 1
            assert sr.session.stats().peak_resident <= budget


def test_what_a_network_takes_is_counted_while_it_lives() -> None:
    x = torch.zeros(1, 1, 16, 16)

    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(5):
            x = x + 1
        return x

    assert peak_bytes(chain, x)[0] == 2 * x.nbytes
    assert peak_bytes(lambda x: torch.cat([x + 1, x + 2]).sum(), x)[0] == 4 * x.nbytes
    assert peak_bytes(lambda x: x.view(-1).add_(1), x)[0] == 0


class Unseen(nn.Module):
    """A network that cannot be traced."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.shape[0] else x


class Narrow(nn.Module):
    """Takes no more pixels at once than it says, as a full card would."""

    def __init__(self, error: Callable[[str], Exception]) -> None:
        super().__init__()
        self.inner = enlarger(2)
        self.most = 10**9
        self.calls: list[int] = []
        self._error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.shape[0] * x.shape[-1] * x.shape[-2]
        self.calls.append(pixels)
        if pixels > self.most:
            raise self._error(f"{pixels} pixels do not fit")
        return self.inner(x)


@pytest.mark.parametrize("error", [vramx.OutOfMemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize("sizes", [{}, {"tile": 128, "batch": 4}])
def test_out_of_memory_halves_what_goes_at_once_and_is_remembered(
    error: Callable[[str], Exception], sizes: dict[str, Any]
) -> None:
    model = Narrow(error)
    picture = torch.rand(3, 150, 140, generator=torch.Generator().manual_seed(2))
    wanted = whole(model.inner, picture, 2)
    with enlarging(model, "256MiB", overlap=6, **sizes) as sr:
        model.most = 5000
        model.calls.clear()
        with pytest.warns(RuntimeWarning, match="did not fit .*: going on in"):
            got = sr(picture)
        assert (got - wanted).abs().max() <= ROUNDING
        refused = [pixels for pixels in model.calls if pixels > 5000]
        assert all(b <= a / 2 for a, b in zip(refused, refused[1:]))
        model.calls.clear()
        assert (sr(picture) - wanted).abs().max() <= ROUNDING
        assert 1250 <= max(model.calls) <= 5000


@pytest.mark.filterwarnings("ignore:.*did not fit")
def test_out_of_memory_comes_out_where_the_smallest_tile_does_not_fit() -> None:
    model = Narrow(vramx.OutOfMemoryError)
    with enlarging(model, overlap=6) as sr:
        model.most = 10
        with pytest.raises(vramx.OutOfMemoryError, match="pixels do not fit"):
            sr(torch.rand(3, 60, 60))
        model.most = 10**9
        assert sr(torch.rand(3, 60, 60)).shape == (3, 120, 120)


def test_weights_beyond_the_budget_stream_and_give_the_same_bits() -> None:
    model = seeded(nn.Sequential(*(nn.Conv2d(3, 3, 31, padding=15) for _ in range(12))))
    picture = torch.rand(3, 24, 24)
    wanted = whole(model, picture, 1).clamp(0, 1)
    weights = sum(p.nbytes for p in model.parameters())
    with enlarging(model, weights // 2, tile=32, overlap=0) as sr:
        assert torch.equal(sr(picture), wanted)
        stats = sr.session.stats()
        assert stats.moved_in > weights
        assert stats.peak_resident <= weights // 2


# Types


CONVERSIONS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "rgb bytes": lambda a: a,
    "grey bytes": lambda a: a[:, :, 0],
    "one channel": lambda a: a[:, :, :1],
    "grey and alpha": lambda a: np.ascontiguousarray(a[:, :, :2]),
    "rgb and alpha": lambda a: np.dstack([a, 255 - a[:, :, 0]]),
    "rgb of 16 bits": lambda a: a.astype(np.uint16) * 257,
    "rgb floats": lambda a: a.astype(np.float32) / 255,
    "rgb doubles": lambda a: a.astype(np.float64) / 255,
    "reversed rows": lambda a: a[::-1],
    "a tensor": lambda a: torch.from_numpy(a.copy()).permute(2, 0, 1),
    "a tensor of halves": lambda a: torch.from_numpy(a / 255).permute(2, 0, 1).half(),
    "a batch": lambda a: torch.from_numpy(a.copy()).permute(2, 0, 1)[None].repeat(3, 1, 1, 1),
    "PIL RGB": PIL_Image.fromarray,
    "PIL L": lambda a: PIL_Image.fromarray(a).convert("L"),
    "PIL LA": lambda a: PIL_Image.fromarray(a).convert("LA"),
    "PIL RGBA": lambda a: PIL_Image.fromarray(a).convert("RGBA"),
    "PIL I;16": lambda a: PIL_Image.fromarray(a[:, :, 0].astype(np.uint16) * 257),
}


def values(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x).astype(np.float64)


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("channels", [3, 1])
def test_what_comes_out_is_of_the_type_that_went_in(name: str, channels: int) -> None:
    given = CONVERSIONS[name](astronaut(24, 30))
    identity = nn.Upsample(scale_factor=2) if channels == 3 else OneChannel()
    with enlarging(identity, tile=16, overlap=0, batch=2) as sr:
        made = sr(given)
    assert type(made) is type(given)
    if isinstance(given, PIL_Image.Image):
        assert made.mode == given.mode
        assert made.size == (60, 48)
    else:
        assert made.dtype == given.dtype
    before, after = values(given), values(made)
    height, width = [n for n, axis in enumerate(before.shape) if axis in (24, 30)][-2:]
    repeated = before.repeat(2, axis=height).repeat(2, axis=width)
    if "alpha" in name or name in ("PIL LA", "PIL RGBA"):
        assert np.array_equal(after[..., :-1], repeated[..., :-1])
        assert after.shape == repeated.shape
        assert abs(after[..., -1].mean() - repeated[..., -1].mean()) < 1
    else:
        assert np.allclose(after, repeated, atol=1e-3 if before.max() <= 1 else 0)


class OneChannel(nn.Module):
    """Takes grey pictures alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] != 1:
            raise ValueError(f"{x.shape[1]} channels")
        return nn.functional.interpolate(x, scale_factor=2)


def test_a_pictures_orientation_is_applied_and_its_profile_and_exif_are_kept() -> None:
    source = PIL_Image.fromarray(astronaut(20, 40))
    exif = source.getexif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turned by a quarter; the maker
    file = io.BytesIO()
    source.save(file, "PNG", exif=exif, icc_profile=b"a profile")
    with enlarging(nn.Upsample(scale_factor=2)) as sr:
        made = sr(PIL_Image.open(file))
    assert made.size == (40, 80)
    assert made.info["icc_profile"] == b"a profile"
    assert dict(made.getexif()) == {0x010F: "a camera"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PIL_Image.new("CMYK", (8, 8)), "mode CMYK"),
        (PIL_Image.new("I", (8, 8)), "mode I "),
        (np.zeros((8, 8, 5), np.uint8), "5 channels"),
        (np.zeros((8, 8), np.int32), "dtype int32"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"give \(height, width"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.full((8, 8, 3), 200.0), "from 200 to 200"),
        (np.full((8, 8, 3), np.nan), "from nan to nan"),
        (torch.zeros(8, 8), r"give \(channels, height, width\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "dtype torch.int64"),
        ("picture.png", "str is not a picture"),
        (None, "NoneType is not a picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(given: Any, message: str) -> None:
    with enlarging(nn.Upsample(scale_factor=2), tile=16, overlap=0, batch=1) as sr:
        with pytest.raises(vramx.ConfigError, match=message):
            sr(given)


# Frames


def test_frames_come_out_lazily_in_order_and_several_go_at_once() -> None:
    calls: list[int] = []
    read: list[int] = []
    model = enlarger(2)
    model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))

    def frames() -> Iterator[np.ndarray[Any, Any]]:
        for number in range(7):
            read.append(number)
            yield np.full((20, 24 if number < 5 else 16, 3), number * 30, np.uint8)

    with enlarging(model, batch=3, overlap=6, tile=64) as sr:
        one_by_one = [sr(frame) for frame in frames()]
        calls.clear()
        read.clear()
        stream = sr(frames())
        assert not read
        next(stream)
        assert len(read) == 6  # two groups: one is computed while another is restored
        rest = [*stream]
    assert calls == [3, 2, 2]
    for got, wanted in zip(rest, one_by_one[1:], strict=True):
        assert got.shape == wanted.shape
        assert np.abs(got.astype(int) - wanted).max() <= 1


def test_what_was_made_before_a_failure_comes_before_it() -> None:
    def frames() -> Iterator[np.ndarray[Any, Any]]:
        for number in range(4):
            yield np.full((20, 24, 3), number * 30, np.uint8)
        raise OSError("no more")

    made = []
    with enlarging(enlarger(2), batch=1, overlap=6, tile=64) as sr:
        stream = sr(frames())
        with pytest.raises(OSError, match="no more"):
            for each in stream:
                made.append(each.shape)
    assert made == 4 * [(40, 48, 3)]


# The scope


def test_the_model_is_as_it_was_after_the_scope() -> None:
    model = enlarger(2).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with enlarging(model) as sr:
        assert not model.training
        sr(astronaut(16, 16))
        session = sr.session
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(vramx.SessionClosedError, match="inside its scope"):
        sr(astronaut(16, 16))
    with pytest.raises(vramx.SessionClosedError):
        session.prefetch(model)


def test_weights_of_half_precision_get_pictures_of_half_precision() -> None:
    model = enlarger(2).half()
    with enlarging(model) as sr:
        assert sr(astronaut(16, 16)).dtype == np.uint8


def test_the_report_names_the_tiles() -> None:
    with enlarging(enlarger(2), tile=64, overlap=8) as sr:
        assert "2 times as large, in tiles of 64 pixels with 8 of context" in sr.report()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (print, {}, "torch.nn.Module"),
        (nn.Identity(), {"scale": 0}, "scale 0"),
        (nn.Identity(), {"tile": "large"}, "tile 'large'"),
        (nn.Identity(), {"batch": -1}, "batch -1"),
        (nn.Identity(), {"overlap": 1.5}, "overlap 1.5"),
        (nn.Identity(), {"tile": 8, "overlap": 8}, "tile 8 is not a multiple of 1 from 22"),
        (strided(4), {"tile": 66}, "tile 66 is not a multiple of 4"),
        (strided(4), {"multiple": 2}, "strides of 2, and last, .*it made"),
        (nn.Identity(), {"scale": 2, "height": 9}, "leave out height= and width="),
        (nn.Identity(), {"width": 1.5}, "width 1.5"),
        (nn.AvgPool2d(2), {}, "enlarged by a whole number"),
        (nn.Flatten(), {}, "it made"),
        (nn.Linear(3, 3), {}, "RuntimeError"),
        (nn.Conv2d(4, 4, 1), {}, "3 or 1 channels"),
        (nn.Identity(), {"budget": "no size"}, "no size"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_nothing_stays_managed(
    model: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        with enlarging(model, **options):
            pass
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()
