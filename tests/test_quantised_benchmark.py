"""What the benchmark of quantised layers rests on, as far as it shows without a card."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import vramx  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
quantised = importlib.import_module("quantised")

MIB = 2**20

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


class Halved(torch.Tensor):
    """A tensor that is made of two others, as quantised ones are."""

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scale: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.codes, self.scale = codes, scale

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is torch.ops.aten.detach.default, "all that a parameter asks of it"
        return cls(args[0].codes, args[0].scale)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None


def test_a_quantised_weight_counts_for_the_tensors_that_it_is_made_of() -> None:
    module = nn.Linear(8, 8)
    codes = torch.zeros(8, 8, dtype=torch.int8)
    module.weight = nn.Parameter(Halved(codes, torch.ones(8)), requires_grad=False)
    assert quantised.bytes_held(module) == 64 + 32 + 32


def test_every_kind_is_run_within_its_budget_though_another_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_: nn.Module) -> nn.Module:
        raise RuntimeError("no kernel for this card")

    monkeypatch.setattr(quantised, "KINDS", {"numpy": fails, "torch": lambda block: block})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["quantised.py", "--json", str(file)])
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        assert quantised.main() == 1
    failed, row = json.loads(file.read_text())["rows"]
    assert failed["error"] == "RuntimeError: no kernel for this card"
    assert row["same_bits"]
    assert row["same_bits_after"]
    assert row["peak_resident"] <= row["budget"] <= row["weights"] / 2
    assert row["weights"] >= 8 * MIB
