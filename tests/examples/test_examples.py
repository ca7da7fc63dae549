"""The examples run, and what the demo claims is true."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
for package in ("PIL", "rich", "skimage", "tqdm"):
    pytest.importorskip(package)
import vramx  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
pictures = importlib.import_module("pictures")
restorer = importlib.import_module("restorer")
rrdbnet = importlib.import_module("rrdbnet")
super_resolution = importlib.import_module("super_resolution")

MIB = 2**20
Tensors = dict[str, Any]
Enlarge = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def enlarge(tmp_path_factory: pytest.TempPathFactory) -> Enlarge:
    """Run the demo on a small crop; a failing exit code fails the test."""

    def run(*arguments: object, crop: str = "24x24") -> SimpleNamespace:
        folder = tmp_path_factory.mktemp("demo")
        paths = SimpleNamespace(picture=folder / "out.png", figures=folder / "out.json")
        argv = ["--simulated", "--crop", crop, "--tile", "22", *map(str, arguments)]
        argv += ["--output", str(paths.picture), "--json", str(paths.figures)]
        assert super_resolution.main(argv) == 0
        figures = json.loads(paths.figures.read_text())
        trials = {trial.pop("name"): trial for trial in figures.pop("trials")}
        picture, _ = pictures.load_picture(paths.picture)
        return SimpleNamespace(picture=picture, trials=trials, **figures)

    return run


@pytest.fixture(scope="module")
def seeded(enlarge: Enlarge) -> SimpleNamespace:
    return enlarge()


@pytest.fixture(scope="module")
def checkpoint() -> Tensors:
    """Weights that differ from the seeded ones."""
    torch.manual_seed(7)
    return dict(rrdbnet.RRDBNet().state_dict())


def as_safetensors(tensors: Tensors, path: Path) -> None:
    pytest.importorskip("safetensors")
    importlib.import_module("safetensors.torch").save_file(tensors, path)


def as_wrapped_checkpoint(tensors: Tensors, path: Path) -> None:
    torch.save({"params_ema": tensors}, path)


def test_the_residency_example_reports_and_saves_what_it_shows(tmp_path: Path) -> None:
    picture, trace = tmp_path / "out.png", tmp_path / "out.json"
    run = subprocess.run(
        [sys.executable, EXAMPLES / "residency.py", "--picture", picture, "--trace", trace],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "\nplan from " in run.stdout
    assert run.stdout.count("\nnet.") == 20
    assert "\nand 4 more " in run.stdout
    assert pictures.load_picture(picture)[0] is not None
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {f"net.{place}" for place in range(24)} <= names


def test_several_models_keep_to_their_shares_and_give_the_same_bits() -> None:
    finished = subprocess.run(
        [sys.executable, EXAMPLES / "several_models.py", "--tile", "8", "--count", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    rows = [line.split() for line in finished.stdout.splitlines()[1:]]
    assert [(row[0], row[-1]) for row in rows] == [
        ("enlarge", "yes"), ("restore", "yes"), ("describe", "yes")
    ]  # fmt: skip
    shares = {row[0]: (float(row[1]), float(row[3])) for row in rows}
    assert (shares["enlarge"][0], shares["restore"][0], shares["describe"][0]) == (40, 64, 24)
    assert all(peak <= share for share, peak in shares.values())


def test_quickstart_says_where_it_ran_and_reports() -> None:
    finished = subprocess.run(
        [sys.executable, EXAMPLES / "quickstart.py"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("device: ")
    assert "output: (8, 2048)" in finished.stdout


def test_the_picture_is_four_times_as_large(seeded: SimpleNamespace) -> None:
    assert tuple(seeded.picture.shape) == (1, 3, 96, 96)


def test_without_weights_the_picture_resembles_the_input(seeded: SimpleNamespace) -> None:
    portrait, focus = pictures.load_picture(None)
    crop = pictures.choose_crop("24x24", *portrait.shape[-2:], focus).cut(portrait)
    shrunk = torch.nn.functional.avg_pool2d(seeded.picture, rrdbnet.SCALE)
    assert (shrunk - crop).abs().mean() < 0.05


def test_vramx_gives_the_bits_of_the_unlimited_run(seeded: SimpleNamespace) -> None:
    assert seeded.trials["vramx"]["error"] is None
    assert seeded.trials["vramx"]["same_bits"] is True


def test_stock_fails_at_the_same_budget_and_says_why(seeded: SimpleNamespace) -> None:
    assert "OutOfMemoryError" in seeded.trials["stock at that budget"]["error"]


def test_the_budget_is_smaller_than_the_weights_and_held(seeded: SimpleNamespace) -> None:
    assert seeded.budget < seeded.weight_bytes
    assert 0 < seeded.trials["vramx"]["peak_resident"] <= seeded.budget


def test_what_does_not_fit_comes_in_for_every_tile(seeded: SimpleNamespace) -> None:
    assert seeded.tiles == 4
    missing = seeded.weight_bytes - seeded.budget
    assert seeded.trials["vramx"]["moved_in"] >= seeded.tiles * missing


def test_a_small_budget_is_enough(enlarge: Enlarge) -> None:
    result = enlarge("--budget", "24MiB", crop="16x8")
    assert result.budget == 24 * MIB
    assert result.trials["vramx"]["same_bits"] is True
    assert result.trials["vramx"]["peak_resident"] <= result.budget


@pytest.mark.parametrize(
    ("suffix", "save"), [(".safetensors", as_safetensors), (".pth", as_wrapped_checkpoint)]
)
def test_weights_from_a_file_are_used(
    enlarge: Enlarge,
    seeded: SimpleNamespace,
    checkpoint: Tensors,
    tmp_path: Path,
    suffix: str,
    save: Callable[[Tensors, Path], None],
) -> None:
    path = tmp_path / f"weights{suffix}"
    save(checkpoint, path)
    loaded = rrdbnet.trained_upscaler(path).state_dict()
    assert loaded.keys() == checkpoint.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in checkpoint.items())
    result = enlarge("--weights", path)
    assert result.trials["vramx"]["same_bits"] is True
    assert not torch.equal(result.picture, seeded.picture)


def test_half_precision_weights_are_widened(checkpoint: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    torch.save({name: tensor.half() for name, tensor in checkpoint.items()}, path)
    loaded = rrdbnet.trained_upscaler(path)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


def write_garbage(path: Path, _: Tensors) -> None:
    path.write_bytes(b"not weights at all")


def write_other_names(path: Path, _: Tensors) -> None:
    tensors = {"layer.weight": torch.zeros(2)}
    if path.suffix == ".safetensors":
        as_safetensors(tensors, path)
    else:
        torch.save(tensors, path)


def write_other_shape(path: Path, checkpoint: Tensors) -> None:
    torch.save({**checkpoint, "conv_last.bias": torch.zeros(4)}, path)


def write_list(path: Path, _: Tensors) -> None:
    torch.save([1, 2], path)


def write_nothing(path: Path, _: Tensors) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "write", "complaint"),
    [
        ("a.safetensors", write_garbage, "not a safetensors file"),
        ("a.pth", write_garbage, "not a torch checkpoint"),
        ("a.safetensors", write_other_names, "702 missing (such as conv_first.weight)"),
        ("a.pth", write_other_names, "1 unknown (such as layer.weight)"),
        ("a.pth", write_other_shape, "conv_last.bias (4,) instead of (3,)"),
        ("a.pth", write_list, "holds a list, not named tensors"),
        ("a.pth", write_nothing, "no such weights file"),
    ],
)
def test_bad_weights_are_refused(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Tensors,
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Tensors], None],
    complaint: str,
) -> None:
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    path = tmp_path / name
    write(path, checkpoint)
    assert super_resolution.main(["--simulated", "--weights", str(path)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert str(path) in error


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["absent.png"], "no such picture: absent.png"),
        ([__file__], "cannot be read as a picture"),
        (["--crop", "large"], "crop 'large'"),
        (["--crop", "0x8"], "is empty"),
        (["--crop", "64x64+500+0"], "reaches outside the picture of 512x512"),
        (["--tile", "0"], "at least 22 pixels"),
        (["--output", "picture.txt"], "cannot write picture.txt"),
        (["--budget", "8 apples"], "8 apples"),
    ],
)
def test_bad_arguments_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert super_resolution.main(["--simulated", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_the_network_has_the_published_size_and_names() -> None:
    network = rrdbnet.RRDBNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 16_697_987
    names = set(network.state_dict())
    assert {"conv_first.weight", "body.22.rdb3.conv5.bias", "conv_body.weight"} <= names
    assert {"conv_up1.weight", "conv_up2.weight", "conv_hr.weight", "conv_last.bias"} <= names


def test_the_models_differ_and_are_the_same_every_time() -> None:
    models = super_resolution.build_models(None)
    again = super_resolution.build_models(None)
    assert type(models[0]) is not type(models[1])
    for model, twin in zip(models, again, strict=True):
        assert not model.training
        twins = twin.state_dict()
        assert all(torch.equal(tensor, twins[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("size", [(16, 16), (7, 33)])
def test_the_restorer_takes_any_size_and_changes_little(size: tuple[int, int]) -> None:
    picture = torch.rand(1, 3, *size)
    with torch.inference_mode():
        restored = restorer.seeded_restorer()(picture)
    assert restored.shape == picture.shape
    change = (restored - picture).abs().max()
    assert 0 < change <= restorer.RESIDUAL_GAIN * 1.01


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("whole", (0, 0, 40, 60)),
        ("20x10", (15, 20, 10, 20)),
        ("99x10", (15, 0, 10, 60)),
        ("5x6+55+34", (34, 55, 6, 5)),
    ],
)
def test_crops_lie_inside_the_picture(text: str, box: tuple[int, int, int, int]) -> None:
    assert pictures.choose_crop(text, 40, 60, (20, 30)) == pictures.Box(*box)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
def test_on_a_gpu_stock_fails_and_vramx_gives_the_same_bits(tmp_path: Path) -> None:
    figures = tmp_path / "out.json"
    argv = ["--crop", "48x48", "--tile", "32", "--json", str(figures)]
    assert super_resolution.main([*argv, "--output", str(tmp_path / "out.png")]) == 0
    report = json.loads(figures.read_text())
    stock, _, managed = report["trials"]
    assert report["device"].startswith("GPU: ")
    assert "OutOfMemoryError" in stock["error"]
    assert managed["same_bits"] is True
    assert managed["peak_resident"] <= report["budget"]
    assert managed["moved_in"] > 0


def test_vramx_errors_in_a_run_give_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise vramx.DeviceError("the card is gone")

    monkeypatch.setattr(super_resolution, "compare", fail)
    assert super_resolution.main(["--simulated", "--crop", "8x8"]) == 1
    assert "DeviceError: the card is gone" in capsys.readouterr().err
