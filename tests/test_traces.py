"""Traces: what they hold is true, they change nothing, and others can read them."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx
from loopback.control import Loopback
from vramx import _core
from vramx.seeing.timeline import Lease, bytes_on_card, leases, requests

pytest_plugins = ("loopback.fixture",)

BLOCK = 64 * 2**10
SECONDS = BLOCK / 1e9  # that a block takes on the link
MOST = 2**18
OpenSession = Callable[..., vramx.Session]
OpenCore = Callable[..., tuple[_core.Core, _core.SimulatedDevice]]
Linears = Callable[..., nn.Sequential]

many = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

#: What a program does: an action and which group, budget or operation it is about.
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["pass", "use", "use", "nested", "evict", "prefetch", "budget", "fail", "forget"]
        ),
        st.integers(0, 9),
    ),
    max_size=20,
)


class Program:
    """Ten groups of one or two blocks, the last two of which share one."""

    def __init__(self, core: _core.Core, device: _core.SimulatedDevice) -> None:
        self.core, self.device = core, device
        sizes = [BLOCK, 2 * BLOCK] * 4
        memories = core.reserve([*sizes, 2 * BLOCK], _core.Purpose.WEIGHTS)
        self.spans = [[(m.address, m.nbytes)] for m in memories]
        self.spans += [[(memories[-1].address, BLOCK)]]
        self.memories: list[Any] = memories
        self.groups = [core.define(span, f"g{i}") for i, span in enumerate(self.spans)]

    def use(self, place: int, inner: int | None = None) -> None:
        try:
            self.core.acquire(self.groups[place], 0)
        except vramx.Error:
            return
        try:
            self.device.compute(SECONDS / 3)
            if inner is not None:
                self.use(inner)
                self.device.compute(SECONDS / 3)
        finally:
            self.core.release(self.groups[place], 0)

    def do(self, what: str, which: int) -> None:
        try:
            if what == "pass":
                for place in range(10):
                    self.use(place)
            elif what == "use":
                self.use(which)
            elif what == "nested":
                self.use(which, (which + 3) % 10)
            elif what == "evict":
                self.core.evict(self.spans[which])
            elif what == "prefetch":
                self.core.prefetch(self.spans[which])
            elif what == "budget":
                self.core.set_budget((4 + which) * BLOCK)
            elif what == "fail":
                operation = (_core.Operation.FETCH, _core.Operation.EVICT)[which % 2]
                self.device.fail(operation, 1 + which // 2)
            else:
                self.memories.append(self.core.empty(BLOCK // 2, 0))
                del self.memories[9:]
                self.core.trim()
        except vramx.Error:
            pass


def replayed(log: _core.Log) -> tuple[set[int], list[tuple[int, int]]]:
    """The blocks on the card at the end, and (bytes, budget) after each event, from the log."""
    sizes = {block.serial: block.nbytes for block in log.blocks}
    held, budget, series = set(log.resident), log.budget, []
    for event in log.events:
        if event.kind == "fetched":
            assert event.block not in held
            held.add(event.block)
        elif event.kind in ("evicted", "forgotten"):
            held.remove(event.block)
        elif event.kind == "budget":
            budget = event.bytes
        series.append((sum(sizes[each] for each in held), budget))
    return held, series


def residences(log: _core.Log) -> dict[int, list[tuple[float, float]]]:
    """By block: from when to when its bytes were on the card."""
    since = dict.fromkeys(log.resident, float("-inf"))
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for request in requests(log):
        for block in request.blocks:
            if request.kind == "fetched":
                since[block] = request.ended
            else:
                found[block].append((since.pop(block), request.began))
    for block, at in since.items():
        found[block].append((at, float("inf")))
    return found


def check_log(log: _core.Log, stats: _core.Stats) -> None:
    """What must hold of every complete log."""
    held, series = replayed(log)
    sizes = {block.serial: block.nbytes for block in log.blocks}
    assert all(size <= budget for size, budget in series)
    assert sum(sizes[each] for each in held) == stats.resident
    on_card = residences(log)
    blocks = {group.serial: group.blocks for group in log.groups}
    for lease in leases(log):
        assert lease.asked <= lease.began <= lease.ended
        for block in blocks[lease.group]:
            stretches = on_card[block]
            assert any(a <= lease.began and lease.ended <= b for a, b in stretches), (
                lease,
                stretches,
            )


policies = st.sampled_from(["adaptive", "lru"])


@many
@given(before=steps, during=steps, policy=policies, budget=st.integers(4, 13))
def test_what_a_trace_tells_is_what_the_counts_tell(
    open_core: OpenCore,
    before: list[tuple[str, int]],
    during: list[tuple[str, int]],
    policy: str,
    budget: int,
) -> None:
    core, device = open_core(budget * BLOCK, policy=policy, reads_over_link=False, latency=1e-6)
    program = Program(core, device)
    for what, which in before:
        program.do(what, which)
    at_start = core.stats()
    core.begin_trace(0, MOST)
    for what, which in during:
        program.do(what, which)
    log, stats = core.end_trace(), core.stats()
    assert log.lost == 0
    check_log(log, stats)
    by_kind: dict[str, int] = defaultdict(int)
    for event in log.events:
        by_kind[event.kind] += 1
        if event.kind in ("fetched", "evicted") and event.how in ("duplicate", "move"):
            by_kind["moved_in"] += event.bytes
        if event.how == "write_back":
            by_kind["moved_out"] += event.bytes
    assert by_kind["evicted"] == stats.evictions - at_start.evictions
    assert by_kind["moved_in"] == stats.moved_in - at_start.moved_in
    assert by_kind["moved_out"] == stats.moved_out - at_start.moved_out
    assert by_kind["stalled"] == by_kind["released"] == len(leases(log))
    assert by_kind["failed"] >= stats.failed_moves - at_start.failed_moves
    # By the card's clock, too, nothing is there before there is room for it.
    assert all(size <= device.peak_on_card for _, size in bytes_on_card(log))
    check_chrome(vramx.seeing.chrome.chrome_trace(log, "a card"))


@many
@given(during=steps, policy=policies, budget=st.integers(4, 13))
def test_a_trace_changes_nothing(
    open_core: OpenCore, during: list[tuple[str, int]], policy: str, budget: int
) -> None:
    def run(traced: bool) -> tuple[Any, ...]:
        core, device = open_core(budget * BLOCK, policy=policy, latency=1e-6)
        program = Program(core, device)
        program.do("pass", 0)
        if traced:
            core.begin_trace(0, 100)
        for what, which in during:
            program.do(what, which)
        if traced:
            core.end_trace()
        program.do("pass", 0)
        stats = core.stats()
        counts = {n: getattr(stats, n) for n in dir(stats) if not n.startswith("_")}
        del counts["stall_seconds"]  # the host's, of which no two are alike
        return device.now, device.stalled, device.peak_on_card, counts

    assert run(True) == run(False)


def test_outputs_are_the_same_bits_under_a_trace(
    open_session: OpenSession, linears: Linears
) -> None:
    x = torch.randn(3, 128)
    expected = linears(12)(x)
    with open_session(5 * BLOCK) as session:
        model = session.manage(linears(12))
        with session.trace():
            for _ in range(5):
                assert torch.equal(model(x), expected)


@many
@given(during=steps, most=st.integers(1, 60))
def test_of_too_many_events_the_newest_are_kept(
    open_core: OpenCore, during: list[tuple[str, int]], most: int
) -> None:
    def run(most_events: int) -> tuple[_core.Log, _core.Stats]:
        core, device = open_core(8 * BLOCK, reads_over_link=False)
        program = Program(core, device)
        core.begin_trace(0, most_events)
        for what, which in [("pass", 0), *during]:
            program.do(what, which)
        return core.end_trace(), core.stats()

    def told(event: _core.Event) -> tuple[Any, ...]:
        return event.kind, event.cause, event.block, event.group, event.bytes, event.ended

    whole, _ = run(MOST)
    log, stats = run(most)
    assert len(log.events) == min(most, len(whole.events))
    assert log.lost == len(whole.events) - len(log.events)
    assert [told(e) for e in log.events] == [told(e) for e in whole.events[log.lost :]]
    held, series = replayed(log)
    assert sum(b.nbytes for b in log.blocks if b.serial in held) == stats.resident
    assert all(size <= budget for size, budget in series)
    check_chrome(vramx.seeing.chrome.chrome_trace(log, "a card"))


def check_chrome(trace: dict[str, Any]) -> None:
    """The documented format, and what viewers ask of the events of one track."""
    trace = json.loads(json.dumps(trace, allow_nan=False))
    last = float("-inf")
    ends: dict[tuple[int, int], list[float]] = defaultdict(list)
    named, used = set(), set()
    for event in trace["traceEvents"]:
        phase, track = event["ph"], (event["pid"], event["tid"])
        assert isinstance(event["name"], str)
        if phase == "M":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            named.add(track)
            continue
        used.add(track)
        at = round(event["ts"] * 1e3)
        assert at >= max(last, 0)
        last = at
        if phase == "X":
            stack, end = ends[track], at + round(event["dur"] * 1e3)
            assert end >= at
            while stack and stack[-1] <= at:
                stack.pop()
            assert not stack or end <= stack[-1], "two events of a track overlap in part"
            stack.append(end)
            assert isinstance(event["cat"], str)
        elif phase == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
        else:
            assert (phase, event["s"]) == ("i", "t")
    assert used <= named


def test_a_trace_shows_lanes_stalls_compute_and_the_plan(
    open_session: OpenSession, linears: Linears, tmp_path: Path
) -> None:
    x = torch.ones(1, 128)
    path = tmp_path / "out.json"
    with open_session(8 * BLOCK) as session:
        model = session.manage(linears(16), name="net")
        with session.trace(path) as trace:
            for _ in range(5):
                model(x)
            session.set_budget(9 * BLOCK)
        plan = session.plan()
    assert plan is not None
    saved = json.loads(path.read_text())
    assert saved == json.loads(json.dumps(trace.chrome()))
    check_chrome(saved)
    events = saved["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    by_category = defaultdict(list)
    for event in events:
        by_category[event.get("cat")].append(event)
    compute = by_category["compute"]
    assert [e["name"] for e in compute] == [f"net.{i}" for i in range(16)] * 5
    assert {tracks[e["tid"]].split(",")[0] for e in compute} == {"stream 0x0"}
    moves = [e for e in by_category["move"] if e["ph"] == "X"]
    assert {tracks[e["tid"]] for e in moves} == {"lane 0", "lane 1"}
    for move in moves:
        assert move["args"]["bytes"] == BLOCK * len(move["args"]["blocks"])
        assert move["args"]["cause"] in ("use", "order", "plan", "prefetch")
        assert move["dur"] == pytest.approx(move["args"]["bytes"] / 1e9 * 1e6)
    assert sum(e["args"]["bytes"] for e in moves) == session.stats().moved_in
    stalled = sum(e["dur"] for e in by_category["stall"]) / 1e6
    assert stalled == pytest.approx(session.device.stalled)
    predicted = by_category["plan"][-1]["args"]
    assert predicted["predicted_bytes_in"] == plan.moved_in
    assert predicted["predicted_seconds"] == plan.seconds
    assert [e["args"]["bytes"] for e in by_category["budget"]] == [9 * BLOCK]
    counted = [e["args"]["bytes"] for e in events if e["name"] == "bytes on the card"]
    assert max(counted) <= 8 * BLOCK


def test_leases_that_overlap_in_part_get_tracks_of_their_own(open_core: OpenCore) -> None:
    core, device = open_core(6 * BLOCK)
    memories = core.reserve([BLOCK] * 3, _core.Purpose.WEIGHTS)
    groups = [core.define([(m.address, m.nbytes)], f"g{i}") for i, m in enumerate(memories)]
    core.begin_trace(0, MOST)
    for act, place in [(core.acquire, 0), (core.acquire, 1), (core.release, 0),
                       (core.acquire, 2), (core.release, 1), (core.release, 2)]:  # fmt: skip
        act(groups[place], 0)
        device.compute(1.0)
    trace = vramx.seeing.chrome.chrome_trace(core.end_trace(), "a card")
    check_chrome(trace)
    tracks = {e["name"]: e["tid"] for e in trace["traceEvents"] if e.get("cat") == "compute"}
    assert tracks["g0"] == tracks["g2"] != tracks["g1"]


def test_a_module_that_calls_itself_has_a_span_for_each_call(open_core: OpenCore) -> None:
    core, device = open_core(6 * BLOCK)
    (memory,) = core.reserve([BLOCK], _core.Purpose.WEIGHTS)
    group = core.define([(memory.address, memory.nbytes)], "g")
    core.begin_trace(0, MOST)
    for act in (core.acquire, core.acquire, core.release, core.release):
        act(group, 0)
        device.compute(1.0)
    spans = [lease.ended - lease.began for lease in leases(core.end_trace())]
    assert spans == pytest.approx([1.0, 3.0])


def test_a_failure_is_in_the_trace_and_the_trace_is_saved(
    open_session: OpenSession, linears: Linears, tmp_path: Path
) -> None:
    path = tmp_path / "out.json.gz"
    with open_session(2 * BLOCK) as session:
        model = session.manage(linears(4))
        session.device.fail(_core.Operation.FETCH, 3)
        with pytest.raises(vramx.DeviceError), session.trace(path):
            model(torch.ones(1, 128))
    trace = json.loads(gzip.decompress(path.read_bytes()))
    check_chrome(trace)
    failures = [e["args"]["error"] for e in trace["traceEvents"] if e["name"] == "failure"]
    assert failures
    assert all("injected failure of fetch" in each for each in failures)


def test_threads_are_traced_apart(open_core: OpenCore) -> None:
    core, device = open_core(6 * BLOCK, threaded=True, reads_over_link=False)
    program = Program(core, device)
    core.begin_trace(0, MOST)
    numbers = {}

    def work(first: int) -> None:
        numbers[first] = threading.get_native_id()
        for place in [*range(first, 10, 2)] * 20:
            core.acquire(program.groups[place], first)
            core.release(program.groups[place], first)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    log = core.end_trace()
    held, series = replayed(log)
    assert all(size <= budget for size, budget in series)
    assert sum(b.nbytes for b in log.blocks if b.serial in held) == core.stats().resident
    by_thread: dict[tuple[int, int], list[Lease]] = defaultdict(list)
    for lease in leases(log):
        by_thread[lease.thread, lease.stream].append(lease)
    assert {key: len(found) for key, found in by_thread.items()} == dict.fromkeys(
        ((number, first) for first, number in numbers.items()), 100
    )
    check_chrome(vramx.seeing.chrome.chrome_trace(log, "a card"))


@pytest.mark.parametrize("kind", ["managed", "mapped"])
def test_a_card_s_trace_is_true_too(loopback: Loopback, kind: str) -> None:
    block = 2 * 2**20
    if kind == "managed":
        device: _core.Device = _core.open_managed(driver=loopback.path, ordinal=0)
    else:
        device = _core.open_mapped(driver=loopback.path, ordinal=0, unit=block)
    core = _core.Core(
        device=device,
        budget=3 * block,
        block=block,
        policy="adaptive",
        threaded=True,
        host_limit=2**63,
    )
    memories = core.reserve([block] * 6, _core.Purpose.WEIGHTS)
    groups = [core.define([(m.address, m.nbytes)], f"g{i}") for i, m in enumerate(memories)]
    core.begin_trace(0, MOST)
    for group in groups * 5:
        core.acquire(group, 0)
        core.release(group, 0)
    log = core.end_trace()
    held, series = replayed(log)
    assert not log.virtual_clock
    assert log.lane_times
    assert all(size <= budget for size, budget in series)
    assert len(held) * block == core.stats().resident
    assert len(leases(log)) == 30
    for event in log.events:
        if event.began is not None:
            assert event.began <= event.ended
    check_chrome(vramx.seeing.chrome.chrome_trace(log, "a card"))


# Bad input


def test_a_trace_records_once_and_one_at_a_time(open_session: OpenSession) -> None:
    with open_session() as session:
        first, second = session.trace(), session.trace()
        with pytest.raises(vramx.Error, match="when its recording has ended"):
            first.chrome()
        with first:
            with pytest.raises(vramx.InUseError, match="recorded already"):
                second.start()
            with pytest.raises(vramx.Error, match="records once"):
                first.start()
            with pytest.raises(vramx.Error, match="when its recording has ended"):
                assert first.lost
        first.stop()
        assert first.lost == 0
        with second:
            pass
        with pytest.raises(vramx.Error, match="records once"):
            second.start()


def test_a_trace_may_outlive_its_session(open_session: OpenSession, linears: Linears) -> None:
    session = open_session(2 * BLOCK)
    with session.trace() as trace:
        with session:
            session.manage(linears(3), name="net")(torch.ones(1, 128))
    names = {e["name"] for e in trace.chrome()["traceEvents"]}
    assert {"net.0", "net.1", "net.2", "drop net.0"} <= names
    with pytest.raises(vramx.Error, match="closed"):
        session.trace().start()


@pytest.mark.parametrize("path", ["out.txt", "out.html", "out", "out.png", "json", "out.gz"])
def test_a_trace_s_suffix_is_checked_before_anything_runs(
    open_session: OpenSession, path: str
) -> None:
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match=r"\.json or \.json\.gz, not as"):
            session.trace(path)
        with session.trace() as trace:
            pass
        with pytest.raises(vramx.ConfigError, match=r"\.json or \.json\.gz, not as"):
            trace.save(path)


def test_a_folder_that_is_not_there_is_named(open_session: OpenSession, tmp_path: Path) -> None:
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match=r"no folder .*nowhere"):
            session.trace(tmp_path / "nowhere" / "out.json")


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "many"])
def test_a_number_of_events_is_one_or_more(open_session: OpenSession, most: Any) -> None:
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match="number of 1 or more"):
            session.trace(most_events=most)


def test_an_inactive_session_saves_an_empty_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    path = tmp_path / "out.json"
    with pytest.warns(RuntimeWarning):
        session = vramx.oversubscribe(on_missing="cpu")
    with session:
        with session.trace(path) as trace:
            pass
        assert session.modules() == []
        assert session.plan() is None
    check_chrome(json.loads(path.read_text()))
    trace.picture(tmp_path / "out.html")


# Pictures


def recorded(session: vramx.Session, model: nn.Sequential) -> vramx.Trace:
    for layer in model:
        layer.register_forward_hook(lambda *_: session.device.compute(SECONDS / 2))
    with session.trace() as trace:
        for _ in range(4):
            model(torch.ones(1, 128))
        session.set_budget(5 * BLOCK)
    return trace


def test_a_page_holds_each_module_and_nothing_that_looks_like_markup(
    open_session: OpenSession, linears: Linears, tmp_path: Path
) -> None:
    with open_session(4 * BLOCK) as session:
        model = session.manage(linears(8), name="</script><b>")
        trace = recorded(session, model)
    trace.picture(tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    data = json.loads(page.split("const data = ", 1)[1].split(";\n", 1)[0])
    assert page.count("</script>") == 1
    assert "<b>" not in page
    assert "http" not in page
    assert [row["name"] for row in data["rows"]] == [f"</script><b>.{i}" for i in range(8)]
    assert data["budget"][-1][1] == 5 * BLOCK
    for row in data["rows"]:
        states = [data["states"][span[0]] for span in row["spans"]]
        assert states.count("leased") == 4
        assert states.count("arriving") >= 1
        for _, place, places, began, ended in row["spans"]:
            assert 0 <= place < places
            assert data["began"] - 1e-3 <= began <= ended <= data["ended"] + 1e-3


def test_a_picture_s_states_do_not_overlap_and_agree_with_the_bytes(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(4 * BLOCK) as session:
        model = session.manage(linears(8))
        trace = recorded(session, model)
    changes = []
    for row in vramx.seeing.timeline.rows(trace.log):
        spans = sorted((s.began, s.ended, s.state) for s in row.spans if s.state != "leased")
        for before, after in zip(spans, spans[1:]):
            assert before[1] <= after[0] + 1e-12
        for lease in (s for s in row.spans if s.state == "leased"):
            assert any(
                a <= lease.began and lease.ended <= b for a, b, s in spans if s == "resident"
            )
        changes += [(b, BLOCK) for b, _, s in spans if s == "arriving"]
        changes += [(e, -BLOCK) for _, e, s in spans if s == "leaving"]
    held, series = bytes_on_card(trace.log)[0][1], []
    for at, size in sorted(changes):
        held += size
        series.append((at, held))
    assert dict(series) == dict(bytes_on_card(trace.log)[1:])


def test_a_png_is_drawn_in_the_colours_of_the_states(
    open_session: OpenSession, linears: Linears, tmp_path: Path
) -> None:
    from PIL import Image, ImageColor

    from vramx.seeing.picture import COLOURS

    with open_session(4 * BLOCK) as session:
        model = session.manage(linears(8))
        trace = recorded(session, model)
    trace.picture(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"
        colours = {colour[:3] for _, colour in image.convert("RGB").getcolors(2**24) or ()}
    for state in ("on host", "resident", "arriving", "leased"):
        assert ImageColor.getrgb(COLOURS[state]) in colours


@pytest.mark.parametrize("path", ["out.svg", "out.json", "out"])
def test_a_picture_s_suffix_is_checked(open_session: OpenSession, path: str) -> None:
    with open_session() as session, session.trace() as trace:
        pass
    with pytest.raises(vramx.ConfigError, match=r"\.html or \.png, not as"):
        trace.picture(path)


def test_a_png_without_matplotlib_says_what_to_install(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open_session() as session, session.trace() as trace:
        pass
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(vramx.ConfigError, match=r"vramx\[plot\].*\.html"):
        trace.picture(tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []
