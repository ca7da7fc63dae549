"""peft's adapters come, are merged, swapped and go while their model is managed on a real card."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import vramx

torch = pytest.importorskip("torch")

WEIGHTS = 210 * 2**20
STEPS = 20


@pytest.fixture(scope="module")
def peft() -> Any:
    pytest.importorskip("transformers", reason="transformers is not installed")
    return pytest.importorskip("peft", reason="peft is not installed")


def build(peft: Any) -> Any:
    """A small decoder of random weights with two adapters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=1024,
    )
    model = peft.get_peft_model(
        LlamaForCausalLM(config).to(torch.bfloat16).eval(), adapter(peft), adapter_name="one"
    )
    model.add_adapter("two", adapter(peft))
    return model.eval()


def adapter(peft: Any) -> Any:
    return peft.LoraConfig(
        r=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )


class Adapters:
    """What may be done to a model's adapters, and what has been."""

    def __init__(self, peft: Any, seed: int) -> None:
        self.peft = peft
        self.random = random.Random(seed)
        self.there = ["one", "two"]
        self.active = "one"
        self.merged = False
        self.count = 2

    def step(self) -> tuple[str, Callable[[Any], None]]:
        """Choose what comes next."""
        choices = [("unmerge", self.unmerge)] if self.merged else [("merge", self.merge)]
        if not self.merged:
            choices += [("add", self.add), ("swap", self.swap), ("off", self.off)]
            choices += [("delete", self.delete)] if len(self.there) > 1 else []
        name, choose = self.random.choice(choices)
        return name, choose()

    def merge(self) -> Callable[[Any], None]:
        self.merged = True
        return lambda model: model.merge_adapter()

    def unmerge(self) -> Callable[[Any], None]:
        self.merged = False
        return lambda model: model.unmerge_adapter()

    def swap(self) -> Callable[[Any], None]:
        self.active = name = self.random.choice(self.there)
        return lambda model: model.set_adapter(name)

    def off(self) -> Callable[[Any], None]:
        name = self.active

        def switch(model: Any) -> None:
            model.base_model.disable_adapter_layers()
            model(torch.zeros(1, 4, dtype=torch.long, device="cuda"))
            model.base_model.enable_adapter_layers()
            model.set_adapter(name)

        return switch

    def add(self) -> Callable[[Any], None]:
        self.count += 1
        name, seed = f"number {self.count}", self.count
        self.there.append(name)

        def add(model: Any) -> None:
            torch.manual_seed(seed)
            model.add_adapter(name, adapter(self.peft))

        return add

    def delete(self) -> Callable[[Any], None]:
        name = self.random.choice([each for each in self.there if each != self.active])
        self.there.remove(name)
        return lambda model: model.delete_adapter(name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [WEIGHTS // 2, 2 * 2**30])
@pytest.mark.parametrize("backend", ["mapped", "managed"])
@torch.no_grad()
def test_adapters_merged_unmerged_swapped_and_deleted_give_stock_s_bits_at_every_pass(
    peft: Any, backend: str, budget: int, seed: int
) -> None:
    tokens = torch.arange(48, device="cuda").view(2, 24) * 7 % 1024
    stock, model = build(peft).cuda(), build(peft)
    adapters, done = Adapters(peft, seed), []
    with vramx.oversubscribe(budget, backend=backend, block="2MiB") as session:
        session.manage(model)
        for _ in range(3):
            assert torch.equal(model(tokens).logits, stock(tokens).logits)
        for _ in range(STEPS):
            name, change = adapters.step()
            done.append(name)
            for each in (stock, model):
                change(each)
            for _ in range(2):
                assert torch.equal(model(tokens).logits, stock(tokens).logits), done
    for one, other in zip(model.parameters(), stock.parameters(), strict=True):
        assert torch.equal(one.cpu(), other.cpu()), done


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("budget", [WEIGHTS // 2, 2 * 2**30])
@pytest.mark.parametrize("backend", ["mapped", "managed"])
@torch.no_grad()
def test_a_model_whose_adapters_are_merged_for_good_goes_on_as_stock_s(
    peft: Any, backend: str, budget: int
) -> None:
    tokens = torch.arange(48, device="cuda").view(2, 24) * 7 % 1024
    stock, model = build(peft).cuda(), build(peft)
    with vramx.oversubscribe(budget, backend=backend, block="2MiB") as session:
        session.manage(model)
        assert torch.equal(model(tokens).logits, stock(tokens).logits)
        stock, model = stock.merge_and_unload(), model.merge_and_unload()
        for _ in range(4):
            assert torch.equal(model(tokens).logits, stock(tokens).logits)
    for one, other in zip(model.parameters(), stock.parameters(), strict=True):
        assert torch.equal(one.cpu(), other.cpu())
