"""The benchmarks of pipelines and of forecasts, small and on the simulated card."""

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
import vramx  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
chain_models = importlib.import_module("chain_models")
clips = importlib.import_module("clips")
chain_process = importlib.import_module("chain_process")
enlarge = importlib.import_module("enlarge")
enlarge_process = importlib.import_module("enlarge_process")
face_chain = importlib.import_module("face_chain")
forecast = importlib.import_module("forecast")
frames = importlib.import_module("frames")
processes = importlib.import_module("processes")
reporting = importlib.import_module("reporting")

KIB, MIB = 2**10, 2**20
BLOCK = 64 * KIB

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


# Frames


def test_frames_come_again_in_batches_and_each_differs_from_the_next() -> None:
    made = frames.make_frames(12, 16, 3)
    assert all(frame.shape == (12, 16, 3) and frame.dtype == np.uint8 for frame in made)
    assert not any(np.array_equal(a, b) for a, b in zip(made, made[1:]))
    groups = list(frames.groups_of(made, 7, 3))
    assert [len(group) for group in groups] == [3, 3, 1]
    assert groups[2][0] is made[0]


@pytest.mark.parametrize("leak", [0, 3000, 10**6, -5000])
def test_growth_is_what_is_lost_a_frame_after_caches_are_full(leak: int) -> None:
    at = list(range(100, 2001, 100))
    sizes = [10**9 + leak * frame - (10**8 if frame < 500 else 0) for frame in at]
    assert frames.growth(at, sizes) == pytest.approx(leak)
    assert frames.growth([100], [5]) == 0


