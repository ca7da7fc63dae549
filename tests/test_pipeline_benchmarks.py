"""The benchmarks of pipelines and of forecasts, small and on the simulated card."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
from benchmarks import faces, footage  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.report import Report  # noqa: E402
from benchmarks.scenarios import forecast, frames  # noqa: E402

import vramx  # noqa: E402

KIB, MIB = 2**10, 2**20
BLOCK = 64 * KIB

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


# Frames


def test_frames_come_again_in_batches_and_each_differs_from_the_next() -> None:
    made = footage.make_frames(12, 16, 3)
    assert all(frame.shape == (12, 16, 3) and frame.dtype == np.uint8 for frame in made)
    assert not any(np.array_equal(a, b) for a, b in zip(made, made[1:]))
    groups = list(footage.groups_of(made, 7, 3))
    assert [len(group) for group in groups] == [3, 3, 1]
    assert groups[2][0] is made[0]


@pytest.mark.parametrize("leak", [0, 3000, 10**6, -5000])
def test_growth_is_what_is_lost_a_frame_after_caches_are_full(leak: int) -> None:
    at = list(range(100, 2001, 100))
    sizes = [10**9 + leak * frame - (10**8 if frame < 500 else 0) for frame in at]
    assert footage.growth(at, sizes) == pytest.approx(leak)
    assert footage.growth([100], [5]) == 0


def test_a_lost_frame_in_a_hundred_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = [0]
    monkeypatch.setattr(footage, "host_bytes", lambda: 10**9 + lost[0])

    def run(group: list[Any]) -> list[Any]:
        lost[0] += len(group) * (1920 * 1080 * 3) // 100
        return group

    def watched(run: Any) -> dict[str, Any]:
        made = footage.make_frames(2, 2, 2)
        return footage.watch_memory(run, made, batch=3, count=100, device="cpu")

    leaking = watched(run)
    assert not leaking["flat"]
    assert leaking["watched"] == 100
    assert leaking["host_growth"] == pytest.approx(1920 * 1080 * 3 / 100, rel=0.01)
    assert watched(lambda group: group)["flat"]


def test_batches_are_timed_after_those_in_which_plans_are_made() -> None:
    sizes: list[int] = []
    found = footage.time_frames(
        lambda group: sizes.append(len(group)) or group,
        footage.make_frames(2, 2, 2),
        batch=5,
        seconds=0,
    )
    assert found["batches"] == 3
    assert sizes == [5] * 6
    assert found["frames_per_second"] == pytest.approx(5 / found["batch_s"])


# The chain


CHAIN = {
    "program": "chain", "device": "cpu", "weights": 4 * MIB, "depth": 1, "smaller": 16, "steps": 2,
    "batches": [1, 3], "seconds": 0.0, "size": [64, 48], "block": BLOCK, "watch": 8,
}  # fmt: skip


def report() -> Report:
    return Report("frames", frames.COLUMNS, Namespace(json=None))


def start_chain(**changed: Any) -> Any:
    def start(peer: str, budget: int) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        try:
            frames.measure({**CHAIN, **changed, "peer": peer, "budget": budget}, found.append)
        except ImportError as error:
            return {"skipped": str(error)}
        return found[0]

    return start


def test_every_way_through_the_chain_makes_the_same_frames_and_vramx_in_half_the_memory(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = report()
    ways = ["one-at-a-time", "accelerate", "vramx-simulated"]
    frames.compare(ways, None, BLOCK, start_chain(), found)
    rows = [row for row in found.rows if "skipped" not in row]
    assert {row["peer"] for row in rows} >= {"stock", "one-at-a-time", "vramx-simulated"}
    for row in rows:
        assert row["same_bits"]
        assert row["watched"] == 8
    ours = [row for row in rows if row["peer"] == "vramx-simulated"]
    assert [row["batch"] for row in ours] == [1, 3]
    for row in ours:
        assert row["peak_resident"] <= row["budget"] <= row["weights"] / 2
        # What does not fit comes anew for each batch, however many frames that has.
        assert row["moved_in"] >= row["weights"] - row["budget"]
        assert row["moved_out"] == 0
        assert row["over_one_at_a_time"] is not None
    assert "vramx-simulated" in capsys.readouterr().out


def test_images_are_the_same_bits_in_a_budget_that_their_weights_exceed() -> None:
    pytest.importorskip("diffusers")
    found = report()
    own = {"program": "images", "batches": [1], "watch": 0}
    frames.compare(["vramx-simulated"], 16 * MIB, 256 * KIB, start_chain(**own), found)
    stock, ours = found.rows
    assert stock["weights"] > 16 * MIB
    assert ours["same_bits"]
    assert ours["peak_resident"] <= 16 * MIB
    # Passes of a U-Net are several, so that what does not fit comes more than once an image.
    assert ours["moved_in"] > stock["weights"] - 16 * MIB


def test_each_network_of_the_chain_counts_for_the_frames_that_come_out() -> None:
    made = footage.make_frames(48, 64, 2)
    seen: list[bytes] = []
    for changed in (None, *faces.KINDS):
        networks = faces.build_networks(4 * MIB, 1)
        if changed is not None:
            with torch.no_grad():
                networks[changed].outward.weight.neg_()
        values: list[Any] = made
        with torch.inference_mode():
            for step in faces.build_steps(networks, "cpu", 16).values():
                values = step(values)
        assert not np.array_equal(values[0], made[0])
        seen.append(values[0].tobytes())
    assert len(set(seen)) == len(seen)


def test_the_chain_has_the_sizes_that_it_tells_at_its_real_size() -> None:
    assert sum(share for share, _, _ in faces.KINDS.values()) == pytest.approx(1)
    for _, side, patch in faces.KINDS.values():
        assert side % patch == 0


def chain_figures(rate: float, **more: Any) -> dict[str, Any]:
    batch = {"batch": 4, "frames_per_second": rate, "batch_s": 4 / rate, "digest": "a"}
    return {"link": 1e9, "weights": 100 * MIB, "peak_resident": None, "batches": [batch]} | more


@pytest.mark.parametrize(
    ("rate", "beside", "changed", "missed"),
    [
        (9.5, 2.0, {}, []),
        (8.5, 2.0, {}, ["< 0.9 of resident"]),
        (9.5, 4.0, {}, ["< 3 x one by one"]),
        (9.5, 2.0, {"peak_resident": 51 * MIB}, ["over the budget"]),
        (9.5, 2.0, {"flat": False}, ["memory grows"]),
    ],
)
def test_a_row_of_the_chain_names_the_limits_that_it_does_not_hold(
    rate: float, beside: float, changed: dict[str, Any], missed: list[str]
) -> None:
    def row_beside(resident: dict[str, Any]) -> dict[str, Any]:
        ours = chain_figures(rate, peak_resident=1) | changed
        (row,) = frames.rows_of("vramx-mapped", 50 * MIB, ours, resident, chain_figures(beside))
        return row

    row = row_beside(chain_figures(10.0))
    assert (row["bound_by"], row["missed"]) == ("computing", missed)
    # Where the link is the limit no share of all-resident is asked for.
    row = row_beside(chain_figures(1000.0))
    assert row["bound_by"] == "the link"
    assert "< 0.9 of resident" not in row["missed"]


def test_other_frames_than_all_residents_are_not_the_same_bits() -> None:
    ours, stock = chain_figures(10.0, peak_resident=1), chain_figures(10.0)
    ours["batches"][0]["digest"] = "b"
    (row,) = frames.rows_of("vramx-mapped", 50 * MIB, ours, stock, {})
    assert row["same_bits"] is False
    assert Report.failed(row)


def test_a_way_that_fails_has_a_row_and_the_others_follow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(peer: str, _: int) -> dict[str, Any]:
        failed = {"error": "no room"}
        return failed if peer == "accelerate" else chain_figures(10.0, peak_resident=1)

    def run(start: Any) -> list[Any]:
        found = report()
        frames.compare(["accelerate", "vramx-mapped"], None, MIB, start, found)
        return [(row["peer"], found.failed(row)) for row in found.rows]

    assert run(start) == [("stock", False), ("accelerate", True), ("vramx-mapped", False)]
    assert "no room" in capsys.readouterr().out
    assert run(lambda *_: {"error": "no card"}) == [("stock", True)]


def test_ways_run_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    apart = frames.measure_apart
    asked_for = []

    def one_apart(module: str, asked: dict[str, Any], timeout: float) -> dict[str, Any]:
        asked_for.append(asked["peer"])
        if asked["peer"] == "vramx-simulated":
            return apart(module, asked, timeout)
        found: list[dict[str, Any]] = []  # seconds sooner
        frames.measure(asked, found.append)
        return found[0]

    monkeypatch.setattr(frames, "measure_apart", one_apart)
    path = tmp_path / "frames.json"
    given = "--weights 2MiB --depth 1 --smaller 16 --size 64 48 --seconds 0 --peers one-at-a-time"
    assert main(["frames", "--backend", "simulated", *given.split(), "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["peer"] for row in rows] == ["stock", "one-at-a-time", "vramx-simulated"]
    assert asked_for == [row["peer"] for row in rows]
    assert all(row["same_bits"] for row in rows)


# Forecasts


def test_the_plan_tells_the_simulated_cards_bytes_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "forecast.json"
    given = (
        "forecast --backend simulated --weights 4MiB --width 128 --tokens 1 64 --block 64KiB "
        f"--ratios 1.5 3 1000 --passes 3 --compute-ms 0.1 --json {path}"
    )
    with vramx.simulate(link=1e9, latency=0.0):
        assert main(given.split()) == 1  # for the ratio that no block fits
    result = json.loads(path.read_text())
    rows = [row for row in result["rows"] if row["ratio"] < 1000]
    assert [(row["tokens"], row["ratio"]) for row in rows] == [(1, 1.5), (1, 3), (64, 1.5), (64, 3)]
    for row in rows:
        assert row["plan_moved"] == row["moved_in"] > 0
        assert row["time_ratio"] == pytest.approx(1, abs=0.01)
        assert row["session_bytes_ratio"] == 1
        assert row["session_time_ratio"] == pytest.approx(1, abs=0.01)
        assert row["peak_resident"] <= row["budget"]
        assert row["same_bits"]
        assert row["missed"] == []
    assert all("less than one block" in r["error"] for r in result["rows"] if r["ratio"] == 1000)
    assert "less than one block" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("time_ratio", "bytes_ratio", "missed"),
    [
        (1.09, 1.009, []),
        (0.91, None, []),
        (1.11, 1.0, ["time +11.0%"]),
        (0.85, 0.98, ["time -15.0%", "bytes -2.0%"]),
    ],
)
def test_a_forecast_that_is_off_says_by_how_much(
    time_ratio: float, bytes_ratio: float | None, missed: list[str]
) -> None:
    assert forecast.missed(time_ratio, bytes_ratio) == missed


# Clips


def test_a_clip_through_plain_torch_has_all_frames_in_order(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from benchmarks.scenarios import clips

    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    smooth = np.add.outer(np.arange(54), 2 * np.arange(76)).astype(np.uint8)
    shown = [*clips.pan(np.stack([smooth, smooth // 2, 255 - smooth], axis=2), 6)]
    assert not any(np.array_equal(a, b) for a, b in zip(shown, shown[1:]))
    lossless = {"qp": "0"}
    assert clips.write(shown, source, lossless) == 6
    read = [*clips.read(source)]
    assert all(np.abs(a.astype(int) - b).mean() < 3 for a, b in zip(read, shown, strict=True))

    def doubled(frame: Any) -> Any:
        return frame.repeat(2, axis=0).repeat(2, axis=1)

    assert clips.stock_clip(doubled, source, target, lossless) == 6
    for made, frame in zip(clips.read(target), read, strict=True):
        assert np.abs(made.astype(int) - doubled(frame)).mean() < 3
