"""What the benchmark of quantised layers rests on, as far as it shows without a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from benchmarks import quantised  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from torch import nn  # noqa: E402

import vramx  # noqa: E402

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


@pytest.mark.parametrize("kind", quantised.KINDS)
def test_quantised_layers_take_turns_within_their_budget_or_say_what_is_missing(
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_: nn.Module) -> nn.Module:
        raise ImportError("no kernel for this card")

    file = tmp_path / "rows.json"
    given = f"turns --backend simulated --model {kind} --weights 2MiB --width 256 --block 64KiB"
    given = [*given.split(), "--ratios", "2", "--rounds", "1", "--json", str(file)]
    monkeypatch.setitem(quantised.KINDS, kind, lambda block: block)
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        assert main(given) == 0
    _, row = json.loads(file.read_text())["rows"]
    assert row["same_bits"]
    assert row["card_bytes"] <= row["budget"] <= row["weights"] / 2
    assert row["moved_in"] >= row["weights"] - row["budget"]
    assert row["weights"] >= 2 * MIB
    monkeypatch.setitem(quantised.KINDS, kind, fails)
    assert main(given) == 2
    assert "no kernel for this card" in capsys.readouterr().err
