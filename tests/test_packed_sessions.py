"""Packed copies in sessions: when there are any, what is told of them, and the same bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import vramx
from vramx.bench import bench
from vramx.config import COMPRESS
from vramx.hostram import HostRam
from vramx.seeing.picture import picture_of
from vramx.seeing.timeline import bytes_on_card, requests

pytestmark = pytest.mark.usefixtures("no_open_session", "one_thread")

MIB = 2**20
WIDTH, LAYERS = 512, 24
#: A layer's bytes in bfloat16: a block.
BLOCK = 2 * WIDTH * WIDTH
X = torch.ones(1, WIDTH, dtype=torch.bfloat16)
OpenOne = Callable[..., vramx.Session]


class Timed(nn.Linear):
    """A layer of one block that takes a quarter of the time that the link takes for it."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if vramx.session.session.open_sessions:
            vramx.current_session().device.compute(BLOCK / 25e9 / 4)
        return super().forward(x)


def layers(count: int = LAYERS) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Timed() for _ in range(count)))


@pytest.fixture
def open_one(monkeypatch: pytest.MonkeyPatch) -> OpenOne:
    """Open a session on a card that can unpack, with a budget in blocks."""
    monkeypatch.delenv("VRAMX_COMPRESS", raising=False)

    def opened(budget: float, **options: Any) -> vramx.Session:
        with vramx.simulate(
            capacity="256MiB",
            link="25GB/s",
            latency=0.0,
            unpack_rate=options.pop("rate", "1TB/s"),
            host_memory=options.pop("host_memory", None),
        ):
            return vramx.oversubscribe(
                int(budget * BLOCK), backend="simulated", block=BLOCK, **options
            )

    return opened


def settled(session: vramx.Session, model: nn.Module) -> None:
    for _ in range(8):
        model(X)
    assert session.plan() is not None


# When there are any


@pytest.mark.parametrize("compress", COMPRESS)
@pytest.mark.parametrize("fits", [True, False])
def test_weights_are_packed_as_the_program_says(
    open_one: OpenOne, compress: str, fits: bool
) -> None:
    with open_one(7 if fits else 6, compress=compress) as session:
        session.manage(layers(7))
        packed = session.stats().packed_on_host
    if compress == "always" or (compress == "auto" and not fits):
        assert 0.6 < packed / (7 * BLOCK) < 0.69
    else:
        assert packed == 0


def test_auto_packs_all_modules_once_they_exceed_the_budget_together(open_one: OpenOne) -> None:
    with open_one(7) as session:
        first, second = layers(4), layers(4)
        session.manage(first)
        assert session.stats().packed_on_host == 0
        session.manage(second)
        assert all(0 < each.packed_on_host < each.nbytes for each in session.modules())


@pytest.mark.parametrize("given", ["Auto", "", True, 1, "lossy"])
def test_other_names_are_refused_before_a_session_opens(open_one: OpenOne, given: Any) -> None:
    with pytest.raises(vramx.ConfigError, match=r"unknown compress .*auto, always, never"):
        open_one(4, compress=given)
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()