def test_a_lost_frame_in_a_hundred_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = [0]
    monkeypatch.setattr(frames, "host_bytes", lambda: 10**9 + lost[0])

    def run(group: list[Any]) -> list[Any]:
        lost[0] += len(group) * (1920 * 1080 * 3) // 100
        return group

    def watched(run: Any) -> dict[str, Any]:
        made = frames.make_frames(2, 2, 2)
        return frames.watch_memory(run, made, batch=3, count=100, every=10, device="cpu")

    leaking = watched(run)
    assert not leaking["flat"]
    assert [look["frames"] // 10 for look in leaking["looks"]] == list(range(1, 11))
    assert "NOT FLAT" in frames.memory_line(leaking)
    assert watched(lambda group: group)["flat"]


def test_batches_are_timed_after_those_in_which_plans_are_made() -> None:
    sizes: list[int] = []
    found = frames.time_frames(
        lambda group: sizes.append(len(group)) or group,
        frames.make_frames(2, 2, 2),
        batch=5,
        seconds=0,
        device="cpu",
    )
    assert found["batches"] == 3
    assert sizes == [5] * 6
    assert found["frames_per_second"] == pytest.approx(5 / found["batch_s"])


# The chain


CHAIN = {
    "device": "cpu", "weights": 4 * MIB, "depth": 1, "smaller": 16, "batches": [1, 3],
    "seconds": 0.0, "frames": 8, "every": 2, "height": 48, "width": 64, "block": BLOCK,
}  # fmt: skip


def start_chain(tmp_path: Path) -> Any:
    def start(peer: str, budget: int) -> dict[str, Any]:
        path = tmp_path / f"{peer}.json"
        try:
            chain_process.measure({**CHAIN, "peer": peer, "budget": budget}, path)
        except processes.NotInstalledError as error:
            return {"error": f"not installed: {error}"}
        return json.loads(path.read_text())

    return start


def test_every_way_through_the_chain_makes_the_same_frames_and_vramx_in_half_the_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = reporting.Report(
        tmp_path / "out.json", face_chain.head_line, face_chain.line, height=48, width=64
    )
    ways = ["one-at-a-time", "accelerate", "vramx-simulated"]
    face_chain.compare(ways, 2.0, BLOCK, start_chain(tmp_path), report)
    result = json.loads((tmp_path / "out.json").read_text())
    rows = [row for row in result["rows"] if "error" not in row]
    assert {row["peer"] for row in rows} >= {"stock", "one-at-a-time", "vramx-simulated"}
    assert set(result["parts"]) == set(chain_models.KINDS)
    assert result["weights"] == sum(result["parts"].values())
    for row in rows:
        assert row["same_bits"]
        assert row["memory"] is None or row["memory"]["frames"] == 8
    ours = [row for row in rows if row["peer"] == "vramx-simulated"]
    assert [row["batch"] for row in ours] == [1, 3]
    for row in ours:
        assert row["peak_resident"] <= row["budget"] <= result["weights"] / 2
        # What does not fit comes anew for each batch, however many frames that has.
        assert row["moved_in"] >= result["weights"] - row["budget"]
        assert row["moved_out"] == 0
        assert row["over_one_at_a_time"] is not None
    printed = capsys.readouterr().out
    assert "vramx-simulated" in printed
    assert "KiB a frame" in printed


def test_each_network_of_the_chain_counts_for_the_frames_that_come_out() -> None:
    made = frames.make_frames(48, 64, 2)
    expected = None
    for changed in (None, *chain_models.KINDS):
        models = chain_models.build_models(4 * MIB, 1)
        if changed is not None:
            with torch.no_grad():
                models[changed].outward.weight.neg_()
        values: list[Any] = made
        with torch.inference_mode():
            for step in chain_models.build_steps(models, "cpu", 16).values():
                values = step(values)
        digest = chain_process.digest(values)
        expected = digest if changed is None else expected
        assert (digest == expected) == (changed is None)
        assert not np.array_equal(values[0], made[0])


def test_the_chain_has_the_sizes_that_it_tells_at_its_real_size() -> None:
    assert sum(kind.share for kind in chain_models.KINDS.values()) == pytest.approx(1)
    for kind in chain_models.KINDS.values():
        assert kind.side % kind.patch == 0


def chain_figures(rate: float, **more: Any) -> dict[str, Any]:
    batch = {"batch": 4, "frames_per_second": rate, "batch_s": 4 / rate, "first_s": 1.0}
    batch["card_share"] = 0.9
    return {
        "machine": "a card", "torch": "2", "link": 1e9, "weights": 100 * MIB,
        "parts": {"swap": 100 * MIB}, "setup_s": 1.0, "torch_peak": 1, "peak_resident": None,
        "rss": 1, "peak_rss": 1, "batches": [batch | {"batches": 3, "digests": ["a"]}],
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "beside", "digest", "missed"),
    [
        (9.5, 2.0, "a", []),
        (8.5, 2.0, "a", ["< 0.9 of resident"]),
        (9.5, 4.0, "a", ["< 3 x one by one"]),
        (9.5, 2.0, "b", ["other bits"]),
    ],
)
def test_a_row_of_the_chain_names_the_limits_that_it_does_not_hold(
    rate: float, beside: float, digest: str, missed: list[str]
) -> None:
    ours = chain_figures(rate, peak_resident=1)
    ours["batches"][0]["digests"] = [digest]
    (row,) = face_chain.rows_of(
        "vramx-mapped", 50 * MIB, ours, chain_figures(10.0), chain_figures(beside)
    )
    assert row["bound_by"] == "computing"
    assert row["missed"] == missed
    # Where the link is the limit no share of all-resident is asked for.
    (row,) = face_chain.rows_of(
        "vramx-mapped", 50 * MIB, ours, chain_figures(1000.0), chain_figures(beside)
    )
    assert row["bound_by"] == "the link"
    assert "< 0.9 of resident" not in row["missed"]
    launching = chain_figures(10.0)
    launching["batches"][0]["card_share"] = 0.5
    (row,) = face_chain.rows_of("vramx-mapped", 50 * MIB, ours, launching, chain_figures(beside))
    assert row["bound_by"] == "the host"
    assert "< 0.9 of resident" not in row["missed"]


def test_a_way_that_fails_has_a_row_and_the_others_follow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(peer: str, _: int) -> dict[str, Any]:
        return (
            {"error": "no room"} if peer == "accelerate" else chain_figures(10.0, peak_resident=1)
        )

    def run(start: Any) -> Any:
        report = reporting.Report(None, face_chain.head_line, face_chain.line)
        well = face_chain.compare(["accelerate", "vramx-mapped"], 2.0, MIB, start, report)
        return well, [row["peer"] for row in report.rows]

    assert run(start) == (False, ["stock", "accelerate", "vramx-mapped"])
    assert "no room" in capsys.readouterr().out
    assert run(lambda *_: {"error": "no card"}) == (False, ["stock"])


# Enlarging


