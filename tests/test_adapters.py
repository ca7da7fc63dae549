"""peft's adapters are merged, unmerged, swapped, added and deleted while their model is managed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import vramx

BLOCK = 16 * 2**10
OpenSession = Callable[..., vramx.Session]

X = torch.linspace(-1, 1, 128).view(2, 64)
CONFIG = {"r": 4, "target_modules": ["up", "down"], "init_lora_weights": False}

# peft warns of what is meant here: of merging twice, and of adapters that were just made.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def build() -> Any:
    import peft  # takes seconds, of which processes with other tests need none

    torch.manual_seed(0)
    model = peft.get_peft_model(
        nn.Sequential(*(Block() for _ in range(4))), peft.LoraConfig(**CONFIG), adapter_name="one"
    )
    model.add_adapter("two", peft.LoraConfig(**CONFIG))
    return model.eval()


def add(model: Any, name: str) -> None:
    import peft

    torch.manual_seed(len(name))
    model.add_adapter(name, peft.LoraConfig(**CONFIG))


def steps(seed: int) -> list[Callable[[Any], None]]:
    """Choose what is done, in an order that is allowed."""
    choose = random.Random(seed)
    there, active, merged = ["one", "two"], "one", False
    chosen: list[Callable[[Any], None]] = []
    for _ in range(20):
        kind = choose.choice(["merge", "swap", "add", "delete"])
        if merged or kind == "merge":
            merged = not merged
            chosen.append(
                (lambda m: m.merge_adapter()) if merged else (lambda m: m.unmerge_adapter())
            )
        elif kind == "swap":
            active = choose.choice(there)
            chosen.append(lambda m, name=active: m.set_adapter(name))
        elif kind == "add":
            there.append(name := f"number {len(chosen)}")
            chosen.append(lambda m, name=name: add(m, name))
        elif others := [name for name in there if name != active]:
            there.remove(name := choose.choice(others))
            chosen.append(lambda m, name=name: m.delete_adapter(name))
    return chosen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [8, 64], ids=["streams", "fits"])
def test_each_step_gives_the_bits_of_an_unmanaged_model(
    open_session: OpenSession, budget: int, seed: int
) -> None:
    plain, model = build(), build()
    with torch.no_grad(), open_session(budget * BLOCK, block=BLOCK) as session:
        session.manage(model)
        for step in steps(seed):
            for each in (plain, model):
                step(each)
            for _ in range(2):
                assert torch.equal(model(X), plain(X))
    assert torch.equal(model(X), plain(X))


def test_a_merged_model_is_the_session_s_without_its_adapters(open_session: OpenSession) -> None:
    plain, model = build(), build()
    with torch.no_grad(), open_session(8 * BLOCK, block=BLOCK) as session:
        session.manage(model)
        assert torch.equal(model(X), plain(X))
        merged, expected = model.merge_and_unload(), plain.merge_and_unload()
        for _ in range(3):
            assert torch.equal(merged(X), expected(X))
    assert torch.equal(merged(X), expected(X))
