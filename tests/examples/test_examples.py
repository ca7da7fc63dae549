"""The examples run, and what the demo claims is true."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
for package in ("rich", "skimage", "tqdm"):
    pytest.importorskip(package)
import vramx  # noqa: E402
from forkserver import run_script  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
restorer = importlib.import_module("restorer")
super_resolution = importlib.import_module("vramx.demo.super_resolution")

pytestmark = pytest.mark.usefixtures("one_thread", "model_cache")
MIB = 2**20


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that is small enough to be enlarged again and again."""
    from skimage import data

    path = tmp_path_factory.mktemp("portrait") / "portrait.png"
    Image.fromarray(data.astronaut()).crop((176, 72, 242, 138)).save(path)
    return path


@pytest.fixture(scope="module")
def demo(
    portrait: Path, cache_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """What the demo writes and says on the simulated card."""
    folder = tmp_path_factory.mktemp("demo")
    output, figures = folder / "made" / "out.png", folder / "out.json"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        patch.setattr(super_resolution, "say", said.append)
        arguments = [portrait, "--simulated", "--output", output, "--json", figures]
        assert super_resolution.main([str(each) for each in arguments]) == 0
    return SimpleNamespace(
        picture=Image.open(output), said=said, **json.loads(figures.read_text(encoding="utf-8"))
    )


def test_the_residency_example_reports_and_saves_what_it_shows(tmp_path: Path) -> None:
    picture, trace = tmp_path / "out.png", tmp_path / "out.json"
    said = run_script(EXAMPLES / "residency.py", "--picture", picture, "--trace", trace)
    assert "\nplan from " in said
    assert said.count("\nnet.") == 20
    assert "\nand 4 more " in said
    assert Image.open(picture).width > 0
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {f"net.{place}" for place in range(24)} <= names


def test_several_models_keep_to_their_shares_and_give_the_same_bits() -> None:
    said = run_script(EXAMPLES / "several_models.py", "--tile", "8", "--count", "2")
    rows = [line.split() for line in said.splitlines()[1:]]
    assert [(row[0], row[-1]) for row in rows] == [
        ("enlarge", "yes"), ("restore", "yes"), ("describe", "yes")
    ]  # fmt: skip
    shares = {row[0]: (float(row[1]), float(row[3])) for row in rows}
    assert (shares["enlarge"][0], shares["restore"][0], shares["describe"][0]) == (40, 64, 24)
    assert all(peak <= share for share, peak in shares.values())


def test_quickstart_says_where_it_ran_and_reports() -> None:
    said = run_script(EXAMPLES / "quickstart.py")
    assert said.startswith("device: ")
    assert "output: (8, 2048)" in said


def test_three_pictures_stand_beside_each_other_the_last_one_the_original(
    demo: SimpleNamespace, portrait: Path
) -> None:
    with Image.open(portrait) as photograph:
        original = np.asarray(photograph)[:64, :64]
    sheet = np.asarray(demo.picture)
    assert sheet.shape[1] >= 3 * 64
    windows = np.lib.stride_tricks.sliding_window_view(sheet, original.shape)[:, :, 0]
    places = [
        (top, left)
        for top in range(windows.shape[0])
        for left in range(windows.shape[1])
        if windows[top, left, 0, 0].tolist() == original[0, 0].tolist()
        and np.array_equal(windows[top, left], original)
    ]
    assert len(places) == 1
    assert places[0][1] > 2 * 64


def test_the_enlarged_picture_is_the_photograph(demo: SimpleNamespace) -> None:
    assert demo.psnr_vramx > demo.psnr_bicubic - 4 > 20


def test_the_budget_is_smaller_than_the_weights_and_held(demo: SimpleNamespace) -> None:
    assert demo.weights == 16_697_987 * 4
    assert 0 < demo.peak_resident <= demo.budget < demo.weights
    assert demo.moved_in >= demo.weights


def test_stock_fails_in_the_same_budget_and_says_why(demo: SimpleNamespace) -> None:
    assert "OutOfMemoryError" in demo.stock
    assert any("stock torch" in line and "out of memory" in line for line in demo.said)


def test_the_demo_says_which_device_it_uses_and_what_it_does(demo: SimpleNamespace) -> None:
    assert demo.said[0].startswith("device: simulated card")
    assert [line.split()[0] for line in demo.said[1:4]] == ["setting", "enlarging", "trying"]


def test_stock_completes_where_the_budget_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(super_resolution, "MODEL", "realesr-animevideov3")  # soon loaded
    small = Image.new("RGB", (8, 8))
    with vramx.simulate("8GiB"):
        assert super_resolution.run_stock(small, 128 * MIB, on_gpu=False) is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--output", "picture.txt"], "picture.txt"),
        (["absent.png"], "absent.png"),
        ([__file__], "cannot identify image file"),
        (["--budget", "8 apples"], "8 apples"),
        (["--budget", "1MiB"], "1.00 MiB"),
    ],
)
def test_what_is_no_good_is_told_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    output = tmp_path / "out.png"
    assert super_resolution.main(["--simulated", "--output", str(output), *arguments]) == 1
    assert complaint in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("size", [(16, 16), (7, 33)])
def test_the_restorer_takes_any_size_and_changes_little(size: tuple[int, int]) -> None:
    picture = torch.rand(1, 3, *size)
    with torch.inference_mode():
        restored = restorer.seeded_restorer()(picture)
    assert restored.shape == picture.shape
    change = (restored - picture).abs().max()
    assert 0 < change <= restorer.RESIDUAL_GAIN * 1.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
def test_on_a_gpu_stock_fails_and_vramx_enlarges_the_photograph(tmp_path: Path) -> None:
    figures = tmp_path / "out.json"
    arguments = ["--output", str(tmp_path / "out.png"), "--json", str(figures)]
    assert super_resolution.main(arguments) == 0
    found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    assert "OutOfMemoryError" in found["stock"]
    assert found["psnr_vramx"] > found["psnr_bicubic"] - 3
    assert found["peak_resident"] <= found["budget"] < found["weights"]