ENLARGE = {
    "device": "cpu", "budget": 16 * MIB, "block": BLOCK, "height": 72, "width": 100, "scale": 2,
    "features": 8, "blocks": 1, "dtype": "float32", "seconds": 0.0, "frames": 6, "every": 2,
    "video": 0,
}  # fmt: skip


@pytest.mark.parametrize("tile", [None, 48])
def test_frames_enlarged_in_a_budget_are_those_of_the_same_tiles(
    tile: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(peer: str, sizes: Any, output: Path) -> dict[str, Any]:
        path = tmp_path / f"{peer}.json"
        own = {"peer": peer, "sizes": sizes, "output": str(output), "tile": tile}
        enlarge_process.measure({**ENLARGE, **own}, path)
        return json.loads(path.read_text())

    report = reporting.Report(
        tmp_path / "out.json", enlarge.head_line, enlarge.line, height=72, width=100, scale=2
    )
    enlarge.compare(["vramx-simulated"], ENLARGE["budget"], start, report, tmp_path)
    result = json.loads((tmp_path / "out.json").read_text())
    stock, tiled, ours = result["rows"]
    assert [row["peer"] for row in result["rows"]] == ["stock", "stock-tiled", "vramx-simulated"]
    assert ours["sizes"] == tiled["sizes"]
    assert ours["off_tiled"] == 0
    assert ours["peak_resident"] <= result["budget"]
    assert ours["moved_out"] == 0
    assert ours["off_whole"] == tiled["off_whole"] <= 0.5 / 255
    assert (ours["sizes"]["tiles"] > 1) == (tile is not None)
    assert stock["memory"]["frames"] == 6
    assert "vramx-simulated" in capsys.readouterr().out


@pytest.mark.parametrize("scale", [2, 4])
def test_the_enlarger_makes_pictures_larger_and_all_weights_count(scale: int) -> None:
    model = enlarge_process.build_enlarger({**ENLARGE, "scale": scale})
    picture = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    made = model(picture)
    assert made.shape == (1, 3, 12 * scale, 16 * scale)
    for weight in model.parameters():
        with torch.no_grad():
            before = weight.clone()
            weight.add_(0.1)
            assert not torch.equal(model(picture), made)
            weight.copy_(before)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"peak_resident": 11}, ["over the budget"]),
        ({"over_tiled": 0.8}, ["< 0.9 of tiled"]),
        ({"over_whole": 0.8}, ["< 0.9 of whole"]),
        ({"off_tiled": 1e-9}, ["other bits than tiled"]),
        ({"memory": {"flat": False}}, ["memory grows"]),
    ],
)
def test_a_row_of_enlarging_names_the_limits_that_it_does_not_hold(
    changed: dict[str, Any], missed: list[str]
) -> None:
    row = {
        "peak_resident": 10, "over_tiled": 1.0, "over_whole": 1.0, "off_tiled": 0.0, "memory": None,
    }  # fmt: skip
    assert enlarge.missed({**row, **changed}, 10) == missed


def test_a_clip_goes_through_too(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "out.json"
    own = {"peer": "vramx-simulated", "sizes": None, "tile": None, "frames": 0}
    asked = {**ENLARGE, **own, "output": str(tmp_path / "out.npy"), "video": 3}
    enlarge_process.measure(asked, path)
    assert json.loads(path.read_text())["video_frames_per_second"] > 0


# Forecasts


def test_the_plan_tells_the_simulated_cards_bytes_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "forecast.json"
    asked = Namespace(
        backends=["simulated"], weights=4 * MIB, width=128, tokens=[1, 64], block="64KiB",
        ratios=[1.5, 3.0, 1000.0], passes=3, compute_ms=0.1,
    )  # fmt: skip
    with vramx.simulate(link=1e9, latency=0.0):
        forecast.Forecasts(asked).run(reporting.Report(path, forecast.head_line, forecast.line))
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
    from PIL import Image

    picture, source, target = (tmp_path / name for name in ("a.png", "in.mp4", "out.mp4"))
    smooth = np.add.outer(np.arange(48), 2 * np.arange(64)).astype(np.uint8)
    Image.fromarray(np.stack([smooth, smooth // 2, 255 - smooth], axis=2)).save(picture)
    shown = [*clips.pan(picture, 64, 48, 6)]
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
