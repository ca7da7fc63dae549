"""The adaptive policy: what it plans, how soon it gets there, and what it does when it is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vramx import _core
from vramx.seeing.plans import Plan

BLOCK = 64 * 2**10
LINK = 1e9
SECONDS = BLOCK / LINK  # that a block takes on the link
IN_FLIGHT = 4  # blocks, in DESIGN's T_plan

of_random_models = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

OpenCore = Callable[..., tuple[_core.Core, _core.SimulatedDevice]]
OpenModel = Callable[..., "Model"]


class Pass(NamedTuple):
    """What one pass did, in bytes and virtual seconds."""

    moved_in: int
    moved_out: int
    seconds: float


class Model:
    """Groups of blocks that are used one after the other, each with some virtual work."""

    def __init__(
        self,
        core: _core.Core,
        device: _core.SimulatedDevice,
        sizes: Sequence[int],
        work: Sequence[float],
    ) -> None:
        self.core, self.device, self.work = core, device, work
        self.own = 0  # blocks that each use allocates and frees
        self.memories = core.reserve([size * BLOCK for size in sizes], _core.Purpose.WEIGHTS)
        self.groups = [core.define([(m.address, m.nbytes)]) for m in self.memories]
        core.guess(self.groups)

    def run(self, order: Sequence[int] | None = None) -> Pass:
        """Use the groups once, in the order of registration or another."""
        before, began = self.core.stats(), self.device.now
        for each in range(len(self.groups)) if order is None else order:
            self.core.acquire(self.groups[each], 0)
            held = [self.core.empty(BLOCK, 0) for _ in range(self.own)]
            self.device.compute(self.work[each])
            del held
            self.core.release(self.groups[each], 0)
        after = self.core.stats()
        return Pass(
            after.moved_in - before.moved_in,
            after.moved_out - before.moved_out,
            self.device.now - began,
        )


@pytest.fixture
def open_model(open_core: OpenCore) -> OpenModel:
    """Make a model in a core of its own with a budget of so many frames, a block each."""

    def open_one(
        frames: int, sizes: Sequence[int], work: Sequence[float], *, policy: str = "adaptive"
    ) -> Model:
        return Model(*open_core(frames * BLOCK, policy=policy), sizes, work)

    return open_one


def t_plan(used: int, budget: int, compute: float, largest: int = 1) -> float:
    """DESIGN's limit, of counts of blocks."""
    return max(compute, min(used, used - budget + IN_FLIGHT * largest) * SECONDS)


@pytest.mark.parametrize("frames", [10, 24, 32, 38])
@pytest.mark.parametrize("share", [0.1, 1.0, 3.0])
def test_a_cycle_is_at_its_limit_from_the_third_pass_on(
    open_model: OpenModel, frames: int, share: float
) -> None:
    count = 48
    work = share * (count - frames) * SECONDS / count
    model = open_model(frames, [1] * count, [work] * count)
    model.run(), model.run()
    steady = [model.run() for _ in range(5)]
    for each in steady:
        assert each.seconds <= 1.01 * t_plan(count, frames, work * count)
        assert each.moved_in == steady[0].moved_in
        in_flight = each.moved_in // BLOCK - (count - frames)
        assert 1 <= in_flight <= IN_FLIGHT
        assert each.moved_out == 0
    assert model.device.peak_on_card <= frames * BLOCK


@of_random_models
@given(seed=st.integers(0, 2**32), part=st.floats(0.3, 0.9), share=st.floats(0.0, 2.0))
@example(seed=247873988, part=0.30078125, share=1.375)
def test_sizes_and_times_at_random_come_near_their_limit(
    open_model: OpenModel, seed: int, part: float, share: float
) -> None:
    random_ = random.Random(seed)
    count, largest = random_.randint(30, 80), 3
    sizes = [random_.randint(1, largest) for _ in range(count)]
    frames = max(6 * largest, int(part * sum(sizes)))
    work = [random_.random() for _ in range(count)]
    scale = share * max(1, sum(sizes) - frames) * SECONDS / sum(work)
    work = [each * scale for each in work]
    model = open_model(frames, sizes, work)
    steady = [model.run() for _ in range(6)][-1]
    assert steady.seconds <= 1.05 * t_plan(sum(sizes), frames, sum(work), largest) + 1e-9
    assert model.device.peak_on_card <= frames * BLOCK


