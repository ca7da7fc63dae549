"""Models are loaded with their code, from files and by name, or refused with what to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import vramx
from vramx.pipelines.networks import evaluating
from vramx.pipelines.programs import load_program

from .networks import enlarger

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def save_scripted(model: nn.Module, path: Path) -> None:
    torch.jit.script(model).save(str(path))


def save_exported(model: nn.Module, path: Path) -> None:
    shapes = ({0: torch.export.Dim("n")},)
    torch.export.save(
        torch.export.export(model, (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes), path
    )


@pytest.mark.parametrize(
    ("name", "save", "trained"),
    [
        ("a.pt", save_scripted, True),
        ("a.pt", save_scripted, False),
        ("a.pt2", save_exported, False),
    ],
)
def test_a_program_in_a_file_gives_the_bits_of_its_module_and_evaluates(
    tmp_path: Path, name: str, save: Callable[[nn.Module, Path], None], trained: bool
) -> None:
    model = nn.Sequential(enlarger(1), nn.Dropout(0.5)).train(trained)
    save(model, tmp_path / name)
    model.eval()
    picture = torch.rand(3, 3, 16, 16)
    program = load_program(str(tmp_path / name))
    assert isinstance(program, nn.Module)
    card = {"budget": "1MiB", "block": 2**16, "backend": "simulated"}
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        with vramx.pipeline({"it": program}, **card) as chain:
            before = [each.training for each in program.modules()]
            with evaluating(program):
                made = chain(picture)
            assert [each.training for each in program.modules()] == before
            assert chain.session.stats().managed > 0
            assert chain.session.stats().unleased_touches == 0
    with torch.inference_mode():
        assert torch.equal(made, model(picture))


def test_a_function_by_name_makes_the_model_also_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_models_of_a_test.py").write_text(
        "import vramx\ndef double():\n    return vramx.FaceModel(lambda x: 2 * x, size=64)\n"
    )
    monkeypatch.chdir(tmp_path)
    made = load_program("my_models_of_a_test:double")
    assert made.model(21) == 42
    assert made.size == 64


def weights_alone(path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path)


def truncated(path: Path) -> None:
    save_scripted(nn.Linear(2, 2), path)
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize("name", ["a.pt", "a.pt2"])
@pytest.mark.parametrize(
    "write", [weights_alone, truncated, lambda path: path.write_bytes(b"noise" * 99)]
)
def test_a_file_that_is_no_program_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    with pytest.raises(vramx.ConfigError, match=rf"{name} cannot be loaded .* has no code"):
        load_program(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.pt", "absent.pt is no file: give a TorchScript file"),
        ("a b:c", "is no file"),
        ("no_such_package:make", "cannot be imported .*no_such_package"),
        ("math:no_such_function", "cannot be imported .*no_such_function"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        load_program(name)
