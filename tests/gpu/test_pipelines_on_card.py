"""Pipelines on a real card: the same bits, sizes that fit, and the budget held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vramx

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from vramx.pipelines.images import ON_CPU, Home, to_planes  # noqa: E402

MIB = 2**20


def enlarger(layers: int = 8, features: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(features, features, 3, padding=1) for _ in range(layers)]
    ends = [nn.Conv2d(3, features, 3, padding=1)], [nn.Conv2d(features, 12, 3, padding=1)]
    return nn.Sequential(*ends[0], *body, *ends[1], nn.PixelShuffle(2), nn.Sigmoid()).eval()


@pytest.mark.parametrize("backend", ["managed", "mapped"])
def test_stages_give_the_same_bits_in_less_than_their_weights(backend: str) -> None:
    torch.manual_seed(0)
    stages = {
        name: nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(6))).eval()
        for name in ("first", "second", "third")
    }
    frames = [torch.randn(8, 1024) for _ in range(5)]
    with torch.inference_mode():
        wanted = [nn.Sequential(*stages.values()).cuda()(x.cuda()).cpu() for x in frames]
    for stage in stages.values():
        stage.cpu()
    with vramx.pipeline(stages, budget="24MiB", block="2MiB", backend=backend) as chain:
        got = [y.cpu() for y in chain.run(x.cuda() for x in frames)]
        stats = chain.session.stats()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert stats.peak_resident <= 24 * MIB
    assert stats.moved_in > 72 * MIB


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64", "tensor", "PIL"])
def test_pictures_survive_the_way_to_the_card_and_back(kind: str) -> None:
    random = np.random.default_rng(0)
    whole = random.integers(0, 65536 if kind == "uint16" else 256, (40, 50, 4))
    picture: Any = whole / 255
    if kind in ("uint8", "uint16", "tensor", "PIL"):
        picture = whole.astype("uint16" if kind == "uint16" else "uint8")
    elif kind == "float32":
        picture = picture.astype("float32")
    if kind == "tensor":
        picture = torch.from_numpy(picture).permute(2, 0, 1)
    if kind == "PIL":
        picture = pytest.importorskip("PIL.Image").fromarray(picture)
    planes = to_planes(picture, Home(torch.device("cuda"), 4 * 40 * 50))
    assert planes.colour.is_cuda
    assert planes.alpha is not None
    back = planes.restore(torch.cat([planes.colour, planes.alpha], 1))
    assert type(back) is type(picture)
    exact = kind != "float64"  # which passes as float32
    assert np.allclose(np.asarray(back), np.asarray(picture), rtol=0, atol=0 if exact else 1e-7)
    assert not to_planes(picture, Home(torch.device("cuda"), 40 * 50 - 1)).colour.is_cuda


@pytest.mark.parametrize("backend", ["managed", "mapped"])
def test_tiles_that_the_budget_gives_equal_the_whole_picture(backend: str) -> None:
    picture = torch.rand(3, 700, 900, generator=torch.Generator().manual_seed(1))
    model = enlarger()
    with torch.inference_mode():
        wanted = model.cuda()(picture[None].cuda())[0].cpu()
    model.cpu()
    with vramx.super_resolution(
        model, budget="256MiB", block="2MiB", backend=backend, overlap=12
    ) as sr:
        way = sr.forecast(picture)
        assert way.describe().startswith("in ")
        assert 64**2 <= way.grid.area < 700 * 900
        # Kernels for other sizes may multiply in TF32 and add in other orders.
        assert (sr(picture) - wanted).abs().max() < 2e-3
        assert sr.seam_error(picture) < 2e-3
        stats = sr.session.stats()
    assert stats.peak_resident <= 256 * MIB  # torch keeps memory of each size, which may leave


@pytest.mark.parametrize("backend", ["managed", "mapped"])
@pytest.mark.parametrize(
    ("dtype", "budget", "off"),
    [("float32", "96MiB", 2e-3), ("float16", "160MiB", 4e-3), ("float16", "48MiB", 4e-3)],
)
def test_bands_that_the_budget_gives_equal_the_whole_picture(
    backend: str, dtype: str, budget: str, off: float
) -> None:
    random = np.random.default_rng(3)
    picture = random.integers(0, 256, (700, 900, 3)).astype("uint8")
    model = enlarger().to(getattr(torch, dtype))
    strides = [each.stride() for each in model.parameters()]
    with torch.inference_mode():
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].cuda() / 255
        wanted = model.cuda()(x.to(getattr(torch, dtype)))[0].float().cpu()
    model.cpu()
    with vramx.super_resolution(model, budget=budget, block="2MiB", backend=backend) as sr:
        assert "in bands of" in sr.forecast(picture).describe()
        for _ in range(3):
            made = torch.from_numpy(sr(picture)).permute(2, 0, 1) / 255
            assert (made - wanted).abs().max() <= off + 0.5 / 255
        stats = sr.session.stats()
    assert stats.peak_resident <= stats.budget
    assert stats.moved_out == 0
    assert stats.over_link == 0
    assert [each.stride() for each in model.parameters()] == strides


def test_pictures_put_together_on_the_card_and_on_the_host_are_the_same_bits() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype("uint8")
    with vramx.super_resolution(enlarger(), budget="1GiB", tile=128, overlap=12) as sr:
        on_card = sr(picture)
        assert sr._pictures.home.of(300 * 400).type == "cuda"
        sr._pictures.home = ON_CPU
        assert np.array_equal(sr(picture), on_card)


class Seen(nn.Module):
    """A face in the middle of every picture."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        row = [200.0, 150, 440, 390, 0.9, 280, 250, 360, 250, 320, 300, 290, 345, 350, 345]
        return pictures.new_tensor(row).expand(len(pictures), 1, 15)


class Changed(nn.Module):
    """Convolutions over crops, whatever else is given."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = enlarger(72, 96)[:-2]  # 24 MB of weights
        torch.manual_seed(seed)
        self.last = nn.Conv2d(12, 3, 1)

    def forward(self, crops: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.last(self.net(crops)).sigmoid()


class Told(Changed):
    """An embedding of three numbers."""

    def forward(self, crops: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return super().forward(crops).mean((-2, -1))


@pytest.mark.parametrize("backend", ["managed", "mapped"])
def test_faces_are_swapped_with_the_same_bits_in_less_than_the_weights(backend: str) -> None:
    pytest.importorskip("skimage")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    models = [Seen(), Told(1), Changed(2), vramx.FaceModel(Changed(3), size=128, template=512)]
    pictures = torch.rand(6, 3, 480, 640, generator=torch.Generator().manual_seed(1))
    results = []
    for budget in ("1GiB", "64MiB" if backend == "managed" else "32MiB"):
        with vramx.face_swap(*models, budget=budget, block="2MiB", backend=backend) as fs:
            results.append([fs(pictures[0], each) for each in pictures])
            stats = fs.session.stats()
    assert stats.peak_resident <= stats.budget
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(results[0][0], pictures[0])
