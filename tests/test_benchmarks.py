"""What the comparison of peers rests on, as far as it shows without a card."""

import importlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import vramx  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
by_turns = importlib.import_module("by_turns")
cyclic = importlib.import_module("cyclic")
dit = importlib.import_module("dit")
fits = importlib.import_module("fits")
images = importlib.import_module("images")
leaf_streaming = importlib.import_module("leaf_streaming")
limits = importlib.import_module("vramx.bench.limits")
measuring = importlib.import_module("vramx.bench.measuring")
models = importlib.import_module("models")
peer_kinds = importlib.import_module("peer_kinds")
peer_process = importlib.import_module("peer_process")
peers = importlib.import_module("peers")
processes = importlib.import_module("processes")
reporting = importlib.import_module("reporting")

KIB, MIB, GIB = 2**10, 2**20, 2**30
SMALL = {
    "linear": lambda: models.linear(512 * KIB, tokens=4, width=128),
    "decode": lambda: models.decode(0, tokens=1),
    "dit": lambda: models.dit(0, tokens=16, width=256, words=8),
    "unet": lambda: models.plain_unet(tokens=64, width=64, depths=(0, 1)),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def output_of(run: Any, workload: Any) -> Any:
    with torch.no_grad():
        return run(**workload.inputs_on("cpu"))


# Models


@pytest.mark.parametrize("name", SMALL)
def test_a_model_is_the_same_every_time_and_its_output_finite(name: str) -> None:
    first, second = SMALL[name](), SMALL[name]()
    for one, other in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(one, other)
    out = output_of(first.module, first)
    assert torch.equal(out, output_of(second.module, second))
    assert out.isfinite().all()
    assert out.float().std() > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_parameters_of_one_shape_differ(name: str) -> None:
    matrices = [p for p in SMALL[name]().module.parameters() if p.ndim > 1]
    for one, other in zip(matrices, matrices[1:]):
        assert one.shape != other.shape or not torch.equal(one, other)


def test_a_model_has_about_the_weights_asked_for() -> None:
    assert models.linear(MIB, tokens=1, width=128).weights == MIB
    assert models.decode(40 * MIB, tokens=1).weights == pytest.approx(40 * MIB, rel=0.2)
    assert models.dit(32 * MIB, tokens=1, width=256).weights == pytest.approx(32 * MIB, rel=0.2)


def test_the_plain_unet_is_as_large_as_sdxl() -> None:
    with torch.device("meta"):
        unet = models.UNet()
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(2.567e9, rel=0.01)


def test_the_diffusion_transformer_is_as_large_as_flux() -> None:
    with torch.device("meta"):
        flux = dit.DiffusionTransformer()
    assert sum(p.numel() for p in flux.parameters()) == pytest.approx(11.9e9, rel=0.01)
    weights = 66 * 3072**2 * 2
    assert round(22 * GIB / weights) == len(flux.doubles)


def test_a_rotation_changes_no_length_and_tells_only_how_far_apart_tokens_are() -> None:
    places = torch.tensor([[0, 0, 0], [0, 3, 5], [0, 4, 7], [0, 1, 2]])
    turn = dit.rotations(places, torch.float64)
    q, k = torch.randn(2, 1, 4, 1, 128, dtype=torch.float64).unbind()
    q, k = q[:, :1].expand_as(q), k[:, :1].expand_as(k)
    turned = dit.rotate(q, turn)
    assert torch.allclose(turned.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(turned[:, 0], q[:, 0])
    across = (turned[:, :, None] * dit.rotate(k, turn)[:, None]).sum((-1, -2))[0]
    # From the second to the third it is as far as from the first to the fourth.
    assert torch.isclose(across[1, 2], across[0, 3])
    assert not torch.isclose(across[1, 2], across[0, 2])


# Limits


def test_limits_are_those_of_the_design() -> None:
    found = limits.limits(weights=12 * GIB, budget=6 * GIB, link=GIB, compute=1.0)
    assert found == limits.Limits(fluid=6.0, plan=6.125, lru=12.0)


def test_smaller_blocks_in_flight_are_less_room() -> None:
    found = limits.limits(weights=12 * GIB, budget=6 * GIB, link=GIB, compute=1.0, block=MIB)
    assert found == limits.Limits(fluid=6.0, plan=6.0 + 4 / 1024, lru=12.0)
    assert limits.budget_of(10 * MIB, 3, block=MIB) == 3 * MIB


def test_computing_is_the_limit_where_the_link_is_fast() -> None:
    found = limits.limits(weights=12 * GIB, budget=6 * GIB, link=100 * GIB, compute=1.0)
    assert found == limits.Limits(fluid=1.0, plan=1.0, lru=1.0)


@pytest.mark.parametrize("budget", [12 * GIB, 13 * GIB])
def test_nothing_moves_when_all_fits(budget: int) -> None:
    found = limits.limits(weights=12 * GIB, budget=budget, link=1.0, compute=0.5)
    assert found == limits.Limits(fluid=0.5, plan=0.5, lru=0.5)


def test_a_budget_is_whole_blocks_and_never_above_its_share() -> None:
    assert limits.budget_of(12 * GIB, 2) == 6 * GIB
    assert limits.budget_of(100 * MIB, 1.5) == 64 * MIB
    assert limits.budget_of(30 * MIB, 1.5) == 20 * MIB
    assert limits.budget_of(100 * MIB, 1) == 100 * MIB


def test_a_percentile_of_few_values_is_the_worst() -> None:
    assert limits.nearest_rank([3.0, 1.0, 2.0], 0.99) == 3.0
    assert limits.nearest_rank([float(n) for n in range(1, 201)], 0.99) == 198.0


@pytest.mark.parametrize(
    ("kind", "over_plan", "spread", "missed"),
    [
        ("mapped", 1.05, 1.2, []),
        ("mapped", 1.06, 1.2, ["T/T_plan > 1.05"]),
        ("managed", 1.2, 1.0, []),
        ("managed", 1.21, 1.21, ["T/T_plan > 1.20", "p99/median > 1.20"]),
    ],
)
def test_a_row_names_the_limits_that_it_does_not_hold(
    kind: str, over_plan: float, spread: float, missed: list[str]
) -> None:
    assert cyclic.missed_limits(kind, over_plan, spread) == missed


# Measuring


def test_passes_are_as_many_as_fit_but_never_few_or_endless() -> None:
    assert measuring.passes_within(6.0, 0.3) == 20
    assert measuring.passes_within(6.0, 2.0) == 10
    assert measuring.passes_within(6.0, 0.001) == 30
    assert measuring.passes_within(6.0, 0.0) == 30


@pytest.mark.usefixtures("no_open_session")
def test_a_simulated_pass_takes_its_virtual_time() -> None:
    with vramx.simulate(), vramx.oversubscribe(MIB, backend="simulated", block=MIB) as session:
        card, seconds = session.device, iter([0.5, 0.25, 2.0])
        times, out = measuring.times_by(
            lambda: card.now, lambda: card.compute(next(seconds)) or "x", 3
        )
    assert times == [0.5, 0.25, 2.0]
    assert out == "x"


@pytest.mark.usefixtures("no_open_session")
def test_every_count_of_tokens_and_ratio_has_a_row_that_holds_its_limits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "cyclic.json"
    report = reporting.Report(path, cyclic.head_line, cyclic.line)
    asked = Namespace(
        backend="simulated", policy="adaptive", weights=4 * MIB, width=128, tokens=[1, 64],
        block="64KiB", ratios=[1.5, 2.0], passes=4, compute_ms=0.1, count_faults=False,
    )  # fmt: skip
    with vramx.simulate(link=1e9, latency=0.0):
        cyclic.Cyclic(asked).run(report)
    result = json.loads(path.read_text())
    assert result["weights"] == 4 * MIB
    rows = result["rows"]
    assert [(r["tokens"], r["ratio"]) for r in rows] == [(1, 1.5), (1, 2), (64, 1.5), (64, 2)]
    for row in rows:
        assert row["same_bits"]
        assert row["missed_limits"] == []
        assert row["peak_resident"] <= row["budget"]
        assert row["moved_over_excess"] >= 1
        assert (len(row["warm_up_s"]), len(row["times_s"])) == (3, 4)
        assert row["over_fluid"] >= row["over_plan"]
        bound_by_computing = row["tokens"] == 64
        assert (row["over_fluid"] == pytest.approx(1)) == bound_by_computing
    printed = capsys.readouterr().out.splitlines()[2:]
    assert [text.split()[:2] for text in printed] == [
        [str(row["tokens"]), str(row["ratio"])] for row in rows
    ]


@pytest.mark.usefixtures("no_open_session")
def test_a_row_that_fails_says_why_and_the_others_follow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = reporting.Report(None, cyclic.head_line, cyclic.line)
    asked = Namespace(
        backend="simulated", policy="adaptive", weights=4 * MIB, width=128, tokens=[1],
        block="64KiB", ratios=[1000.0, 2.0], passes=1, compute_ms=0.01, count_faults=False,
    )  # fmt: skip
    cyclic.Cyclic(asked).run(report)
    assert "Error: " in report.rows[0]["error"]
    assert report.rows[0]["error"] in capsys.readouterr().out
    assert report.rows[1]["same_bits"]


@pytest.mark.usefixtures("no_open_session")
@pytest.mark.parametrize(("layers", "width"), [(20, 32), (2, 1024)])
def test_what_fits_is_not_moved_and_its_cost_is_put_beside_its_limit(
    layers: int, width: int
) -> None:
    row = fits.measure("simulated", layers, width, tokens=2, rounds=3)
    assert row["same_bits"]
    assert (row["layers"], row["moved_in"]) == (layers, 0)
    assert row["ratio"] == row["managed_s"] / row["stock_s"]
    assert row["per_call_s"] == (row["managed_s"] - row["stock_s"]) / layers
    small = row["per_call_s"] <= fits.PER_CALL
    assert row["holds_limit"] == (small if width == 32 else row["ratio"] <= fits.RATIO)
    assert ("a call; same bits" in fits.line(row)) == (width == 32)


@pytest.mark.usefixtures("no_open_session")
def test_turns_are_put_over_the_stock_turn_of_their_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rounds of four turns.
    turns = iter([1.0, 2.0, 3.0, 5.0, 10.0, 11.0, 12.0, 13.0, 2.0, 1.0, 8.0, 9.0])

    def timed(_: Any, run: Any, passes: int) -> tuple[list[float], Any]:
        seconds = next(turns)
        out = [run() for _ in range(passes)][-1]
        return [seconds] * passes, out

    monkeypatch.setattr(by_turns, "times_by", timed)
    monkeypatch.setitem(peer_kinds.PEERS, "prefix-leaf", lambda: peer_kinds.Prefix(device="cpu"))
    workload = SMALL["unet"]()
    cases = [by_turns.Case("simulated", 0.5), by_turns.Case("simulated", 2)]
    cases += [by_turns.Case("prefix-leaf", 1.25)]
    block = 64 * KIB
    bytes_a_second = workload.weights / 2  # half the weights take as long as stock's first pass
    rows = by_turns.measure(workload, cases, 3, 2, block, lambda: bytes_a_second)
    assert [row["over_stock"] for row in rows] == [1.0, 1.1, 3.0, 4.5]
    assert [row["best_s"] for row in rows] == [1.0, 1.0, 3.0, 5.0]
    assert all(row["same_bits"] for row in rows)
    stock, fits, half, prefix = rows
    assert stock["budget"] is None
    assert stock["moved_in"] == fits["moved_in"] == 0
    assert half["moved_in"] >= workload.weights - half["budget"] > 0
    assert prefix["moved_in"] >= workload.weights - prefix["budget"] > 0
    bringing = (workload.weights - half["budget"] + 4 * block) / bytes_a_second
    assert 1 < bringing < 2  # so that it is stock's first pass alone that the link outlasts
    assert half["over_plan"] == pytest.approx(3 / bringing)  # the median beside 12 / 10 and 8 / 2
    assert (fits["over_plan"], stock["over_plan"]) == (fits["over_stock"], None)
    assert "3.000" in by_turns.line(half)
    # Virtual seconds are no bound of the clock's.
    assert [row["over_bound"] for row in rows] == [None] * 4
    assert "1.250" in by_turns.line(half | {"over_bound": 1.25})
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()


@pytest.mark.usefixtures("no_open_session")
def test_images_are_the_same_bits_in_every_budget() -> None:
    with torch.device("meta"):
        decoder = images.Decoder((32, 32))
    painter = images.Painter(
        SMALL["unet"](), models.materialise(decoder), steps=3, side=4, device="cpu"
    )
    weights = sum(p.nbytes for model in painter.models for p in model.parameters())
    cases = [("simulated", 2 * weights), ("simulated", weights // 2)]
    cases = [(who, budget // (64 * KIB) * 64 * KIB) for who, budget in cases]
    rows = [*images.compare(painter, cases, 64 * KIB, images=2)]
    assert [row["who"] for row in rows] == ["stock", "simulated", "simulated", "stock"]
    assert all(row["same_bits"] for row in rows)
    stock, fits, half, again = rows
    assert stock["over_stock"] == 1
    assert again["over_stock"] == again["image_s"] / stock["image_s"]
    assert stock["budget"] is None
    assert fits["moved_in"] == stock["moved_in"] == 0
    assert half["moved_in"] > 0
    assert half["peak_resident"] <= half["budget"]
    assert half["image_s"] >= half["first_s"] + half["pass_s"]
    assert "yes" in images.line(half)


# Peers


@pytest.mark.parametrize("name", SMALL)
def test_streamed_leaves_give_the_same_bits(name: str) -> None:
    workload = SMALL[name]()
    expected = output_of(workload.module, workload)
    largest = max(
        leaf_streaming.aligned_bytes(leaf) for leaf in leaf_streaming.leaves(workload.module)
    )
    peer = peer_kinds.Prefix(device="cpu")
    run = peer.prepare(workload.module, peer_kinds.Budget(3 * largest, 0))
    for _ in range(3):
        assert torch.equal(output_of(run, workload), expected)


def test_a_prefix_stays_and_the_rest_is_brought_once_a_pass() -> None:
    workload = models.linear(16 * 32 * KIB, tokens=4, width=128)
    peer = peer_kinds.Prefix(device="cpu")
    run = peer.prepare(workload.module, peer_kinds.Budget(8 * 32 * KIB, 0))
    for _ in range(2):  # the first learns the order, the second that the pass comes again
        output_of(run, workload)
    before = peer.moved()
    for _ in range(4):
        output_of(run, workload)
    # Of 8 leaves in the budget 6 stay and 2 are slots.
    assert peer.moved() - before == 4 * 10 * 32 * KIB


def test_streaming_needs_room_for_two_leaves() -> None:
    workload = models.linear(16 * 32 * KIB, tokens=4, width=128)
    with pytest.raises(ValueError, match="less than two leaves"):
        peer_kinds.Prefix(device="cpu").prepare(workload.module, peer_kinds.Budget(32 * KIB, 0))


@pytest.mark.parametrize("name", SMALL)
def test_leaves_one_by_one_give_the_same_bits(name: str) -> None:
    workload = SMALL[name]()
    expected = output_of(workload.module, workload)
    leaves = leaf_streaming.OneByOne(workload.module, device="cpu")
    assert torch.equal(output_of(workload.module, workload), expected)
    assert leaves.copying > 0


@pytest.mark.usefixtures("no_open_session")
def test_vramx_is_a_peer_like_the_others() -> None:
    workload = models.linear(128 * MIB, tokens=4, width=2048)
    expected = output_of(workload.module, workload)
    peer = peer_kinds.Vramx("simulated")
    with vramx.simulate():
        run = peer.prepare(workload.module, peer_kinds.Budget(64 * MIB, 0))
    assert torch.equal(output_of(run, workload), expected)
    assert peer.moved() == 128 * MIB
    assert peer.bytes_beside_torch() == 64 * MIB
    peer.close()


def test_what_may_exhaust_the_card_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (64 * GIB, 64 * GIB))
    peer_kinds.refuse_more_than_is_free(40 * GIB, peer_kinds.NAIVE_LIMIT)
    for weights, most in ((65 * GIB, None), (41 * GIB, peer_kinds.NAIVE_LIMIT)):
        with pytest.raises(peer_kinds.RefusedError, match="give fewer weights"):
            peer_kinds.refuse_more_than_is_free(weights, most)


# Rows


def figures(**changed: Any) -> dict[str, Any]:
    return {
        "machine": "a card", "torch": "2", "cuda": "13", "module": "Stack",
        "weights": 12 * GIB, "activations": GIB, "setup_s": 1.0, "warm_up_s": [2.0],
        "times_s": [1.0, 3.0, 2.0], "link": float(GIB), "moved": None, "peak_vram": 2 * GIB,
        "rss": GIB, "peak_rss": GIB, "digests": ["a", "a"], "finite": True,
    } | changed  # fmt: skip


def test_a_row_puts_times_and_bytes_over_the_limits() -> None:
    stock = figures(times_s=[0.5])
    row = peers.row("p", 2, 6 * GIB, figures(moved=9 * GIB, peak_vram=8 * GIB), stock)
    assert (row["median_s"], row["p99_s"]) == (2.0, 3.0)
    assert row["over_fluid"] == 2 / 6
    assert row["over_plan"] == 2 / 6.125
    assert row["over_lru"] == 2 / 12
    assert row["moved_over_excess"] == 1.5
    assert row["same_bits"]
    assert not row["within_budget"]


class Event:
    """Stands for an event of the card; passes take a second each."""

    made = 0

    def __init__(self, **_: Any) -> None:
        Event.made += 1
        self.at = Event.made * 1e3

    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end: "Event") -> float:
        return end.at - self.at


def test_what_a_process_measures_is_what_a_row_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = {"memory_allocated": 7, "max_memory_allocated": 100 + 7, "get_device_name": "a card"}
    for name, value in card.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(peer_process, "PinnedCopies", lambda: Namespace(to_card=lambda: 1e9))
    monkeypatch.setattr(peer_process, "timed_on_card", lambda work: work() or 2.0)
    monkeypatch.setattr(models.Workload, "inputs_on", lambda workload, _: workload.inputs)
    monkeypatch.setitem(peer_process.PEERS, "prefix-leaf", lambda: peer_kinds.Prefix("cpu"))

    workload, path = models.linear(16 * 32 * KIB, tokens=4, width=128), tmp_path / "figures.json"
    budget = peer_kinds.Budget(8 * 32 * KIB, 0)
    with torch.no_grad():
        peer_process.measure("prefix-leaf", workload, budget, 3, path)
    measured = json.loads(path.read_text())
    row = peers.row("prefix-leaf", 2, budget.weights, measured, measured)
    assert row["same_bits"]
    assert row["times_s"] == [1.0] * 3
    assert row["warm_up_s"] == [2.0, 1.0, 1.0]
    assert row["p99_over_median"] == 1.0
    assert (row["first_s"], row["peak_vram"], row["link"]) == (2.0, 100, 1e9)
    assert peers.line(row).startswith("prefix-leaf")


def test_one_wrong_pass_is_not_the_same_bits() -> None:
    row = peers.row("p", 2, 6 * GIB, figures(digests=["b", "a"]), figures())
    assert not row["same_bits"]


def test_every_peer_and_ratio_has_a_row_whatever_becomes_of_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    started = []

    def start(peer: str, budget: int, room: int) -> dict[str, Any]:
        started.append((peer, budget, room))
        if peer == "vramx-mapped":
            return {"error": "ConfigError: unknown backend"}
        return figures(note="after its passes: ended by SIGSEGV" if peer == "group-leaf" else None)

    asked = {"model": "linear", "tokens": 1, "width": None, "passes": 3}
    report = peers.report_of(Namespace(json=tmp_path / "out.json", **asked))
    assert peers.compare(list(peers.PEERS), [2.0, 4.0], start, report)

    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    whole = {"stock", "naive-managed"}
    expected = [(p, r) for p in peers.PEERS for r in ((1,) if p in whole else (2, 4))]
    assert [(row["peer"], row["ratio"]) for row in rows] == expected
    printed = capsys.readouterr().out.splitlines()[2:]
    assert [tuple(text.split()[:2]) for text in printed] == [(p, str(r)) for p, r in expected]
    assert printed[-1].endswith("ConfigError: unknown backend")
    assert sum("SIGSEGV" in text for text in printed) == 2
    # What knows no budget runs once; what does has the same room as stock torch needed.
    assert sum(peer == "accelerate" for peer, _, _ in started) == 1
    assert ("prefix-leaf", 3 * GIB, GIB) in started


def test_without_stock_torch_there_is_nothing_to_compare_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = peers.report_of(Namespace(json=None, model="dit", tokens=1, width=None, passes=3))
    assert not peers.compare(["accelerate"], [2.0], lambda *_: {"error": "no room"}, report)
    assert "no room" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "said", "result"),
    [(-9, "", "ended by SIGKILL"), (1, "a\nlast\n", "last"), (3, "", "exit status 3")],
)
def test_a_crash_is_told_by_its_last_word(code: int, said: str, result: str) -> None:
    assert processes.ended(subprocess.CompletedProcess([], code, stderr=said)) == result


def run_process(**changed: Any) -> dict[str, Any]:
    asked = {
        "model": "linear", "weights": 64 * KIB, "width": 128, "tokens": 1, "passes": 1,
        "timeout": 100,
    } | changed  # fmt: skip
    return peers.start_process(Namespace(**asked), "stock", 0, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is there")
def test_a_process_that_fails_or_hangs_gives_a_row() -> None:
    assert ":" in run_process()["error"]
    assert run_process(timeout=0.01)["error"] == "not done after 0.01 s"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is there")
def test_without_a_card_it_says_that_it_needs_one() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers.py")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "needs an NVIDIA card" in done.stderr