def test_the_environment_chooses_where_the_program_does_not(
    open_one: OpenOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packs(**options: str) -> bool:
        with open_one(7, **options) as session:
            session.manage(layers(2))
            return session.stats().packed_on_host > 0

    monkeypatch.setenv("VRAMX_COMPRESS", "always")
    assert packs()
    assert not packs(compress="auto")
    monkeypatch.setenv("VRAMX_COMPRESS", "")
    assert not packs()
    monkeypatch.setenv("VRAMX_COMPRESS", "yes")
    with pytest.raises(vramx.ConfigError, match="VRAMX_COMPRESS is 'yes'; set it to one of auto"):
        open_one(7)


def test_a_card_that_cannot_unpack_has_none(open_one: OpenOne) -> None:
    with open_one(6, compress="always", rate=None) as session:
        session.manage(layers(7))
        assert session.stats().packed_on_host == 0


def test_a_weight_that_is_written_becomes_raw_and_its_change_holds(open_one: OpenOne) -> None:
    plain = layers()
    with open_one(20, compress="always") as session:
        model = session.manage(layers())
        settled(session, model)
        before = session.modules()[3]
        with torch.no_grad():
            for each in (plain[3], model[3]):
                each.weight.mul_(2)
        for _ in range(3):
            assert torch.equal(model(X), plain(X))
        assert before.packed_on_host > 0
        assert session.modules()[3].packed_on_host == 0
        assert session.modules()[4].packed_on_host > 0


# What is told of them


@pytest.mark.parametrize("budget", [15, 20])
def test_the_link_s_bytes_stand_beside_the_raw_ones(open_one: OpenOne, budget: int) -> None:
    plain = layers()
    with open_one(budget) as session:
        model = session.manage(layers(), name="net")
        packing = session.device.moved_in  # what packing moves is no fetch
        settled(session, model)
        stats = session.stats()
        assert stats.crossed_in == session.device.moved_in - packing
        assert 0 < stats.crossed_in < stats.moved_in
        modules = session.modules()
        for name in ("moved_in", "crossed_in", "packed_on_host", "packed_on_card"):
            assert sum(getattr(each, name) for each in modules) == getattr(stats, name)
        assert 0 < stats.packed_on_card <= stats.packed_on_host
        assert stats.packed_on_card < stats.resident <= stats.budget
        report = session.report()
        costly = max(modules, key=lambda each: each.stall_seconds)
        line = next(each for each in report.splitlines() if each.startswith(costly.name))
        assert f"{vramx.units.format_size(costly.crossed_in)} for" in line
        assert f"{vramx.units.format_size(stats.packed_on_card)}" in report
        assert torch.equal(model(X), plain(X))


def test_raw_bytes_cross_the_link_as_they_are(open_one: OpenOne) -> None:
    with open_one(15, compress="never") as session:
        model = session.manage(layers())
        settled(session, model)
        assert session.stats().crossed_in == session.stats().moved_in
        assert " for " not in session.report()


@pytest.mark.parametrize("most_events", [2**18, 40])
@pytest.mark.parametrize("budget", [15, 20])
def test_a_trace_s_bytes_are_those_of_the_card_and_the_link(
    open_one: OpenOne, budget: int, most_events: int
) -> None:
    with open_one(budget) as session:
        model = session.manage(layers(), name="net")
        for _ in range(2):
            model(X)
        before = session.stats()
        trace = session.trace(most_events=most_events)
        with trace:
            for _ in range(6):  # in which a plan begins
                model(X)
            session.set_budget((budget - 1) * BLOCK)
            model(X)
        after = session.stats()
    assert bytes_on_card(trace.log)[-1][1] == after.resident
    assert max(size for _, size in bytes_on_card(trace.log)) <= session.device.peak_on_card
    if trace.lost:
        return
    crossed = sum(each.crossed for each in requests(trace.log) if each.comes)
    assert crossed == after.crossed_in - before.crossed_in
    names = {event["name"].split()[0] for event in trace.chrome()["traceEvents"]}
    assert {"unpack", "fetch", "drop"} <= names
    moves = [e for e in trace.chrome()["traceEvents"] if e.get("cat") == "move"]
    link = sum(e["args"]["link_bytes"] for e in moves if "fetch" in e["name"])
    assert link == crossed
    picture = picture_of(trace.log, "a card")
    assert "packed" in picture.colours
    assert any(span.state == "packed" for row in picture.rows for span in row.spans)


def test_what_is_given_up_leaves_no_packed_bytes_behind(open_one: OpenOne) -> None:
    with open_one(20) as session:
        model = session.manage(layers())
        settled(session, model)
        assert session.stats().packed_on_card > 0
        with session.trace() as trace:
            session.unmanage(model)
        stats = session.stats()
        assert (stats.packed_on_host, stats.packed_on_card, stats.resident) == (0, 0, 0)
    assert bytes_on_card(trace.log)[-1][1] == 0
    assert {each.kind for each in trace.log.events} >= {"let_go", "reserved"}


def test_a_picture_without_packed_copies_does_not_name_them(open_one: OpenOne) -> None:
    with open_one(15, compress="never") as session, session.trace() as trace:
        model = session.manage(layers())
        model(X)
    assert "packed" not in picture_of(trace.log, "a card").colours


def test_a_benchmark_compares_with_what_packed_copies_reach() -> None:
    with vramx.simulate(capacity="1GiB", link="10GB/s", latency=0.0, unpack_rate="400GB/s"):
        found = bench(["simulated"], weights="32MiB", ratios=(1.5,))
    (row,) = found.rows
    assert found.right
    assert row.t_packed < row.t_fluid
    assert row.crossed < row.moved
    assert f"{row.seconds / row.t_packed:.3f}" in found.text()


def test_auto_leaves_the_host_memory_that_others_need(
    open_one: OpenOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarce = HostRam(total=100 * BLOCK, available=LAYERS * BLOCK // 2, group_limit=None)
    monkeypatch.setattr("vramx.session.packing.host_ram", lambda: scarce)
    with open_one(LAYERS / 2) as session:
        with pytest.warns(RuntimeWarning, match="no packed copies, which would take about"):
            session.manage(layers())
        assert session.stats().packed_on_host == 0
    with open_one(LAYERS / 2, compress="always") as session:
        session.manage(layers())
        assert session.stats().packed_on_host > 0


@pytest.mark.parametrize("packs", [True, False])
def test_who_cannot_pack_is_not_told_of_scarce_memory(
    open_one: OpenOne, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    scarce = HostRam(total=100 * BLOCK, available=BLOCK, group_limit=None)
    monkeypatch.setattr("vramx.session.packing.host_ram", lambda: scarce)
    with open_one(6, rate="1TB/s" if packs else None) as session:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            session.manage(layers(7))
            session.manage(layers(1))
        assert len(told) == packs


def test_where_the_host_runs_out_while_packing_it_is_told_once_and_the_rest_stays_raw(
    open_one: OpenOne,
) -> None:
    plain = layers()
    room = LAYERS * BLOCK + 17 * BLOCK // 4  # the last quarter is too little for a packed copy
    with open_one(LAYERS / 2, compress="always", host_memory=room) as session:
        with pytest.warns(RuntimeWarning, match="of weights get no packed copies: the sim") as told:
            model = session.manage(layers())
            session.manage(nn.Linear(240, 240, bias=False, dtype=torch.bfloat16))
        raw = sum(each.nbytes for each in session.modules()[:LAYERS] if not each.packed_on_host)
        assert 0 < raw < LAYERS * BLOCK
        assert [str(each.message).split(" of ")[0] for each in told] == [
            vramx.units.format_size(raw)
        ]
        for _ in range(4):
            assert torch.equal(model(X), plain(X))


# After a change of the budget


def test_auto_packs_at_the_next_call_what_a_smaller_budget_does_not_hold(
    open_one: OpenOne,
) -> None:
    with open_one(20) as session:
        pairs = [(session.manage(layers(8)), layers(8)) for _ in range(2)]
        for model, plain in pairs:
            assert torch.equal(model(X), plain(X))
        session.set_budget(16 * BLOCK)
        model(X)
        assert session.stats().packed_on_host == 0  # all fits
        session.set_budget(10 * BLOCK)
        assert session.stats().packed_on_host == 0
        for called, (model, plain) in enumerate(pairs, start=1):
            with torch.no_grad():
                for each in (model, plain):
                    each[2].weight.mul_(2)
            assert torch.equal(model(X), plain(X))
            packed = [each.packed_on_host > 0 for each in session.modules()]
            assert packed == [place < 8 * called for place in range(16)]


@pytest.mark.parametrize("compress", ["auto", "never"])
def test_a_budget_that_changes_within_a_call_leaves_its_weights_alone(
    open_one: OpenOne, compress: str
) -> None:
    class Shrinking(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self[0](x)
            session.set_budget(6 * BLOCK)
            x = self[1](x)
            assert session.stats().packed_on_host == 0
            return x

    with open_one(20, compress=compress) as session:
        model = session.manage(Shrinking(layers(4), layers(4)))
        model(X)
        assert session.stats().packed_on_host == 0
        for _ in range(2):  # the first goes on with the pass
            model[0](X)
        assert (session.stats().packed_on_host > 0) == (compress == "auto")


def test_what_was_packed_or_not_worth_it_is_not_tried_again(
    open_one: OpenOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16)
    random.weight.data.view(torch.int16).random_()
    with open_one(20) as session:
        model = session.manage(nn.Sequential(random, *layers(9)))
        tried = []
        packing = session._packing
        make = packing.make
        monkeypatch.setattr(
            packing, "make", lambda weights: tried.append(len(weights)) or make(weights)
        )
        for budget in (8, 12, 8, 20, 6):
            session.set_budget(budget * BLOCK)
            for _ in range(2):
                model(X)
        assert tried == [10]
        assert [each.packed_on_host > 0 for each in session.modules()] == [False] + 9 * [True]


def test_what_is_pinned_is_packed_after_the_next_change(open_one: OpenOne) -> None:
    with open_one(20) as session:
        model = session.manage(layers(8))
        other = session.manage(layers(8))
        with session.pin(model):
            session.set_budget(12 * BLOCK)
            model(X)
            other(X)
            assert [each.packed_on_host > 0 for each in session.modules()] == 8 * [False] + 8 * [
                True
            ]
        session.set_budget(11 * BLOCK)
        model(X)
        assert all(each.packed_on_host for each in session.modules())


def test_where_the_card_has_no_room_to_pack_it_is_tried_after_the_next_change(
    open_one: OpenOne,
) -> None:
    with open_one(12, compress="always") as session:
        other = session.manage(layers(8))
        with session.pin(other):
            session.set_budget(8 * BLOCK)
            model = session.manage(layers(4))
            assert not any(each.packed_on_host for each in session.modules()[8:])
        model(X)
        assert not any(each.packed_on_host for each in session.modules()[8:])
        session.set_budget(9 * BLOCK)
        model(X)
        assert all(each.packed_on_host for each in session.modules()[8:])


def test_what_fails_while_packing_is_told_by_that_call_and_the_next_one_is_right(
    open_one: OpenOne,
) -> None:
    plain = layers(8)
    with open_one(20) as session:
        model = session.manage(layers(8))
        session.set_budget(6 * BLOCK)
        session.device.fail(vramx._core.Operation.PACK, 3)
        with pytest.raises(vramx.DeviceError, match="pack"):
            model(X)
        assert session.stats().leased == 0
        for _ in range(4):
            assert torch.equal(model(X), plain(X))


def test_a_watched_budget_packs_in_the_program_s_calls_alone(open_one: OpenOne) -> None:
    class Card:
        left = 64 * BLOCK

        def free(self) -> int:
            return self.left

    with open_one(20) as session:
        model = session.manage(layers(8))
        model(X)
        card = Card()
        watcher = session.watch_budget(reserve=4 * BLOCK, card=card, every=1e6)
        card.left = 0
        watcher.look()
        assert session.stats().budget < 8 * BLOCK
        assert session.stats().packed_on_host == 0
        model(X)
        assert session.stats().packed_on_host > 0


def test_a_module_that_runs_is_packed_when_the_next_one_is_managed(open_one: OpenOne) -> None:
    with open_one(LAYERS + 4) as session:
        running = session.manage(layers())
        assert session.stats().packed_on_host == 0  # all fits
        with session.pin(running):
            session.manage(layers(8))
            some = session.stats().packed_on_host
        session.manage(layers(1))
        assert 0 < some < session.stats().packed_on_host / 2
