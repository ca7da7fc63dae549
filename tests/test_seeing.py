"""What a session shows of itself: counts by module and the plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx

BLOCK = 64 * 2**10
SECONDS = BLOCK / 1e9  # that a block takes on the link
BYTES = ("moved_in", "moved_out", "dropped", "discarded", "over_link")
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

many = settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def total(modules: Sequence[vramx.ModuleStats], name: str) -> Any:
    return sum(getattr(each, name) for each in modules)


def causes(modules: Sequence[vramx.ModuleStats], name: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    for each in modules:
        counted.update(getattr(each, name))
    return counted


def agree(session: vramx.Session, other_stalls: float = 0.0) -> None:
    """The modules' counts are the session's, whose only memory they are."""
    modules, stats = session.modules(), session.stats()
    for name in (*BYTES, "hits", "misses", "resident"):
        assert total(modules, name) == getattr(stats, name), name
    assert causes(modules, "evicted").total() == stats.evictions
    came = causes(modules, "fetched").total()
    assert came == stats.evictions + stats.resident // BLOCK
    assert total(modules, "stall_seconds") + other_stalls == pytest.approx(stats.stall_seconds)


class Timed(nn.Linear):
    """A layer of one block that takes virtual time."""

    def __init__(self, session: vramx.Session, seconds: float) -> None:
        super().__init__(128, 128, bias=False)
        self.session, self.seconds = session, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.session.device.compute(self.seconds)
        return super().forward(x)


def timed(session: vramx.Session, count: int, seconds: float = SECONDS / 2) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [Timed(session, seconds) for _ in range(count)]
    return session.manage(nn.Sequential(*layers), name="net")


@many
@given(
    policy=st.sampled_from(["adaptive", "lru", "mru", "clairvoyant"]),
    budget=st.integers(2, 12),
    reads_over_link=st.booleans(),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["pass", "use", "use", "evict", "prefetch", "budget", "write", "load"]),
            st.integers(0, 11),
        ),
        max_size=12,
    ),
)
def test_the_modules_counts_add_up_to_the_session_s(
    open_session: OpenSession,
    policy: str,
    budget: int,
    reads_over_link: bool,
    steps: list[tuple[str, int]],
) -> None:
    x = torch.ones(1, 128)
    with open_session(budget * BLOCK, policy=policy, reads_over_link=reads_over_link) as session:
        model = timed(session, 12)
        uses: Counter[str] = Counter()
        other_stalls = 0.0  # of what is done to weights outside the modules' calls
        for what, place in steps:
            layer = model[place]
            stalled = session.device.stalled
            if what == "pass":
                model(x)
                uses.update(f"net.{i}" for i in range(12))
            elif what == "use":
                layer(x)
                uses[f"net.{place}"] += 1
            elif what == "evict":
                session.evict(layer)
            elif what == "prefetch":
                session.prefetch(layer)
            elif what == "budget":
                session.set_budget((2 + place) * BLOCK)
            elif what == "write":
                with torch.no_grad(), session.pin(layer):
                    layer.weight.add_(1)
            else:
                model.load_state_dict(model.state_dict())
            if what in ("write", "load"):
                other_stalls += session.device.stalled - stalled
            agree(session, other_stalls)
        assert {each.name: each.uses for each in session.modules() if each.uses} == uses
        assert [each.name for each in session.modules()] == [f"net.{i}" for i in range(12)]
        assert total(session.modules(), "nbytes") == session.stats().managed
    agree(session, other_stalls)
    assert {each.name: each.uses for each in session.modules() if each.uses} == uses


def test_why_blocks_come_and_leave_is_told_apart(open_session: OpenSession) -> None:
    x = torch.ones(1, 128)
    with open_session(4 * BLOCK) as session:
        model = timed(session, 8)

        def since(act: Callable[[], Any]) -> tuple[set[str], set[str]]:
            before = session.modules()
            act()
            after = session.modules()
            return tuple(  # type: ignore[return-value]
                {why for why, count in (causes(after, way) - causes(before, way)).items() if count}
                for way in ("fetched", "evicted")
            )

        assert since(lambda: session.prefetch(model[5])) == ({"prefetch"}, set())
        assert since(lambda: session.evict(model[5])) == (set(), {"evict"})
        assert "use" in since(lambda: model[0](x))[0]
        assert since(lambda: session.prefetch(model[4:8])) == ({"prefetch"}, {"prefetch"})
        assert since(lambda: session.set_budget(2 * BLOCK)) == (set(), {"budget"})
        keep_no_copy = vramx.Advice.UNSET_READ_MOSTLY
        assert since(lambda: session.advise(model, keep_no_copy)) == (set(), {"host"})
        session.advise(model, vramx.Advice.READ_MOSTLY)
        session.set_budget(4 * BLOCK)
        for _ in range(6):
            model(x)
        assert since(lambda: model(x)) == ({"plan"}, {"plan"})
    with open_session(4 * BLOCK, policy="lru") as session:
        model = timed(session, 8)
        model(x)
        assert causes(session.modules(), "fetched") == {
            "use": 8,
            "order": 0,
            "plan": 0,
            "prefetch": 0,
        }
        assert +causes(session.modules(), "evicted") == {"use": 4}
    with open_session(4 * BLOCK) as session:
        model = timed(session, 8)
        model(x)
        assert set(+causes(session.modules(), "fetched")) == {"use", "order"}
        assert "ahead" in +causes(session.modules(), "evicted")


def test_a_shared_block_s_bytes_are_divided_and_its_times_count_for_each(
    open_session: OpenSession,
) -> None:
    with open_session(2 * BLOCK) as session:
        model = session.manage(nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(4))))
        model(torch.ones(1, 64))
        for each in session.modules():
            assert (each.nbytes, each.blocks, each.moved_in) == (BLOCK // 4, 1, BLOCK // 4)
            assert each.fetched["use"] == 1
        assert total(session.modules(), "moved_in") == session.stats().moved_in


def test_stalls_count_for_the_module_that_waited(open_session: OpenSession) -> None:
    x = torch.ones(1, 128)
    with open_session(3 * BLOCK, policy="lru") as session:
        model = timed(session, 3, seconds=0.0)
        model(x)
        assert [each.stall_seconds for each in session.modules()] == pytest.approx([SECONDS] * 3)
        model(x)
        assert total(session.modules(), "stall_seconds") == pytest.approx(3 * SECONDS)


def test_unmanaged_modules_keep_their_counts_by_name(open_session: OpenSession) -> None:
    x = torch.ones(1, 128)
    with open_session(2 * BLOCK) as session:
        for round_ in range(1, 4):
            layer = session.manage(nn.Linear(128, 128, bias=False), name="layer")
            layer(x)
            session.unmanage(layer)
            (module,) = session.modules()
            assert (module.name, module.uses, module.nbytes) == ("layer", round_, BLOCK)
            assert module.fetched["use"] == round_
        agree(session)


# The plan


@many
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(12, 40),
    part=st.floats(0.3, 0.9),
    share=st.floats(0.05, 3.0),
)
@example(seed=191, count=12, part=0.5, share=1.46875)
def test_the_plan_predicts_a_pass_s_bytes_exactly_and_its_time_within_a_hundredth(
    open_session: OpenSession, seed: int, count: int, part: float, share: float
) -> None:
    random_ = random.Random(seed)
    frames = max(6, int(part * count))
    x = torch.ones(1, 128)
    with open_session(frames * BLOCK) as session:
        layers = [Timed(session, share * SECONDS * random_.random()) for _ in range(count)]
        model = session.manage(nn.Sequential(*layers))
        for _ in range(7):
            model(x)
        before, stalled = session.stats(), session.device.stalled
        rounds = 3
        for _ in range(rounds):
            model(x)
        after, plan = session.stats(), session.plan()
        assert plan is not None
        # By the stream's clock: the link's may lag behind it, and catch up for long.
        work = rounds * sum(each.seconds for each in layers)
        seconds = work + session.device.stalled - stalled
        if plan.unpacked == 0:  # how unpacking waits for its turn is not predicted so finely
            assert rounds * plan.seconds == pytest.approx(seconds, rel=0.01)
        assert rounds * plan.moved_in == after.crossed_in - before.crossed_in
        assert rounds * plan.moved_out == after.moved_out - before.moved_out
        assert plan.bound_seconds <= plan.seconds * 1.000001
        assert (plan.uses, plan.used) == (count, count * BLOCK)
        assert plan.kept == total(session.modules(), "kept")
        # Each block is used once.
        assert rounds * (plan.used - plan.kept) == after.moved_in - before.moved_in
        assert plan.compute_seconds == pytest.approx(sum(each.seconds for each in layers))
        assert plan.passes_recorded >= 1
    assert session.plan() == plan


def test_there_is_no_plan_for_what_fits_or_is_not_adaptive(open_session: OpenSession) -> None:
    x = torch.ones(1, 128)
    for policy, budget in (("adaptive", 8), ("lru", 4)):
        with open_session(budget * BLOCK, policy=policy) as session:
            model = timed(session, 8)
            for _ in range(5):
                model(x)
            assert session.plan() is None
            assert "plan" not in session.report()


# The report


def test_the_report_shows_the_plan_and_the_costliest_modules_first(
    open_session: OpenSession,
) -> None:
    x = torch.ones(1, 128)
    with open_session(20 * BLOCK) as session:
        model = timed(session, 40)
        for _ in range(6):
            model(x)
        plan = session.plan()
    assert plan is not None
    lines = session.report().splitlines()
    at = lines.index("plan from 3 recorded passes of 40 uses and 2.50 MiB")
    assert f"{vramx.units.format_seconds(plan.seconds)} a pass" in lines[at + 2]
    assert f"{vramx.units.format_size(plan.moved_in)} in" in lines[at + 2]
    table = lines[at + 4 :]
    assert table[0].split() == [
        "module",
        "bytes",
        "uses",
        "stalls",
        "in",
        "out",
        "fetched",
        "evicted",
    ]
    by_name = {each.name: each for each in session.modules()}
    shown = [by_name[line.split()[0]] for line in table[1:21]]
    stalls = [each.stall_seconds for each in shown]
    assert stalls == sorted(stalls, reverse=True)
    left_out = [each for each in by_name.values() if each not in shown]
    assert max(each.stall_seconds for each in left_out) <= stalls[-1]
    assert table[21].startswith("and 20 more")
    assert len(table) == 22
