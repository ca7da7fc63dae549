"""Checkpoints through spandrel's interface, over a stand-in for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vramx

torch = pytest.importorskip("torch")

from pipelines import networks, stand_ins  # noqa: E402
from pipelines.stand_ins import ImageModelDescriptor, ModelTiling, SizeRequirements  # noqa: E402
from vramx.integrations import spandrel as door  # noqa: E402

OpenSession = Callable[..., vramx.Session]


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, where `import spandrel` finds it."""

    def build(state: dict[str, Any]) -> ImageModelDescriptor:
        network = networks.enlarger(scale=2)
        network.load_state_dict(state)
        return ImageModelDescriptor(network)

    module = stand_ins.make_module(build)
    monkeypatch.setitem(sys.modules, "spandrel", module)
    return module


def picture(height: int = 70, width: int = 90) -> Any:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def test_a_checkpoint_becomes_a_descriptor_that_enlarges_as_its_network_does(
    open_session: OpenSession,
    spandrel: Any,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    network = networks.enlarger(scale=2)
    torch.save(network.state_dict(), path := tmp_path / "x2.pth")
    found = door.load(path)
    with (
        vramx.super_resolution(network, session=open_session(), tile=32, batch=1) as plain,
        vramx.super_resolution(found, session=open_session(), tile=32) as described,
    ):
        assert described.scale == 2
        assert torch.equal(described(picture()), plain(picture()).clamp(0, 1))


def test_tiles_keep_to_the_multiple_that_a_descriptor_tells(open_session: OpenSession) -> None:
    network = networks.strided(4)
    found = ImageModelDescriptor(
        network, size_requirements=SizeRequirements(multiple_of=4, minimum=16)
    )
    whole = picture(72, 108)
    with vramx.super_resolution(found, session=open_session(), tile=64, overlap=14) as sr:
        assert tuple(sr(picture(70, 90)).shape) == (3, 140, 180)
        found.seen.clear()
        made = sr(whole)
    assert len(found.seen) > 1
    assert torch.allclose(made, network(whole[None])[0].clamp(0, 1), atol=1e-5)


def test_pictures_below_the_minimum_are_enlarged_to_their_own_size(
    open_session: OpenSession,
) -> None:
    found = ImageModelDescriptor(
        networks.enlarger(), size_requirements=SizeRequirements(minimum=64)
    )
    with vramx.super_resolution(found, session=open_session()) as sr:
        assert tuple(sr(picture(5, 7)).shape) == (3, 10, 14)


@pytest.mark.parametrize("tiling", [ModelTiling.DISCOURAGED, ModelTiling.INTERNAL])
def test_where_tiles_are_not_wanted_a_picture_goes_through_whole(
    open_session: OpenSession, tiling: ModelTiling
) -> None:
    found = ImageModelDescriptor(networks.Glare(), scale=1, tiling=tiling)
    big = picture(1100, 1030)
    with vramx.super_resolution(found, session=open_session()) as sr:
        found.seen.clear()
        assert torch.equal(sr(big), networks.Glare()(big[None])[0])
        assert found.seen == [(1100, 1030)]
        assert "whole" in sr.report()


def test_a_given_tile_is_kept_to_where_tiles_are_not_wanted(open_session: OpenSession) -> None:
    found = ImageModelDescriptor(networks.Glare(), scale=1, tiling=ModelTiling.DISCOURAGED)
    with vramx.super_resolution(found, session=open_session(), tile=32, overlap=4) as sr:
        found.seen.clear()
        sr(picture())
        assert set(found.seen) == {(32, 32)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"purpose": "FaceSR"}, "FaceSR takes aligned faces"),
        ({"purpose": "Inpainting"}, "Inpainting takes masks"),
        ({"channels": (4, 3)}, "takes 4 channels and gives 3"),
    ],
)
def test_what_is_not_for_pictures_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(vramx.ConfigError, match=said):
        vramx.super_resolution(ImageModelDescriptor(networks.enlarger(), **change))


def test_what_is_neither_module_nor_descriptor_is_refused() -> None:
    for wrong in (object(), ImageModelDescriptor, "x2.pth"):
        with pytest.raises(vramx.ConfigError, match=r"torch\.nn\.Module, a descriptor"):
            vramx.super_resolution(wrong)


def test_without_spandrel_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    torch.save({"a": torch.ones(1)}, path := tmp_path / "a.pth")
    with pytest.raises(vramx.ConfigError, match=r"vramx\[upscalers\]"):
        door.load(path)


@pytest.mark.parametrize(
    ("torch_is", "torchvision_is", "said"),
    [
        ("2.13.0", "0.29.1", "torchvision 0.29.1 does not belong to torch 2.13.0: .*==0.28"),
        ("2.13.0+cpu", "0.28.0+cu130", r"'torchvision==0\.28\.\*' --index-url .*/whl/cpu"),
        ("2.13.0+cpu", "0.28.0", r"'torchvision==0\.28\.\*' --index-url .*/whl/cpu"),
        ("2.14.1", "0.29.1", r"vramx\[upscalers\]"),
        ("2.13.0+cpu", "0.28.0+cpu", r"vramx\[upscalers\]"),
        ("2.13.0+cu130", "0.28.0", r"vramx\[upscalers\]"),
    ],
)
def test_a_torchvision_of_another_torch_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    torch_is: str,
    torchvision_is: str,
    said: str,
) -> None:
    class Failing:
        """Fails as torchvision's operations do where torch has no place for them."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == "spandrel":
                raise RuntimeError("operator torchvision::nms does not exist")

    installed = {"torch": torch_is, "torchvision": torchvision_is}
    monkeypatch.setattr("importlib.metadata.version", installed.__getitem__)
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    torch.save({"a": torch.ones(1)}, path := tmp_path / "a.pth")
    with pytest.raises(vramx.ConfigError, match=said):
        door.load(path)


def test_a_file_that_spandrel_does_not_read_is_named(
    spandrel: Any,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    torch.save({"a": torch.ones(1)}, other := tmp_path / "other.pth")
    (damaged := tmp_path / "damaged.pth").write_bytes(b"no weights")
    for path, said in (
        (other, "no architecture fits"),
        (damaged, r"damaged\.pth"),
        (tmp_path / "x.pth", "there is no file"),
    ):
        with pytest.raises(vramx.ConfigError, match=said):
            door.load(path)
