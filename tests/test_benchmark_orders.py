"""The benchmark of orders that no plan knows, and the bound that it puts them over."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.scenarios import orders  # noqa: E402

import vramx  # noqa: E402

KIB, MIB = 2**10, 2**20
LAYER = 64 * KIB  # of a weight of 128 by 128, and the block of these tests

# An adaptive policy moves at most so many times what LRU does. Random experts are the worst there
# is for it: it has to learn first of which it cannot tell when they come.
MOST_OVER_LRU = {"experts": 1.06, "turns": 1.0, "budgets": 1.0}

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


def use(module: int, nbytes: int = 1, budget: int = 2) -> Any:
    return orders.Use(module, nbytes, budget)


def fewest_bytes(uses: list[Any]) -> int:
    """Try every way of keeping whole modules."""

    @functools.lru_cache(None)
    def best(place: int, kept: frozenset[int]) -> int:
        if place == len(uses):
            return 0
        now = uses[place]
        sizes = {each.module: each.nbytes for each in uses}
        brought = 0 if now.module in kept else now.nbytes
        present = kept | {now.module}
        if sum(sizes[each] for each in present) <= now.budget:
            return brought + best(place + 1, present)
        # Without bringing back at once, leaving one at a time reaches every set that fits.
        found = []
        others = sorted(present - {now.module})
        for chosen in range(2 ** len(others)):
            left = {each for i, each in enumerate(others) if chosen >> i & 1} | {now.module}
            if sum(sizes[each] for each in left) <= now.budget:
                found.append(best(place + 1, frozenset(left)))
        return brought + min(found)

    return best(0, frozenset())


budgets = st.integers(2, 4)


@given(st.lists(st.tuples(st.integers(0, 4), budgets), max_size=10))
def test_the_bound_is_the_fewest_bytes_where_all_modules_are_of_one_size(
    asked: list[tuple[int, int]],
) -> None:
    uses = [use(module, 1, budget) for module, budget in asked]
    assert orders.clairvoyant_bytes(uses) == fewest_bytes(uses)


@given(st.lists(st.integers(0, 4), max_size=10), st.lists(st.integers(1, 3), min_size=5))
def test_no_way_of_keeping_whole_modules_moves_less_than_the_bound(
    asked: list[int], sizes: list[int]
) -> None:
    uses = [use(module, sizes[module], 4) for module in asked]
    bound = orders.clairvoyant_bytes(uses)
    assert bound <= fewest_bytes(uses)
    assert bound >= sum(sizes[module] for module in set(asked))


def test_a_cycle_moves_what_does_not_fit_in_every_round() -> None:
    # By keeping all but one of the places, as Belady does: not all, as LRU does.
    uses = [use(module, 1, 3) for _ in range(9) for module in range(4)]
    assert orders.clairvoyant_bytes(uses) == 4 + (36 - 4) // 3


# The programs


def run(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    path = tmp_path / "orders.json"
    given = (
        f"orders --backend simulated --weights {51 * LAYER} --width 128 --tokens 2 --block 64KiB "
        f"--passes 12 --compute-ms 0.01 --json {path}"
    )
    with vramx.simulate(link=1e9, latency=0.0, granule="4KiB"):
        main([*given.split(), *options])
    return json.loads(path.read_text())["rows"]


@pytest.mark.parametrize("name", orders.PROGRAMS)
def test_any_order_gives_the_same_bits_within_the_budget_and_the_bounds(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lru, adaptive = run(tmp_path, "--programs", name)
    assert (lru["policy"], adaptive["policy"]) == ("lru", "adaptive")
    for row in (lru, adaptive):
        assert row["same_bits"]
        assert row["peak_resident"] <= row["budget"]
        assert row["moved_in"] >= row["bound_moved"] > 0
        assert row["seconds"] >= row["bound_s"] * (1 - 1e-5)
        assert row["written_back"] == 0
    assert adaptive["moved_in"] <= MOST_OVER_LRU[name] * lru["moved_in"]
    assert [text.split()[1:3] for text in capsys.readouterr().out.splitlines()[2:]] == [
        [name, "lru"],
        [name, "adaptive"],
    ]


def least_recently_used_bytes(uses: list[Any]) -> int:
    """Count what LRU brings, module by module."""
    kept: dict[int, int] = {}
    moved = 0
    for each in uses:
        moved += 0 if each.module in kept else each.nbytes
        kept.pop(each.module, None)
        while sum(kept.values()) + each.nbytes > each.budget:
            del kept[next(iter(kept))]
        kept[each.module] = each.nbytes
    return moved


@pytest.mark.parametrize("name", ["experts", "turns"])
def test_the_recorded_uses_are_those_that_lru_moves_bytes_for(name: str, tmp_path: Path) -> None:
    (lru,) = run(tmp_path, "--programs", name, "--policies", "lru")
    layers = orders.build(51 * LAYER, 128, torch.float32, "cpu")
    program = orders.PROGRAMS[name](layers, 12)
    with torch.no_grad():
        used = orders.modules_used(program, torch.zeros(2, 128))
    uses = [use(id(module), LAYER, lru["budget"]) for modules in used for module in modules]
    assert least_recently_used_bytes(uses) == lru["moved_in"]
    assert orders.clairvoyant_bytes(uses) == lru["bound_moved"]


def test_the_budget_is_halved_for_a_third_of_the_passes_and_comes_back() -> None:
    layers = orders.build(4 * LAYER, 128, torch.float32, "cpu")
    assert orders.budgets(layers, 6).shares == [1, 1, 0.5, 0.5, 1, 1]


def test_turns_are_uneven_and_experts_are_chosen_anew() -> None:
    layers = orders.build(51 * LAYER, 128, torch.float32, "cpu")
    with torch.no_grad():
        x = torch.zeros(2, 128)
        of_turns = orders.modules_used(orders.turns(layers, 12), x)
        of_experts = orders.modules_used(orders.experts(layers, 12), x)
    assert {len(modules) for modules in of_turns} == {34, 17}
    alike = [len(one) == len(other) for one, other in zip(of_turns, of_turns[1:])]
    assert any(alike)
    assert not all(alike)
    blocks, layers_each = 3, 1 + 2 * orders.CHOSEN
    assert {len(modules) for modules in of_experts} == {blocks * layers_each}
    assert all(one != other for one, other in zip(of_experts, of_experts[1:]))


def test_a_program_that_fails_says_why_and_the_others_follow(tmp_path: Path) -> None:
    rows = run(tmp_path, "--programs", "turns", "--policies", "nonsense", "mru")
    assert "unknown policy 'nonsense'" in rows[1]["error"]
    assert [row.get("same_bits") for row in rows] == [True, None, True]
