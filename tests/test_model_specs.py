"""Networks named by text: programs in files, and what importable modules make."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vramx

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from vramx.integrations.torch.modelspec import load_model, program_kind  # noqa: E402

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]

MADE = """
import torch
from torch import nn

def network():
    torch.manual_seed(3)
    return nn.Linear(4, 2)

class Namespace:
    inner = staticmethod(network)

ready = network()
number = 7

def nothing():
    return None

def broken():
    raise ValueError("no such size")
"""


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    name = f"networks_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MADE)
    return name


def scripted(network: nn.Module, x: Any, path: Path) -> None:
    del x
    torch.jit.script(network).save(str(path))


def traced(network: nn.Module, x: Any, path: Path) -> None:
    torch.jit.trace(network, x).save(str(path))


def exported(network: nn.Module, x: Any, path: Path) -> None:
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: rows},))
    torch.export.save(program, path)


@pytest.mark.parametrize(
    ("save", "kind", "leased"),
    [(scripted, "torchscript", 1), (traced, "torchscript", 1), (exported, "export", 6)],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_program_from_a_file_runs_leased_with_the_same_bits(
    open_session: OpenSession,
    linears: Callable[..., nn.Sequential],
    tmp_path: Path,
    save: Callable[[nn.Module, Any, Path], None],
    kind: str,
    leased: int,
) -> None:
    network = linears(6)
    x = torch.rand(3, 128)
    save(network, x, path := tmp_path / "program.pt2")
    assert program_kind(path) == kind
    program = load_model(str(path))
    with open_session(7 * BLOCK if leased == 1 else 3 * BLOCK) as session, torch.inference_mode():
        session.manage(program)
        for _ in range(2):
            assert torch.equal(program(x), network(x))
            session.evict(program)
        assert [count.uses for count in session.modules()] == [2] * leased
        assert session.stats().unleased_accesses == 0
    assert torch.equal(program(x), network(x))


def test_a_symbolically_traced_module_with_weights_of_its_children_is_leased_whole(
    open_session: OpenSession,
) -> None:
    class Borrower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            return x @ self.inner.weight

    network, x = torch.fx.symbolic_trace(Borrower()), torch.rand(2, 8)
    expected = network(x)
    with open_session() as session:
        session.manage(network)
        session.evict(network)
        assert torch.equal(network(x), expected)
        assert session.stats().unleased_accesses == 0


@pytest.mark.parametrize("attribute", ["network", "Namespace.inner", "ready"])
def test_a_factory_or_a_module_is_found_from_the_current_folder(
    importable: str, attribute: str
) -> None:
    before = [*sys.path]
    made = load_model(f"{importable}:{attribute}")
    torch.manual_seed(3)
    assert torch.equal(made.weight, nn.Linear(4, 2).weight)
    assert sys.path == before


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("absent", "has no absent"),
        ("number", "is a int, not what makes a network"),
        ("nothing", "made a NoneType, not a network"),
        ("broken", "failed: ValueError: no such size"),
    ],
)
def test_what_makes_no_network_is_named(importable: str, attribute: str, said: str) -> None:
    with pytest.raises(vramx.ConfigError, match=said):
        load_model(f"{importable}:{attribute}")


def test_what_is_neither_file_nor_importable_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, weights := tmp_path / "weights.pt")
    (tmp_path / "text.pt2").write_text("text")
    for spec, said in (
        ("absent.pt2", "there is no file absent"),
        ("no_such_module_at_all:x", "importing no_such_module_at_all failed"),
        ("a b:c", "there is no file a b:c"),
        (str(weights), "is not a program.*Weights alone"),
        (str(tmp_path / "text.pt2"), "is not a program"),
    ):
        with pytest.raises(vramx.ConfigError, match=said):
            load_model(spec)


@pytest.mark.parametrize("inside", ["a/code/a.py", "a/archive_format"])
def test_a_damaged_program_is_a_typed_error(tmp_path: Path, inside: str) -> None:
    with zipfile.ZipFile(path := tmp_path / "a.pt2", "w") as archive:
        archive.writestr(inside, "no program")
    with pytest.raises(vramx.ConfigError, match=r"a\.pt2 cannot be loaded"):
        load_model(str(path))
