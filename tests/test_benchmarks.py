"""What the benchmarks rest on, as far as it shows without a card."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from benchmarks import apart, leaves, ways, workloads  # noqa: E402
from benchmarks.__main__ import main, scenarios  # noqa: E402
from benchmarks.report import Report, SkippedError, dumps  # noqa: E402
from benchmarks.scenarios import cycle, fits, peers, turns  # noqa: E402

import vramx  # noqa: E402
from vramx.bench import limits, measuring  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
KIB, MIB, GIB = 2**10, 2**20, 2**30
SMALL = {
    "linear": lambda: workloads.linear(512 * KIB, tokens=4, width=128),
    "decode": lambda: workloads.decode(0, tokens=1),
    "dit": lambda: workloads.dit(0, tokens=16, width=256, words=8),
    "unet": lambda: workloads.unet(0, tokens=64, width=32, depths=(1, 1, 1)),
}


def small(name: str) -> Any:
    try:
        return SMALL[name]()
    except ImportError as reason:
        pytest.skip(str(reason))


pytestmark = pytest.mark.usefixtures("one_thread")


def output_of(run: Any, workload: Any) -> Any:
    with torch.no_grad():
        return workloads.call(run, workload.inputs_on("cpu"))


# Models


@pytest.mark.parametrize("name", SMALL)
def test_a_model_is_the_same_every_time_and_its_output_finite(name: str) -> None:
    first, second = small(name), small(name)
    for one, other in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(one, other)
    out = output_of(first.module, first)
    assert torch.equal(out, output_of(second.module, second))
    assert out.isfinite().all()
    assert out.float().std() > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_parameters_of_one_shape_differ(name: str) -> None:
    matrices = [p for p in small(name).module.parameters() if p.ndim > 1]
    for one, other in zip(matrices, matrices[1:]):
        assert one.shape != other.shape or not torch.equal(one, other)


def test_a_model_has_about_the_weights_asked_for() -> None:
    assert workloads.linear(MIB, tokens=1, width=128).weights == MIB
    assert workloads.decode(40 * MIB, tokens=1).weights == pytest.approx(40 * MIB, rel=0.2)
    assert workloads.dit(32 * MIB, tokens=1, width=256).weights == pytest.approx(32 * MIB, rel=0.2)


def test_the_models_are_as_large_as_those_that_they_stand_for() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        flux = diffusers.FluxTransformer2DModel(guidance_embeds=True)
    assert sum(p.numel() for p in flux.parameters()) == pytest.approx(11.9e9, rel=0.01)
    assert round(22 * GIB / (66 * 3072**2 * 2)) == len(flux.transformer_blocks)


# Limits


def test_limits_are_those_of_the_design() -> None:
    found = limits.limits(weights=12 * GIB, budget=6 * GIB, link=GIB, compute=1.0)
    assert found == limits.Limits(fluid=6.0, plan=6.125, packed=6.125, lru=12.0)


def test_packed_weights_that_fit_cross_no_link_and_others_cross_it_packed() -> None:
    common = {
        "weights": 12 * GIB,
        "link": GIB,
        "compute": 1.0,
        "packed": 8 * GIB,
        "unpack": 12 * GIB,
    }
    fits = limits.limits(budget=9 * GIB, **common)
    assert fits.packed == pytest.approx(1.0 + 3.125 / 4)  # what is not kept raw is unpacked
    streams = limits.limits(budget=6 * GIB, **common)
    assert streams.packed == pytest.approx(2.0 + 0.125)
    assert streams.fluid == 6.0


def test_smaller_blocks_in_flight_are_less_room() -> None:
    found = limits.limits(weights=12 * GIB, budget=6 * GIB, link=GIB, compute=1.0, block=MIB)
    plan = 6.0 + 4 / 1024
    assert found == limits.Limits(fluid=6.0, plan=plan, packed=plan, lru=12.0)
    assert limits.budget_of(10 * MIB, 3, block=MIB) == 3 * MIB


def test_computing_is_the_limit_where_the_link_is_fast() -> None:
    found = limits.limits(weights=12 * GIB, budget=6 * GIB, link=100 * GIB, compute=1.0)
    assert found == limits.Limits(fluid=1.0, plan=1.0, packed=1.0, lru=1.0)


@pytest.mark.parametrize("budget", [12 * GIB, 13 * GIB])
def test_nothing_moves_when_all_fits(budget: int) -> None:
    found = limits.limits(weights=12 * GIB, budget=budget, link=1.0, compute=0.5)
    assert found == limits.Limits(fluid=0.5, plan=0.5, packed=0.5, lru=0.5)


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
    assert cycle.missed_limits(kind, over_plan, spread) == missed


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


CYCLE = "cycle --backend simulated --weights 4MiB --width 128 --block 64KiB"


@pytest.mark.usefixtures("no_open_session")
def test_every_count_of_tokens_and_ratio_has_a_row_that_holds_its_limits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "cycle.json"
    given = f"{CYCLE} --tokens 1 64 --ratios 1.5 2 --passes 4 --compute-ms 0.1 --json {path}"
    with vramx.simulate(link=1e9, latency=0.0):
        assert main(given.split()) == 0
    result = json.loads(path.read_text())
    assert set(result) == {"scenario", "commit", "machine", "options", "rows"}
    assert (result["scenario"], result["options"]["tokens"]) == ("cycle", [1, 64])
    rows = result["rows"]
    assert [(r["tokens"], r["ratio"]) for r in rows] == [(1, 1.5), (1, 2), (64, 1.5), (64, 2)]
    for row in rows:
        assert row["weights"] == 4 * MIB
        assert row["same_bits"]
        assert row["missed"] == []
        assert row["peak_resident"] <= row["budget"]
        assert row["moved_over_excess"] >= 1
        assert row["over_fluid"] >= row["over_plan"]
        bound_by_computing = row["tokens"] == 64
        assert (row["over_fluid"] == pytest.approx(1)) == bound_by_computing
    printed = capsys.readouterr().out.splitlines()[2:]
    assert [text.split()[1:3] for text in printed] == [
        [str(row["tokens"]), f"{row['ratio']:g}"] for row in rows
    ]


@pytest.mark.usefixtures("no_open_session")
def test_a_row_that_fails_says_why_and_the_others_follow(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "cycle.json"
    given = f"{CYCLE} --tokens 1 --ratios 1000 2 --passes 1 --compute-ms 0.01 --json {path}"
    assert main(given.split()) == 1
    failed, row = json.loads(path.read_text())["rows"]
    assert "Error: " in failed["error"]
    assert failed["error"] in capsys.readouterr().out
    assert row["same_bits"]


@pytest.mark.usefixtures("no_open_session")
@pytest.mark.parametrize(("layers", "width"), [(20, 32), (2, 1024)])
def test_what_fits_is_not_moved_and_its_cost_is_put_beside_its_limit(
    layers: int, width: int
) -> None:
    rounds = turns.Rounds("cpu", 3, 1, 64 * KIB)
    (row,) = fits.measure(rounds, ["simulated"], layers, width, tokens=2)
    assert row["same_bits"]
    assert (row["layers"], row["moved_in"]) == (layers, 0)
    assert row["per_call_s"] == (row["median_s"] - row["stock_s"]) / layers
    small = row["per_call_s"] <= fits.PER_CALL
    holds = small if width == 32 else row["over_stock"] <= fits.RATIO
    assert (row["missed"] == []) == holds
    assert any("a call" in each for each in row["missed"]) == (width == 32 and not holds)


@pytest.mark.usefixtures("no_open_session")
def test_turns_are_put_over_the_stock_turn_of_their_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rounds of five turns.
    seconds = [1.0, 2.0, 3.0, 5.0, 5.0, 10.0, 11.0, 12.0, 13.0, 13.0, 2.0, 1.0, 8.0, 9.0, 9.0]
    left = iter(seconds)

    def timed(_: Any, run: Any, passes: int) -> tuple[list[float], Any]:
        own = next(left)
        out = [run() for _ in range(passes)][-1]
        return [own] * passes, out

    monkeypatch.setattr(turns, "times_by", timed)
    for name, strided in (("prefix", False), ("strided", True)):
        own = lambda *given, strided=strided: ways.kept(strided, *given, device="cpu")  # noqa: E731
        monkeypatch.setitem(ways.WAYS, name, own)
    workload = workloads.linear(32 * 64 * KIB, tokens=4, width=128)
    cases = [turns.Case("simulated", 0.5), turns.Case("simulated", 2)]
    cases += [turns.Case("prefix", 1.25), turns.Case("strided", 1.25)]
    block = 64 * KIB
    bytes_a_second = workload.weights / 2  # half the weights take as long as stock's first pass
    rows = turns.Rounds("cpu", 3, 2, block).measure(workload, cases, lambda: bytes_a_second)
    assert [row["over_stock"] for row in rows] == [1.0, 1.1, 3.0, 4.5, 4.5]
    assert [row["best_s"] for row in rows] == [1.0, 1.0, 3.0, 5.0, 5.0]
    assert all(row["same_bits"] for row in rows)
    stock, fitting, half, *streamed = rows
    assert stock["budget"] is None
    assert stock["moved_in"] == fitting["moved_in"] == 0
    assert half["moved_in"] >= workload.weights - half["budget"] > 0
    assert half["card_bytes"] <= half["budget"]
    for each in streamed:
        assert each["moved_in"] >= workload.weights - each["budget"] > 0
    bringing = (workload.weights - half["budget"] + 4 * block) / bytes_a_second
    assert 1 < bringing < 2  # so that it is stock's first pass alone that the link outlasts
    assert half["over_plan"] == pytest.approx(3 / bringing)  # the median beside 12 / 10 and 8 / 2
    assert half["over_fluid"] > half["over_plan"]
    assert (fitting["over_plan"], stock["over_plan"]) == (fitting["over_stock"], None)
    # Virtual seconds are no bound of the clock's.
    assert [row["over_bound"] for row in rows] == [None] * 5
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()


@pytest.mark.usefixtures("no_open_session")
def test_who_cannot_take_turns_says_why_and_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise SkippedError("needs a library")

    monkeypatch.setitem(ways.WAYS, "dfloat11", missing)
    cases = [turns.Case("dfloat11"), turns.Case("simulated", 1000), turns.Case("simulated", 2)]
    rows = turns.Rounds("cpu", 1, 1, 64 * KIB).measure(small("linear"), cases)
    assert [row["who"] for row in rows] == ["stock", "simulated", "dfloat11", "simulated"]
    assert "needs a library" in rows[2]["skipped"]
    assert "Error" in rows[3]["error"]
    assert [Report.failed(row) for row in rows] == [False, False, False, True]


# Peers


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_streamed_leaves_give_the_same_bits(name: str, strided: bool) -> None:
    workload = small(name)
    expected = output_of(workload.module, workload)
    largest = max(leaves.aligned_bytes(leaf) for leaf in leaves.leaves(workload.module))
    ready = ways.kept(strided, workload.module, 3 * largest, device="cpu")
    for _ in range(3):
        assert torch.equal(output_of(ready.run, workload), expected)


@pytest.mark.parametrize(
    ("strided", "stay"), [(False, {0, 1, 2, 3, 4, 5}), (True, {2, 5, 7, 10, 13, 15})]
)
def test_a_prefix_or_every_so_many_leaves_stay_and_the_rest_is_brought_once_a_pass(
    strided: bool, stay: set[int]
) -> None:
    # Of 8 leaves in the budget 6 stay and 2 are slots.
    assert leaves.kept_in([32 * KIB] * 16, 6 * 32 * KIB, strided=strided) == stay
    workload = workloads.linear(16 * 32 * KIB, tokens=4, width=128)
    ready = ways.kept(strided, workload.module, 8 * 32 * KIB, device="cpu")
    for _ in range(2):  # the first learns the order, the second that the pass comes again
        output_of(ready.run, workload)
    before = ready.moved()
    for _ in range(4):
        output_of(ready.run, workload)
    assert ready.moved() - before == 4 * 10 * 32 * KIB


@pytest.mark.parametrize("strided", [False, True])
def test_what_stays_is_never_more_than_there_is_room_for(strided: bool) -> None:
    sizes = [7, 100, 3, 50, 50, 1, 90, 12, 8, 64]
    for room in range(400):
        kept = leaves.kept_in(sizes, room, strided=strided)
        assert sum(sizes[place] for place in kept) <= room
    assert kept == set(range(len(sizes)))


def test_streaming_needs_room_for_two_leaves() -> None:
    workload = workloads.linear(16 * 32 * KIB, tokens=4, width=128)
    with pytest.raises(ValueError, match="less than two leaves"):
        ways.kept(False, workload.module, 32 * KIB, device="cpu")


@pytest.mark.usefixtures("no_open_session")
def test_vramx_is_a_way_like_the_others() -> None:
    workload = workloads.linear(128 * MIB, tokens=4, width=2048)
    expected = output_of(workload.module, workload)
    with vramx.simulate():
        ready = ways.managed_by("simulated", workload.module, 64 * MIB)
    assert torch.equal(output_of(ready.run, workload), expected)
    assert ready.moved() == 128 * MIB
    assert ready.beside_torch() == 64 * MIB
    ready.close()


def test_what_may_exhaust_the_card_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (64 * GIB, 64 * GIB))
    ways.refuse_more_than_is_free(40 * GIB)
    with pytest.raises(SkippedError, match="give fewer weights"):
        ways.refuse_more_than_is_free(65 * GIB)


def test_every_peer_and_ratio_has_a_row_whatever_becomes_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(module: str, asked: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert (module, timeout) == (peers.__name__, 120)
        if asked["who"] == "mapped":
            return {"error": "ConfigError: unknown backend"}
        figures = {"median_s": 2.0, "over_stock": 2.0, "same_bits": True}
        return {**figures, "stock": {"who": "stock", "median_s": 1.0}}

    path = tmp_path / "peers.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(peers, "measure_apart", start)
    given = f"peers --backend managed mapped --ratios 2 4 --json {path}"
    assert main(given.split()) == 1
    rows = json.loads(path.read_text())["rows"]
    # What knows no budget runs once.
    ratios = {name: (None,) if name in ways.HEEDLESS else (2, 4) for name in ways.WAYS}
    ratios = {"managed": (2, 4), "mapped": (2, 4), **ratios}
    expected = [("stock", None), *((who, r) for who, own in ratios.items() for r in own)]
    assert [(row["who"], row.get("ratio")) for row in rows] == expected
    assert sum("unknown backend" in row.get("error", "") for row in rows) == 2
    assert "ConfigError: unknown backend" in capsys.readouterr().out


# Running


@pytest.mark.parametrize(
    ("code", "said", "result"),
    [(-9, "", "ended by SIGKILL"), (1, "a\nlast\n", "last"), (3, "", "exit status 3")],
)
def test_a_crash_is_told_by_its_last_word(code: int, said: str, result: str) -> None:
    assert apart.ended(subprocess.CompletedProcess([], code, stderr=said)) == result


def test_a_process_that_fails_or_hangs_gives_a_row() -> None:
    asked = {"who": "nobody"}
    assert "KeyError" in apart.measure_apart(peers.__name__, asked, 100)["error"]
    hung = apart.measure_apart(peers.__name__, asked, 0.01)
    assert hung["error"] == "not done after 0.01 s"


NEEDS_ONE = "cannot run here: it needs an NVIDIA card"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is there")
def test_without_a_card_it_says_that_it_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    given = [sys.executable, "-m", "benchmarks", "peers"]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, f"peers {NEEDS_ONE}" in done.stderr) == (2, True)
    pytest.importorskip("onnxruntime")
    assert main(["onnx"]) == 2
    assert f"onnx {NEEDS_ONE}" in capsys.readouterr().err


def test_every_scenario_tells_what_it_is_and_takes_its_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().err
    for name, about in scenarios().items():
        assert f"{name:<12}{about}" in listed
        if name in ("clips", "onnx", "photograph"):
            pytest.importorskip({"clips": "av", "onnx": "onnxruntime", "photograph": "PIL"}[name])
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert about in capsys.readouterr().out
    assert main(["nonsense"]) == 2


# Results


def test_results_kept_here_are_of_the_one_schema_with_a_row_a_line() -> None:
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        text = file.read_text()
        runs = json.loads(text)
        for run in runs:
            assert list(run) == ["scenario", "commit", "machine", "options", "rows"], file.name
            assert run["scenario"] == file.stem
        assert file.stem in {*scenarios(), "probe"}
        assert text == "[\n" + ",\n".join(dumps(run).rstrip("\n") for run in runs) + "\n]\n"


def test_a_table_writes_what_is_known_and_a_dash_for_what_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report("cycle", "who::text ratio:W/B:g best_s:best~ms:ms", Namespace(json=None))
    report.begin(weights=3 * MIB)
    report.add({"who": "stock", "ratio": None, "best_s": 0.0125, "note": "noted"})
    report.add({"who": "mapped", "skipped": "needs more"})
    first, heads, row, skipped = capsys.readouterr().out.splitlines()
    assert first.endswith("weights 3.00 MiB")
    assert [heads.index(head) for head in ("who", "W/B", "best ms")] == [0, 26, 37]
    assert row.split() == ["stock", "-", "12.50", "noted"]
    assert skipped.split() == ["mapped", "needs", "more"]
    assert report.rows[1] == {"weights": 3 * MIB, "who": "mapped", "skipped": "needs more"}
