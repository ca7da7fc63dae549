"""What `vramx forecast` says: within the limits' formulas, and as the simulated card then does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import vramx
from vramx import _core
from vramx.cli import main
from vramx.doctor.machine import Card, LinkRates, UnknownFactError
from vramx.forecast import CARDS, PlannedCard, find_card, for_file, for_module, this_card
from vramx.forecast.models import WORKSPACES
from vramx.forecast.passes import EFFICIENCY, Forecast, forecast
from vramx.uses import ModuleUse

KIB = 2**10
MIB = 2**20
BLOCK = 64 * KIB
LINK = 1e9
#: A card with the link of the tests' simulated one, and easy rates.
EASY = PlannedCard("Easy", 64 * MIB, LINK, 1e12, 1e12 / EFFICIENCY, 1e11 / EFFICIENCY, "tests")


def parts(sizes: list[int], operations: float = 0.0) -> list[ModuleUse]:
    return [ModuleUse(f"m.{i}", size, 0, 0, True, operations) for i, size in enumerate(sizes)]


def packed(model: list[ModuleUse], share: float = 0.683) -> list[ModuleUse]:
    return [replace(use, packed=round(share * use.nbytes)) for use in model]


def ask(model: list[ModuleUse], **arguments: Any) -> Forecast:
    given: dict[str, Any] = {
        "card": EASY,
        "budget": None,
        "compute": None,
        "activations": None,
        "reserve": MIB,
        "block": BLOCK,
        "backend": "simulated",
        "estimate": "tests",
    }
    return forecast(model, **{**given, **arguments})


sizes = st.lists(st.integers(1, 20 * BLOCK), min_size=1, max_size=40)
budgets = st.integers(1, 400).map(lambda blocks: blocks * BLOCK)
computes = st.floats(1e-6, 1.0)


@given(sizes, budgets, computes)
def test_a_forecast_keeps_the_budget_and_no_limit_is_beaten(
    model: list[int], budget: int, compute: float
) -> None:
    found = ask(parts(model), budget=budget, compute=compute)
    assert found.weights == sum(model)
    assert found.peak <= budget
    assert found.resident == pytest.approx(compute)
    assert found.seconds >= found.resident * (1 - 1e-9)
    assert found.fits == (sum(model) <= budget)
    if found.fits:
        assert found.moved == 0
        assert found.seconds == pytest.approx(compute)
    else:
        assert found.moved >= sum(model) - budget
        assert found.seconds >= found.t_fluid * (1 - 1e-9)
    assert found.seconds >= found.bound * (1 - 1e-9)
    assert found.bound >= found.t_fluid * (1 - 1e-9)


@given(sizes, budgets, computes)
def test_packed_copies_are_told_of_where_they_make_a_pass_faster(
    model: list[int], budget: int, compute: float
) -> None:
    plain = ask(parts(model), budget=budget, compute=compute)
    found = ask(packed(parts(model)), budget=budget, compute=compute)
    assert plain.packed is None
    assert replace(found, packed=None) == plain
    if found.packed is None:
        return
    assert compute <= found.packed.seconds * (1 + 1e-9)
    assert found.packed.seconds <= found.seconds
    assert found.packed.moved <= found.packed.raw <= found.moved
    assert 0 < found.packed.unpacked <= sum(model)


def test_a_pass_with_packed_copies_is_as_long_as_designs_formula_says() -> None:
    count, share = 400, 0.683
    for over in (1.25, 2.0, 4.0):
        budget = int(count / over) * BLOCK
        found = ask(packed(parts([BLOCK] * count)), budget=budget, compute=1e-4).packed
        assert found is not None
        over_packed = (share * count + 4) * BLOCK - budget
        unpacked = min(count, (count + 4 - int(count / over)) / (1 - share)) * BLOCK
        t_packed = max(1e-4 + unpacked / EASY.unpack, over_packed / LINK)
        assert found.t_packed == pytest.approx(t_packed, rel=1e-3)
        assert found.seconds == pytest.approx(t_packed, rel=0.03)
        assert found.moved == pytest.approx(share * found.raw, rel=1e-3)


def test_packed_copies_pay_neither_where_work_hides_the_link_nor_where_nothing_unpacks() -> None:
    model = packed(parts([BLOCK] * 40))
    budget = 20 * BLOCK
    assert ask(model, budget=budget, compute=1e-4).packed is not None
    assert ask(model, budget=budget, compute=1.0).packed is None
    assert ask(model, budget=40 * BLOCK, compute=1e-4).packed is None
    assert ask(model, budget=budget, compute=1e-4, backend="managed").packed is None
    unknown = replace(EASY, bandwidth=0)
    assert ask(model, budget=budget, compute=1e-4, card=unknown).packed is None
    hardly = packed(parts([BLOCK] * 40), 0.96)
    assert ask(hardly, budget=budget, compute=1e-4).packed is None


def test_the_text_tells_of_packed_copies_where_they_pay() -> None:
    found = ask(packed(parts([BLOCK] * 40)), budget=20 * BLOCK, compute=1e-4)
    assert "unpacked" in found.text()
    assert "unpacked" not in replace(found, packed=None).text()


def test_how_far_weights_pack_goes_by_their_types(tmp_path: Path) -> None:
    tensors = {
        "a.weight": np.zeros((64, 64), np.float16),
        "a.scale": np.zeros(64, np.float32),
        "a.number": np.zeros(64, np.int64),
    }
    save_file(tensors, tmp_path / "types.safetensors")
    from vramx.checkpoints import read_checkpoint
    from vramx.forecast.models import group

    (use,) = group(read_checkpoint(tmp_path / "types.safetensors"), 1)
    assert use.packed == round(64 * 64 * 2 * 0.87 + 64 * 4 * 0.84 + 64 * 8)


def test_where_the_weights_are_used_in_half_of_the_work_the_bound_is_above_the_fluid_one() -> None:
    model = parts([BLOCK] * 40 + [0])
    model[-1] = replace(model[-1], operations=40.0 * BLOCK)  # as long as reading the others takes
    crossing = 30 * BLOCK / LINK
    found = ask(model, budget=10 * BLOCK, compute=crossing)
    assert found.t_fluid == pytest.approx(crossing)
    assert 1.4 * crossing < found.bound <= found.seconds * (1 + 1e-9)


def test_unified_memory_moves_as_much_and_slower() -> None:
    model, more = parts([BLOCK] * 40), {"budget": 20 * BLOCK, "compute": 1e-4}
    mapped, managed = (ask(model, backend=each, **more) for each in ("mapped", "managed"))
    assert managed.moved == mapped.moved
    assert mapped.moving_rate == LINK
    assert managed.seconds == pytest.approx(mapped.seconds * LINK / managed.moving_rate)
    assert managed.seconds > mapped.seconds
    assert managed.t_plan == mapped.t_plan  # the link's own
    with pytest.raises(vramx.ConfigError, match=r"unknown backend 'vast'.*mapped"):
        ask(model, backend="vast")


@given(sizes, budgets, computes)
def test_the_limits_are_designs_formulas(model: list[int], budget: int, compute: float) -> None:
    found = ask(parts(model), budget=budget, compute=compute)
    used = sum(model)
    over = max(used - budget, 0)
    assert found.t_fluid == pytest.approx(max(compute, over / LINK))
    in_flight = min(used, over + 4 * BLOCK) if over else 0
    assert found.t_plan == pytest.approx(max(compute, in_flight / LINK))
    assert found.t_lru == pytest.approx(max(compute, used / LINK if over else 0))


@given(sizes, computes)
def test_the_best_budget_is_as_good_as_all_the_room_and_less_is_not(
    model: list[int], compute: float
) -> None:
    found = ask(parts(model), compute=compute)
    assert found.best_budget <= EASY.memory
    assert found.best_seconds <= found.seconds * 1.02
    if found.best_budget > BLOCK:
        less = ask(parts(model), compute=compute, budget=found.best_budget - BLOCK)
        assert less.seconds > found.best_seconds


@given(sizes, st.integers(0, 32 * BLOCK), computes)
def test_activations_come_off_the_budget(
    model: list[int], activations: int, compute: float
) -> None:
    budget = 100 * BLOCK
    found = ask(parts(model), budget=budget, activations=activations, compute=compute)
    plain = ask(parts(model), budget=budget - activations, compute=compute)
    assert (found.seconds, found.moved) == (plain.seconds, plain.moved)
    assert found.peak == plain.peak + activations <= budget


@pytest.mark.parametrize("share", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("frames", [8, 16, 30, 40])
def test_the_simulated_card_then_takes_as_long_and_moves_as_much(
    open_core: Callable[..., tuple[_core.Core, _core.SimulatedDevice]], frames: int, share: float
) -> None:
    count = 40
    work = share * BLOCK / LINK
    found = ask(parts([BLOCK] * count), budget=frames * BLOCK, compute=work * count)
    core, device = open_core(frames * BLOCK, policy="adaptive", latency=0.0)
    memories = core.reserve([BLOCK] * count, _core.Purpose.WEIGHTS)
    groups = [core.define([(memory.address, memory.nbytes)]) for memory in memories]
    core.guess(groups)

    def one_pass() -> tuple[float, int]:
        began, before = device.now, core.stats().moved_in
        for group in groups:
            core.acquire(group, 0)
            device.compute(work)
            core.release(group, 0)
        return device.now - began, core.stats().moved_in - before

    for _ in range(4):
        one_pass()
    seconds, moved = one_pass()
    assert found.seconds == pytest.approx(seconds, rel=0.02)
    assert found.moved == moved


def test_a_module_larger_than_the_budget_is_read_over_the_link() -> None:
    found = ask(parts([50 * BLOCK, BLOCK]), budget=10 * BLOCK, compute=1e-6)
    assert found.over_link == ("m.0",)
    assert found.peak <= 10 * BLOCK
    assert found.seconds >= found.t_fluid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 65 * MIB}, "more than the 64.00 MiB of Easy"),
        ({"budget": BLOCK - 1}, "less than one block"),
        ({"budget": MIB, "activations": MIB}, "of activations"),
        ({"compute": 0.0}, "give a time"),
        ({"compute": float("nan")}, "give a time"),
        ({"card": PlannedCard("New", 64 * MIB, LINK, 0, 0, 0, "")}, "how fast New computes"),
    ],
)
def test_figures_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        ask(parts([BLOCK]), **arguments)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), budgets)
def test_a_module_used_again_has_its_weights_once(uses: list[int], budget: int) -> None:
    model = [parts([20 * BLOCK] * 10)[each] for each in uses]
    found = ask(model, budget=budget, compute=1.0)
    assert found.weights == 20 * BLOCK * len(set(uses))
    assert found.modules == len(set(uses))
    assert found.fits == (found.weights <= budget)


# Cards


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_found_by_its_name_however_written(name: str) -> None:
    for written in (name, f"NVIDIA GeForce {name}", name.lower().replace(" ", ""), f" {name} "):
        assert find_card(written) is CARDS[name]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("RTX 306", "RTX 3060"),
        ("RTX 4060 Ti", "may be RTX 4060 Ti 8GB, RTX 4060 Ti 16GB: say which"),
        ("4060ti", "may be RTX 4060 Ti 8GB, RTX 4060 Ti 16GB: say which"),
        ("H10", "H100"),
        ("h100", "may be H100 PCIe, H100 SXM, H100 NVL"),
        ("A100", "may be A100 40GB, A100 80GB"),
        ("RTX 6000", "may be Quadro RTX 6000, RTX 6000 Ada"),
        ("RTX 3090 48GB", "is not known; the nearest are"),
        ("", "known are"),
    ],
)
def test_an_unknown_card_is_refused_with_the_nearest_names(name: str, near: str) -> None:
    with pytest.raises(vramx.ConfigError, match=near):
        find_card(name)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("RTX 4060 Laptop", "RTX 4060 Laptop"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Laptop"),
        ("rtx4060 mobile", "RTX 4060 Laptop"),
        ("4060ti 16g", "RTX 4060 Ti 16GB"),
        ("RTX4060Ti-8GB", "RTX 4060 Ti 8GB"),
        ("4070 ti super", "RTX 4070 Ti SUPER"),
        ("4070tisuper", "RTX 4070 Ti SUPER"),
        ("4070", "RTX 4070"),
        ("GeForce RTX 3060 12GB", "RTX 3060"),
        ("3060 8 GB", "RTX 3060 8GB"),
        ("1080ti", "GTX 1080 Ti"),
        ("GTX1060-6G", "GTX 1060 6GB"),
        ("4090d", "RTX 4090 D"),
        ("A100-80G", "A100 80GB"),
        ("A100 SXM4 40GB", "A100 40GB"),
        ("H100 SXM5", "H100 SXM"),
        ("H100-PCIe-80GB", "H100 PCIe"),
        ("quadro rtx6000", "Quadro RTX 6000"),
        ("RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("RTX PRO 6000 Blackwell Max-Q", "RTX PRO 6000 Max-Q"),
        ("rtxa6000", "RTX A6000"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("l40s", "L40S"),
    ],
)
def test_the_ways_in_which_people_write_a_name_find_its_card(written: str, name: str) -> None:
    assert find_card(written) is CARDS[name]


def test_a_card_that_the_table_lacks_is_described_by_its_memory_and_link(file: Path) -> None:
    found = for_file(file, memory="8GiB", link="12GB/s", budget="1MiB", block=BLOCK)
    assert (found.link, found.link_source) == (12e9, "as given")
    assert "it computes as A2 does" in found.card_source
    wider = for_file(file, card="RTX 3060", link="30GB/s", budget="1MiB", block=BLOCK)
    assert (wider.card, wider.link) == ("RTX 3060", 30e9)
    with pytest.raises(vramx.ConfigError, match="budget"):
        for_file(file, card="RTX 3090", memory="2GiB", budget="4GiB")
    with pytest.raises(vramx.ConfigError, match="give both, such as 8GiB and 12GB/s"):
        for_file(file, memory="8GiB")
    with pytest.raises(vramx.ConfigError, match="link 'fast' is not a"):
        for_file(file, memory="8GiB", link="fast")


def test_every_card_names_its_source_and_has_all_figures() -> None:
    for card in CARDS.values():
        assert card.source
        assert card.link_source
        assert 0 < card.single <= card.half
        assert 0 < card.link < card.bandwidth < card.half


class OneCard:
    """The facts of a machine with one card that planning asks for."""

    def __init__(self, name: str, measured: float | None, gib: int = 12) -> None:
        self.name, self.measured, self.gib = name, measured, gib

    def cards(self) -> list[Card]:
        return [Card(0, self.name, "GPU-1", self.gib * 2**30, (8, 6), 4, 8, 16)]

    def link(self, ordinal: int) -> LinkRates:
        if self.measured is None:
            raise UnknownFactError(f"cannot copy to {ordinal}")
        return LinkRates(self.measured, self.measured)


def test_this_machines_card_has_its_measured_link_and_the_tables_rates() -> None:
    found = this_card(OneCard("NVIDIA GeForce RTX 3060 Ti", 20e9))  # type: ignore[arg-type]
    assert (found.link, found.link_source) == (20e9, "measured")
    assert found.half == CARDS["RTX 3060 Ti"].half
    assert found.memory == 12 * 2**30
    unmeasured = this_card(OneCard("Some Card", None))  # type: ignore[arg-type]
    assert "estimated" in unmeasured.link_source
    assert unmeasured.half == 0
    with pytest.raises(vramx.NoDeviceError, match="RTX 3060"):
        this_card(OneCard("x", None), ordinal=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reported", "gib", "row"),
    [
        ("NVIDIA GeForce RTX 3060", 12, "RTX 3060"),
        ("NVIDIA GeForce RTX 4060 Ti", 16, "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 8, "RTX 4060 Ti 8GB"),
        ("Tesla T4", 15, "T4"),
        ("NVIDIA A10", 22, "A10"),
        ("NVIDIA A100-SXM4-40GB", 40, "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", 80, "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", 80, "H100 SXM"),
        ("NVIDIA H100 PCIe", 80, "H100 PCIe"),
        ("NVIDIA H200", 140, "H200"),
        ("NVIDIA L40S", 45, "L40S"),
        # Cards whose names begin as those of others.
        ("NVIDIA L40", 45, "L40"),
        ("NVIDIA GeForce RTX 3080 Ti", 12, "RTX 3080 Ti"),
        ("NVIDIA GeForce RTX 4070 SUPER", 12, "RTX 4070 SUPER"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6, "RTX 3060 Laptop"),
        ("NVIDIA GeForce RTX 3080", 12, "RTX 3080 12GB"),
        ("NVIDIA RTX 6000 Ada Generation", 48, "RTX 6000 Ada"),
        ("Quadro RTX 6000", 24, "Quadro RTX 6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 96, "RTX PRO 6000"),
        ("NVIDIA H100 NVL", 94, "H100 NVL"),
        ("NVIDIA RTX 9999", 24, None),
    ],
)
def test_a_reported_card_has_the_rates_of_its_own_row_or_none(
    reported: str, gib: int, row: str | None
) -> None:
    found = this_card(OneCard(reported, None, gib))  # type: ignore[arg-type]
    if row is None:
        assert found.half == found.single == found.bandwidth == 0
    else:
        expected = CARDS[row]
        assert (found.half, found.bandwidth) == (expected.half, expected.bandwidth)


# Models


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors: dict[str, np.ndarray] = {"positions": np.zeros(10, np.int64)}
    for layer in range(12):
        tensors[f"layers.{layer}.weight"] = np.zeros((256, 256), np.float16)
        tensors[f"layers.{layer}.bias"] = np.zeros(256, np.float16)
    save_file(tensors, path)
    return path


def test_a_file_is_planned_by_its_modules(file: Path) -> None:
    found = for_file(file, card=EASY, reserve=MIB, block=BLOCK, budget="1MiB", positions=100)
    weights = 12 * (256 * 256 + 256)
    assert found.modules == 13
    assert found.weights == 2 * weights + 80
    assert found.activations is None
    # The weights' own bytes take longer to read than their two operations a position.
    assert found.resident == pytest.approx(
        12 * max(2 * 100 * 256 * 256 / 1e12, 131584 / 1e12), 0.01
    )
    sizes = {each.name: each.nbytes for each in found.precisions}
    assert sizes == {
        "fp32": 4 * weights + 80,
        "fp16": found.weights,
        "bf16": found.weights,
        "int8": weights + 80,
    }
    assert {each.name: each.fits for each in found.precisions}["int8"]
    assert not found.fits


def test_modules_are_used_in_the_order_of_their_numbers(file: Path) -> None:
    from vramx.checkpoints import read_checkpoint
    from vramx.forecast.models import group

    names = [part.name for part in group(read_checkpoint(file), 1)]
    numbers = [int(name.split(".")[1]) for name in names if name]
    assert numbers == list(range(12))


@pytest.mark.parametrize("positions", [0, -1, 1.5, True])
def test_positions_are_whole_numbers(file: Path, positions: Any) -> None:
    with pytest.raises(vramx.ConfigError, match="positions"):
        for_file(file, card=EASY, positions=positions)


def test_a_modules_operations_order_and_activations_come_from_a_sample() -> None:
    torch = pytest.importorskip("torch")
    from vramx.integrations.torch.sample import sample_pass

    class Backwards(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Linear(256, 64, bias=False)
            self.first = torch.nn.Linear(128, 256, bias=False)

        def forward(self, x: Any) -> Any:
            return self.last(torch.relu(self.first(self.first(x)[:, :128])))

    module = Backwards()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    uses, activations = sample_pass(module, [torch.ones(10, 128)], {})
    assert [use.name for use in uses] == ["first", "first", "last"]
    assert [use.operations for use in uses] == [2 * 10 * 128 * 256] * 2 + [2 * 10 * 256 * 64]
    assert [use.nbytes for use in uses] == [4 * 128 * 256] * 2 + [4 * 256 * 64]
    # The input, which the caller holds, and the two of the first part's results that relu has.
    assert activations >= 4 * 10 * (128 + 256 + 256)
    assert activations <= 4 * 10 * (128 + 256 + 256 + 256 + 64)
    assert not any(each._forward_pre_hooks for each in module.modules())
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())


def test_a_module_without_bytes_is_planned_as_one_with_them() -> None:
    torch = pytest.importorskip("torch")
    from torch import nn

    def encoder() -> Any:
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 3)

    sample = [torch.ones(2, 16, 64)]
    real = for_module(
        encoder().eval(), sample, card=EASY, reserve=MIB, block=BLOCK, backend="simulated"
    )
    with torch.device("meta"):
        empty = encoder().eval()
    planned = for_module(empty, sample, card=EASY, reserve=MIB, block=BLOCK, backend="simulated")
    assert (planned.weights, planned.modules) == (real.weights, real.modules)
    assert planned.resident == real.resident > 0
    layer = 2 * 32 * (3 * 64 * 64 + 64 * 64 + 2 * 64 * 128) + 2 * 2 * 2 * 16 * 16 * 64
    assert real.resident >= 3 * layer / 1e11


def test_what_torch_keeps_on_a_real_card_comes_off_the_budget_too() -> None:
    torch = pytest.importorskip("torch")
    module, sample = torch.nn.Sequential(torch.nn.Linear(64, 64)), [torch.ones(4, 64)]
    given: dict[str, Any] = {"card": EASY, "reserve": MIB, "block": BLOCK, "budget": "64MiB"}
    alone = for_module(module, sample, backend="simulated", **given)
    assert alone.activations is not None
    with pytest.raises(vramx.ConfigError, match="less than one block"):
        for_module(module, sample, backend="mapped", **given)
    roomy = replace(EASY, memory=256 * MIB)
    real = for_module(module, sample, backend="mapped", **{**given, "card": roomy, "budget": None})
    assert real.activations == alone.activations + WORKSPACES


def test_tied_weights_count_once() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64))
    module[1].weight = module[0].weight
    found = for_module(
        module, [torch.ones(1, 64)], card=EASY, reserve=MIB, block=BLOCK, backend="simulated"
    )
    assert found.weights == 4 * (64 * 64 + 64)


def test_what_cannot_be_sampled_is_refused_by_name() -> None:
    torch = pytest.importorskip("torch")

    class Branching(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x) if x.sum() > 0 else x

    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = torch.nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return x

    for module, message in (
        (Branching(2, 2), "depends on values"),
        (Idle(), "called none"),
        (torch.nn.ReLU(), "no weights"),
        ("model", "not a torch.nn.Module"),
    ):
        with pytest.raises(vramx.ConfigError, match=message):
            for_module(module, [torch.ones(1, 2)], card=EASY)


def test_the_command_says_the_same_in_text_and_json(file: Path) -> None:
    arguments = ["forecast", str(file), "--budget", "1MiB", "--card", "rtx3060", "--block", "64KiB"]
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    expected = for_file(file, budget="1MiB", card="RTX 3060", block="64KiB")
    assert told == json.loads(json.dumps(expected.as_dict()))
    text = CliRunner().invoke(main, arguments).stdout
    assert expected.text() == text.rstrip("\n")
    assert "estimated" in text
    assert "does not fit" in text


def test_the_command_refuses_in_one_line(file: Path) -> None:
    for arguments, said in (
        (["--card", "RTX 9999"], "not known"),
        (["--card", "L4", "--budget", "much"], "not a size"),
        (["--card", "L4", "--budget", "1TiB"], "more than"),
    ):
        done = CliRunner().invoke(main, ["forecast", str(file), *arguments])
        assert done.exit_code == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
