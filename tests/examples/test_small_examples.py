"""The examples of pipelines and of other libraries run on small data and say what is true."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import fake_cupy
import vramx

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

pytest_plugins = ("loopback.fixture",)
pytestmark = pytest.mark.usefixtures("one_thread")

MIB = 2**20
EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Load an example anew, run it with arguments and give back what it printed."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run_one(name: str, *arguments: object, **stand_ins: ModuleType | None) -> str:
        for package, module in stand_ins.items():
            monkeypatch.setitem(sys.modules, package, module)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert not importlib.import_module(name).main()
        return capsys.readouterr().out

    return run_one


def figures(text: str, pattern: str) -> list[int]:
    found = re.search(pattern, text)
    assert found is not None, text
    return [int(each) for each in found.groups()]


HELD = r"at most (\d+) B of (\d+) B on the card"


def test_the_custom_pipeline_keeps_its_budget_and_dark_frames_skip_the_restorer(run: Run) -> None:
    said = run("custom_pipeline", "--features", 96, "--frames", 5, "--size", 16)
    assert "5 pictures of (3, 32, 32)" in said
    assert figures(said, r"detect: ran (\d+), skipped (\d+)") == [5, 0]
    assert figures(said, r"restore: ran (\d+), skipped (\d+)") == [3, 2]
    assert figures(said, r"enlarge: ran (\d+), skipped (\d+)") == [5, 0]
    (weights,) = figures(said, r"weights (\d+) B")
    peak, budget = figures(said, HELD)
    assert 0 < peak <= budget <= weights // 2


def make_diffusers() -> ModuleType:
    """As much of diffusers' interface as the example uses."""
    module: Any = ModuleType("diffusers")

    class Pipeline:
        def __init__(self, unet: nn.Module, scheduler: object) -> None:
            self.components = {"unet": unet, "scheduler": scheduler}

        @torch.no_grad()
        def __call__(self, num_inference_steps: int) -> SimpleNamespace:
            from PIL import Image

            x = torch.ones(1, 256)
            for _ in range(num_inference_steps):
                x = self.components["unet"](x).tanh()
            return SimpleNamespace(images=[Image.new("L", (4, 4), int(128 + 100 * x.mean()))])

    module.UNet2DModel = lambda **_: nn.Sequential(
        nn.Linear(256, 2048), *(nn.Linear(2048, 2048) for _ in range(3)), nn.Linear(2048, 256)
    )
    module.DDPMScheduler = object
    module.DDPMPipeline = Pipeline
    return module


def test_the_diffusers_example_keeps_half_the_weights_away(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    output = tmp_path / "out.png"
    said = run("diffusers_pipeline", "--output", output, diffusers=make_diffusers())
    (weights,) = figures(said, r"weights (\d+) B")
    peak, budget = figures(said, HELD)
    assert 0 < peak <= budget == weights // 2
    assert output.is_file()


@pytest.mark.parametrize(
    ("name", "package"), [("diffusers_pipeline", "diffusers"), ("cupy_arrays", "cupy")]
)
def test_without_its_package_an_example_says_so_and_ends_well(
    run: Run, name: str, package: str
) -> None:
    said = run(name, **{package: None})
    assert said.startswith("skipped: ")
    assert f"pip install {package}" in said


def test_without_a_card_the_cupy_example_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "libno_such_driver.so")
    monkeypatch.delitem(sys.modules, "vramx.integrations.cupy", raising=False)
    said = run("cupy_arrays", cupy=fake_cupy.make())
    assert said.startswith("skipped: ")
    sys.modules.pop("vramx.integrations.cupy")


@pytest.mark.usefixtures("no_open_session")
def test_cupys_arrays_of_twice_the_budget_are_right_when_they_are_read_again(
    run: Run, loopback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    monkeypatch.delitem(sys.modules, "vramx.integrations.cupy", raising=False)
    said = run("cupy_arrays", "--budget", "16MiB", "--arrays", 8, cupy=fake_cupy.make())
    sys.modules.pop("vramx.integrations.cupy")
    peak, budget = figures(said, HELD)
    assert peak <= budget == 16 * MIB
    (written,) = figures(said, r"written back: (\d+) B; in order when read again: True")
    assert written >= 16 * MIB
    length = 2 * budget // 8 // 4
    (total,) = figures(said, r"sum (\d+)")
    assert total == sum(number % 1000 for number in range(1, length + 1))
    sys.modules.pop("cupy_arrays")
    with pytest.raises(vramx.Error):
        vramx.current_session()
