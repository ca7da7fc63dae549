"""`vramx bench`: its figures are those of what ran; its exit code says if all was right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
import vramx  # noqa: E402
from child import run_child  # noqa: E402
from loopback.control import Loopback  # noqa: E402
from vramx.bench import Row, bench  # noqa: E402
from vramx.bench.cycle import Cycle  # noqa: E402
from vramx.bench.limits import limits  # noqa: E402
from vramx.bench.short import _supported  # noqa: E402
from vramx.cli import main  # noqa: E402

pytest_plugins = ("loopback.fixture",)
pytestmark = pytest.mark.usefixtures("no_open_session", "one_thread")

MIB = 2**20


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def short(*arguments: object) -> Result:
    return run("--backend", "simulated", "--weights", "16MiB", "--ratio", 2, *arguments)


def test_every_row_is_within_its_budget_and_no_faster_than_can_be() -> None:
    told: list[Row] = []
    with vramx.simulate(capacity="1GiB", link="10GB/s", link_to_host="5GB/s", latency=0.0):
        found = bench(["simulated"], weights="16MiB", ratios=(1.5, 4), on_row=told.append)
    assert (found.to_card, found.to_host) == (10e9, 5e9)
    assert found.rows == tuple(told)
    assert [row.ratio for row in found.rows] == [1.5, 4]
    assert found.right
    for row in found.rows:
        assert row.peak_resident <= row.budget < found.weights == 16 * MIB
        limit = limits(found.weights, row.budget, 10e9, found.all_resident, found.block)
        assert (row.t_fluid, row.t_plan) == (limit.fluid, limit.plan)
        assert row.seconds >= row.t_fluid
        assert row.moved >= found.weights - row.budget
        assert row.first > row.seconds


def test_a_model_that_computes_longer_than_its_weights_cross_is_bound_by_that() -> None:
    with vramx.simulate(link="10GB/s", latency=0.0):
        found = bench(["simulated"], weights="16MiB", ratios=(1.1,))
    (row,) = found.rows
    assert row.t_fluid == found.all_resident
    assert row.seconds == pytest.approx(row.t_fluid, rel=0.05)


def test_text_and_json_tell_the_same_rows() -> None:
    done = short("--json", "--ratio", 4)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert [row["ratio"] for row in told["rows"]] == [2, 4]
    text = short("--ratio", 4)
    assert text.exit_code == 0
    lines = text.stdout.splitlines()[-2:]
    for row, line in zip(told["rows"], lines, strict=True):
        over = row["seconds"] / row["t_fluid"]
        assert line.split()[:2] == ["simulated", f"{row['ratio']:g}"]
        assert f"{over:.3f}" in line
        assert line.endswith("yes")


@pytest.mark.parametrize("wrong", [{"same_bits": False}, {"peak_resident": 2**40}])
def test_a_wrong_output_or_an_exceeded_budget_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    within = Cycle.within
    monkeypatch.setattr(Cycle, "within", lambda *a, **k: within(*a, **k) | wrong)
    done = short("--json")
    assert done.exit_code == 1
    row = json.loads(done.stdout)["rows"][0]
    assert {name: row[name] for name in wrong} == wrong


def test_a_machine_without_a_card_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "libno_such_driver.so")
    done = run()
    assert done.exit_code == 1
    assert done.stderr.count("libno_such_driver.so") == 1
    assert 'backend="simulated"' in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is there")
def test_a_torch_without_cuda_is_told_apart_from_a_machine_without_a_card(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    with pytest.raises(vramx.NoDeviceError, match="build with CUDA"):
        bench()


def test_what_the_machine_does_not_support_is_named_and_the_rest_is_run(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _supported(()) == (["mapped", "managed"], {})
    loopback.set_maps_memory(0)
    names, unsupported = _supported(())
    assert names == ["managed"]
    assert list(unsupported) == ["mapped"]
    with pytest.raises(vramx.NoDeviceError) as caught:
        _supported(("mapped", "managed"))
    assert str(caught.value) == unsupported["mapped"]


def test_without_torch_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(vramx.Error, match=r"vramx\[torch\]"):
        bench(["simulated"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ["simulated", "mapped"]}, "simulated alone"),
        ({"backends": ["lru"]}, "cannot be measured"),
        ({"ratios": ()}, "above 1"),
        ({"ratios": (2, 1)}, "above 1"),
        ({"ratios": (float("nan"),)}, "above 1"),
        ({"tokens": 0}, "tokens 0"),
        ({"weights": "large"}, "weights 'large'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        bench(**{"backends": ["simulated"], **options})


def test_the_command_loads_no_framework_before_it_runs() -> None:
    code = "import sys, vramx.cli; print([m for m in ('torch', 'rich') if m in sys.modules])"
    assert run_child(code) == "[]\n"
