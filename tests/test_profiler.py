"""Ranges in an attached profiler's timeline."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from forkserver import run_forked

pytest_plugins = ("loopback.fixture",)

PROGRAM = """
    import torch
    import vramx
    from torch import nn

    torch.set_num_threads(1)
    with vramx.simulate(granule="4KiB"):
        session = vramx.oversubscribe("128KiB", backend="simulated", block="64KiB")
    with session:
        layers = [nn.Linear(128, 128, bias=False) for _ in range(4)]
        model = session.manage(nn.Sequential(*layers), name="net")
        model(torch.ones(1, 128))
        session.device.fail(vramx._core.Operation.FETCH, 1)
        try:
            model(torch.ones(1, 128))
        except vramx.DeviceError:
            pass
        model(torch.ones(1, 128))
"""


@pytest.mark.parametrize("attached", [True, False])
def test_leases_and_moves_are_ranges_that_nest_while_a_profiler_is_attached(
    loopback_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attached: bool
) -> None:
    written = tmp_path / "ranges.txt"
    monkeypatch.setenv("VRAMX_TEST_RANGES", str(written))
    monkeypatch.delenv("NVTX_INJECTION64_PATH", raising=False)
    if attached:
        monkeypatch.setenv("NVTX_INJECTION64_PATH", str(loopback_build / "libprofiler.so"))
    assert run_forked(PROGRAM) == ""
    assert written.exists() == attached
    if not attached:
        return
    open_ranges: dict[str, list[str]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for line in written.read_text().splitlines():
        thread, what, name = line.split(" ", 2)
        if what == "push":
            seen[name] += 1
            open_ranges[thread].append(name)
        else:
            open_ranges[thread].pop()
    assert not any(open_ranges.values())
    assert {f"net.{i}" for i in range(4)} <= set(seen)
    assert all(seen[f"fetch net.{i}"] >= 1 for i in range(4))
    assert any(name.startswith("evict net.") for name in seen)
    assert seen["net.0"] == 3