@of_random_models
@given(seed=st.integers(0, 2**32), held_up=st.integers(0, 3), times=st.floats(3, 10))
@example(seed=162, held_up=2, times=6.0)
@example(seed=128, held_up=1, times=5.0)
def test_what_holds_up_one_pass_is_not_planned_for(
    open_model: OpenModel, seed: int, held_up: int, times: float
) -> None:
    random_ = random.Random(seed)
    count = random_.randint(40, 120)
    frames = int(count * random_.uniform(0.4, 0.8))
    work = [random_.uniform(0.5, 1.5) for _ in range(count)]
    scale = random_.uniform(1.0, 1.4) * (count - frames) * SECONDS / sum(work)
    work = [each * scale for each in work]
    begin = random_.randrange(count)
    slow = {(begin + i) % count for i in range(count // 4)}
    held = [each * times if i in slow else each for i, each in enumerate(work)]
    last = []
    for passes in ([work] * 8, [held if i == held_up else work for i in range(8)]):
        model = open_model(frames, [1] * count, work)
        for model.work in passes:
            done = model.run()
        last.append(done)
    undisturbed, disturbed = last
    assert disturbed.seconds <= 1.03 * undisturbed.seconds
    assert disturbed.moved_in <= 1.1 * undisturbed.moved_in


def test_a_use_waits_for_its_own_blocks_and_not_for_those_that_come_with_them(
    open_model: OpenModel,
) -> None:
    model = open_model(8, [2] * 4, [0.0] * 4)
    model.core.prefetch([(memory.address, memory.nbytes) for memory in model.memories])
    for count, group in enumerate(model.groups, start=1):
        model.core.acquire(group, 0)
        assert model.device.stalled == pytest.approx(2 * count * SECONDS)
        model.core.release(group, 0)


def test_another_order_is_learned_and_planned(open_model: OpenModel) -> None:
    count, frames = 40, 20
    model = open_model(frames, [1] * count, [SECONDS / 10] * count)
    first = [model.run() for _ in range(5)][-1]
    other = random.Random(3).sample(range(count), count)
    again = [model.run(other) for _ in range(8)][-1]
    assert again.seconds == pytest.approx(first.seconds)
    assert again.moved_in == first.moved_in


def test_what_fits_only_without_the_program_s_own_memory_is_planned(open_model: OpenModel) -> None:
    count, frames, own = 12, 16, 8
    model = open_model(frames, [1] * count, [SECONDS / 10] * count)
    kept = model.core.empty(own * BLOCK, 0)
    steady = [model.run() for _ in range(6)][-1]
    plan = model.core.plan()
    assert plan is not None
    assert steady.moved_in == plan.moved_in < (count - 1) * BLOCK
    assert steady.moved_out == 0
    assert model.core.stats().peak_resident <= frames * BLOCK
    assert kept.nbytes == own * BLOCK


@of_random_models
@given(
    size=st.integers(2, 6),
    count=st.integers(3, 6),
    own=st.integers(1, 4),
    more=st.integers(0, 8),
)
def test_memory_that_each_use_allocates_waits_for_nothing_that_is_fetched_ahead(
    open_model: OpenModel, size: int, count: int, own: int, more: int
) -> None:
    """As inference sessions do, of which each run allocates and frees what it works in."""
    work = 1.5 * size * SECONDS
    frames = 2 * size + own + more
    model = open_model(frames, [size] * count, [work] * count)
    model.own = own
    steady = [model.run() for _ in range(14)][10:]
    assert max(each.seconds for each in steady) <= 1.06 * count * work
    assert model.core.stats().peak_resident <= frames * BLOCK


@pytest.mark.parametrize("many", [3, 100])
def test_what_another_part_of_the_program_needs_is_no_loss_to_a_plan(
    open_model: OpenModel, many: int
) -> None:
    count, frames = 20, 12
    model = open_model(frames, [1] * (count + many), [SECONDS / 10] * (count + many))
    cycle, others = range(count), range(count, count + many)
    steady = [model.run(cycle) for _ in range(6)][-1]
    for _ in range(5):
        large = model.core.empty((frames - 1) * BLOCK, 0)
        model.run(others)
        del large
        back = [model.run(cycle) for _ in range(5)]
        assert model.core.plan() is not None
        # At most what was there comes once more.
        more = frames + IN_FLIGHT
        assert sum(p.moved_in for p in back) <= len(back) * steady.moved_in + more * BLOCK
        assert sum(p.seconds for p in back) <= len(back) * steady.seconds + more * SECONDS
        assert model.core.stats().peak_resident <= frames * BLOCK


def test_a_plan_is_made_once_there_is_room_for_one(open_model: OpenModel) -> None:
    count, frames = 20, 12
    model = open_model(frames, [2] * count, [SECONDS / 10] * count)
    large = model.core.empty((frames - 1) * BLOCK, 0)
    used = [(large.address, large.nbytes)]
    model.core.take(used, 0, True)
    for _ in range(8):
        model.run()
    assert model.core.plan() is None
    model.core.give(used, 0, True)
    del large
    steady = [model.run() for _ in range(40)][-1]
    plan = model.core.plan()
    assert plan is not None
    assert steady.moved_in == plan.moved_in < 2 * (count - 1) * BLOCK


def test_a_pass_that_departs_from_the_plan_is_right_and_the_next_one_recovers(
    open_model: OpenModel,
) -> None:
    count, frames = 40, 20
    model = open_model(frames, [1] * count, [SECONDS / 10] * count)
    steady = [model.run() for _ in range(5)][-1]
    departing = model.run([*range(15), 30, 7, 22, 3, *range(15, count)])
    assert departing.moved_in <= 1.5 * count * BLOCK
    later = [model.run() for _ in range(3)][-1]
    assert later == pytest.approx(steady)
    assert model.device.peak_on_card <= frames * BLOCK


def test_a_random_order_costs_about_what_recency_costs(open_model: OpenModel) -> None:
    count, frames = 40, 20
    moved = {}
    for policy in ("adaptive", "lru"):
        random_ = random.Random(5)
        model = open_model(frames, [1] * count, [SECONDS] * count, policy=policy)
        moved[policy] = sum(model.run(random_.sample(range(count), 12)).moved_in for _ in range(60))
    assert moved["adaptive"] <= 1.25 * moved["lru"]


def test_what_a_loop_uses_stays_while_what_comes_once_passes_through(open_model: OpenModel) -> None:
    # An encoder, a loop of ten rounds, a decoder; the loop and its neighbours do not fit together.
    sizes = [1] * 36
    frames = 20
    model = open_model(frames, sizes, [SECONDS / 4] * 36)
    order = [*range(12), *([*range(12, 24)] * 10), *range(24, 36)]
    rounds = [model.run(order) for _ in range(6)]
    assert (
        rounds[-1].moved_in <= 24 * BLOCK
    )  # the encoder's and the decoder's, and none of the loop's
    assert model.device.peak_on_card <= frames * BLOCK


def test_a_changed_budget_is_planned_at_once(open_model: OpenModel) -> None:
    count, frames = 48, 32
    model = open_model(frames, [1] * count, [SECONDS / 10] * count)
    before = [model.run() for _ in range(4)][-1]
    model.core.set_budget(20 * BLOCK)
    smaller = [model.run() for _ in range(2)][-1]
    assert smaller.seconds <= 1.01 * t_plan(count, 20, count * SECONDS / 10)
    model.core.set_budget(frames * BLOCK)
    again = [model.run() for _ in range(2)][-1]
    assert again == pytest.approx(before)
    assert model.device.peak_on_card <= frames * BLOCK


def test_what_fits_again_is_moved_no_more(open_model: OpenModel) -> None:
    model = open_model(10, [1] * 16, [SECONDS] * 16)
    for _ in range(4):
        model.run()
    model.core.set_budget(16 * BLOCK)
    model.run()
    assert model.run().moved_in == 0
    assert model.device.on_card == 16 * BLOCK


def test_nested_uses_are_planned_as_held_together(open_model: OpenModel) -> None:
    model = open_model(12, [1] * 24, [SECONDS / 10] * 24)

    def run() -> float:
        began = model.device.now
        for outer in range(0, 24, 4):
            model.core.acquire(model.groups[outer], 0)
            for inner in range(outer + 1, outer + 4):
                model.core.acquire(model.groups[inner], 0)
                model.device.compute(SECONDS / 10)
                model.core.release(model.groups[inner], 0)
            model.core.release(model.groups[outer], 0)
        return float(model.device.now - began)

    seconds = [run() for _ in range(6)][-1]
    assert seconds <= 1.1 * t_plan(24, 12, 0.0)
    assert model.device.peak_on_card <= 12 * BLOCK


def test_a_plans_text_tells_of_packed_copies_where_there_are_any() -> None:
    mib = 2**20
    raw = Plan(
        passes_recorded=3,
        uses=10,
        used=40 * mib,
        budget=30 * mib,
        kept=20 * mib,
        kept_packed=0,
        packed_copies=0,
        ahead=2 * mib,
        compute_seconds=1.0,
        seconds=2.0,
        moved_in=20 * mib,
        raw_in=20 * mib,
        unpacked=0,
        moved_out=0,
        bound_seconds=1.5,
    )
    assert not any("packed" in line or " for " in line for line in raw.lines())
    packed = replace(
        raw,
        kept_packed=12 * mib,
        packed_copies=8 * mib,
        moved_in=5 * mib,
        raw_in=8 * mib,
        unpacked=20 * mib,
    )
    text = "\n".join(packed.lines())
    assert "keeps 20.00 MiB, keeps 12.00 MiB packed in 8.00 MiB, streams 8.00 MiB" in text
    assert "5.00 MiB in for 8.00 MiB" in text
    assert "unpacks 20.00 MiB" in text
