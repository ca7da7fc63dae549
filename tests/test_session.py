"""What a session shows and how it is reached: reports, counters, functions, arrays, the simulated
card's settings, and serving a whole process.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vramx
from child import run_child
from vramx import Advice, _core

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]


# Reports and counters


def test_the_report_names_the_card_the_modules_and_the_counts(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(2 * BLOCK, policy="lru") as session:
        assert "module" not in session.report()
        model = session.manage(linears(4), name="the stack")
        session.manage(nn.Linear(16, 16))
        model(torch.ones(1, 128))
        report = session.report()
    lines = report.splitlines()
    assert lines[0] == "vramx on simulated card of 64.00 MiB (simulated)"
    assert "  module the stack: 256.00 KiB in 4 units" in lines
    assert any(line.startswith("  module Linear: 1.06 KiB in 1 unit") for line in lines)
    counts = dict(line.split(maxsplit=1) for line in lines[3 : lines.index("")])
    assert counts["budget"] == "128.00 KiB"
    assert counts["moved_in"] == "256.00 KiB"
    assert counts["moved_out"] == "0 B"
    assert counts["passes"] == "1"
    assert set(counts) == {each.name for each in dataclasses.fields(vramx.Stats)}


def test_the_report_can_be_had_after_the_end(open_session: OpenSession, linears: Linears) -> None:
    with open_session(2 * BLOCK) as session:
        session.manage(linears(3))(torch.ones(1, 128))
    assert re.search(r"^  passes +1$", session.report(), re.MULTILINE)


def test_stats_are_a_frozen_picture_of_one_moment(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(4 * BLOCK) as session:
        before = session.stats()
        assert before == vramx.Stats(budget=4 * BLOCK)
        model = session.manage(linears(3))
        model(torch.ones(1, 128))
        model(torch.ones(1, 128))
        stats = session.stats()
        assert before == vramx.Stats(budget=4 * BLOCK)
        assert (stats.managed, stats.resident) == (3 * BLOCK, 3 * BLOCK)
        assert stats.hits + stats.misses == 6
        assert stats.passes == 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.passes = 0  # type: ignore[misc]


# Functions on the innermost session


def test_functions_act_on_the_innermost_session(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(4 * BLOCK) as outer, open_session(3 * BLOCK) as session:
        model = session.manage(linears(3))
        vramx.prefetch(model)
        assert session.device.on_card == 3 * BLOCK
        with vramx.pin(model[0]) as pinned:
            assert pinned is model[0]
            assert vramx.stats().leased == BLOCK
        vramx.evict(model)
        assert vramx.stats() == session.stats()
        vramx.advise(model, Advice.PREFERRED_HOST)
        vramx.prefetch(model)
        assert session.device.on_card == 0
        x = vramx.empty((4, 4), torch.int32)
        assert x.dtype == torch.int32
        assert session._core.owned(session._ranges(x))
        assert outer.stats() == vramx.Stats(budget=4 * BLOCK)


@pytest.mark.parametrize(
    "call",
    [
        lambda: vramx.prefetch([]),
        lambda: vramx.evict([]),
        lambda: vramx.pin([]),
        lambda: vramx.advise([], Advice.READ_MOSTLY),
        lambda: vramx.empty(4),
        vramx.stats,
        vramx.current_session,
    ],
    ids=["prefetch", "evict", "pin", "advise", "empty", "stats", "current_session"],
)
@pytest.mark.usefixtures("no_open_session")
def test_functions_without_a_session_say_how_to_open_one(call: Callable[[], Any]) -> None:
    with pytest.raises(vramx.Error, match=r"no session is open.*oversubscribe\(\)"):
        call()


# Arrays


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, "int64", np.dtype("complex64"), bool])
@pytest.mark.parametrize("shape", [5, (), (3, 4), (2, 0, 3), [7, 1]])
def test_a_numpy_array_lies_in_the_session_s_memory(
    open_session: OpenSession, shape: Any, dtype: Any
) -> None:
    with open_session(4 * BLOCK) as session:
        x = session.empty(shape, dtype)
        expected = np.empty(shape, dtype)
        assert isinstance(x, np.ndarray)
        assert (x.shape, x.dtype) == (expected.shape, expected.dtype)
        assert x.flags.writeable
        if x.size:
            assert session._core.owned(session._ranges(x))
        with session.pin(x):
            x[...] = 1
        session.evict(x)
        with session.pin(x):
            assert (x == 1).all()
    assert (x == 1).all()


@pytest.mark.parametrize("shape", [5, (), (3, 4), (2, 0, 3), [7, 1], torch.Size((2, 2))])
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16, torch.bool])
def test_a_tensor_lies_in_the_session_s_memory(
    open_session: OpenSession, shape: Any, dtype: torch.dtype | None
) -> None:
    with open_session(4 * BLOCK) as session:
        x = session.empty(shape, dtype)
        expected = torch.empty(shape, dtype=dtype)
        assert (x.shape, x.dtype, x.device) == (expected.shape, expected.dtype, expected.device)
        assert x.is_contiguous()
        if x.numel():
            assert session._core.owned(session._ranges(x))
        assert torch.equal(x.fill_(1).clone(), expected.fill_(1))


def test_parts_of_an_array_are_moved_as_the_blocks_they_span(open_session: OpenSession) -> None:
    with open_session(8 * BLOCK) as session:
        x = session.empty((4, BLOCK), np.uint8)
        with session.pin(x):
            x[:] = 5
        session.evict(x)
        for part, blocks in ((x[1], 1), (x[::-1][:2], 2), (x[0, :0], 0), (x.T[7:9], 4)):
            session.prefetch(part)
            assert session.device.on_card == blocks * BLOCK
            session.evict(x)


def test_what_is_given_may_be_nested_and_of_all_kinds(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session(8 * BLOCK) as session:
        model = session.manage(linears(3))
        x, y = session.empty((BLOCK // 4,)), session.empty(BLOCK, np.uint8)
        session.evict([x, y])
        session.prefetch([model[0], (model[1].weight, [x]), iter([y])])
        assert session.device.on_card == 4 * BLOCK
        session.evict({1: x, 2: y}.values())
        assert session.device.on_card == 2 * BLOCK
        session.prefetch([])
        session.prefetch(nn.ReLU())


# The simulated card


def test_simulate_is_in_force_until_its_scope_ends() -> None:
    def capacity() -> int:
        session = vramx.oversubscribe("1MiB", backend="simulated", block="64KiB")
        session.close()
        return session.device.capacity

    with vramx.simulate(capacity="16MiB"):
        assert capacity() == 16 * 2**20
        with vramx.simulate(capacity="32MiB"):
            assert capacity() == 32 * 2**20
        assert capacity() == 16 * 2**20
        outlasting = vramx.simulate(capacity="4MiB")
        assert capacity() == 4 * 2**20
        with outlasting:
            assert capacity() == 4 * 2**20
        assert capacity() == 16 * 2**20


def test_simulate_s_figures_are_the_card_s() -> None:
    with vramx.simulate("1MiB", "1MB/s", link_to_host="2MB/s", latency=1.0, granule="4KiB"):
        session = vramx.oversubscribe("128KiB", backend="simulated", block="4KiB")
    with session:
        x = session.empty((1000,), np.uint8)
        with session.pin(x):
            x[:] = 1
        assert session.device.now == 0
        session.evict(x)
        assert session.device.now == pytest.approx(1.0 + 4096 / 2e6)
        with session.pin(x):
            pass
        assert session.device.now == pytest.approx(2.0 + 4096 / 2e6 + 4096 / 1e6)
        assert (session.device.granule, session.device.capacity) == (4096, 2**20)
        assert session.device.ordinal == 0
        assert session.device.uuid == ""


def test_a_budget_of_none_is_what_is_free_less_the_reserve() -> None:
    with vramx.simulate(capacity="2GiB"):
        for reserve, budget in (("512MiB", 1536), ("1GiB", 1024), (0, 2048), ("1MB", 2016)):
            session = vramx.oversubscribe(backend="simulated", reserve=reserve)
            assert session.stats().budget == budget * 2**20
            session.close()


def test_the_device_may_be_named_in_any_way_torch_names_it(open_session: OpenSession) -> None:
    del open_session
    with vramx.simulate(capacity="1MiB"):
        for device in (None, 0, "cuda", "cuda:0", torch.device("cuda", 0), torch.device("cuda")):
            session = vramx.oversubscribe(
                "512KiB", backend="simulated", device=device, block="64KiB"
            )
            assert session.device.ordinal == 0
            session.close()


def test_auto_never_simulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    with vramx.simulate(capacity="1MiB"), pytest.raises(vramx.NoDeviceError):
        vramx.oversubscribe("512KiB", block="64KiB")


# A whole process


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="torch is built with CUDA")
def test_install_refuses_a_torch_without_cuda() -> None:
    with pytest.raises(vramx.ConfigError, match="built without CUDA"):
        vramx.install()


def test_install_without_torch_says_so() -> None:
    code = """
        import sys
        sys.modules["torch"] = None
        import vramx
        try:
            vramx.install()
        except (vramx.Error, ImportError) as error:
            print("torch" in str(error))
    """
    assert run_child(code) == "True\n"


def test_sessions_need_no_torch() -> None:
    code = """
        import importlib.util, sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "torch" else find(name, *a)
        import numpy as np, vramx
        vramx.simulate(capacity="4MiB")
        with vramx.oversubscribe("256KiB", backend="simulated", block="64KiB") as session:
            arrays = [session.empty(40000, np.float32) for _ in range(4)]
            for value, each in enumerate(arrays):
                with vramx.pin(each):
                    each[:] = value
            session.evict(arrays)
            for value, each in enumerate(arrays):
                with session.pin(each):
                    assert (each == value).all()
            print(session.device.peak_on_card <= 256 * 1024, "torch" in sys.modules)
    """
    assert run_child(code) == "True False\n"


def test_the_framework_s_allocations_are_served_by_the_session_that_was_entered(
    open_core: Callable[..., tuple[_core.Core, _core.SimulatedDevice]],
) -> None:
    """Through the C symbols that torch and others call."""
    import ctypes

    library = ctypes.CDLL(_core.__file__)
    malloc, free = library.vramx_malloc, library.vramx_free
    malloc.restype = ctypes.c_void_p
    malloc.argtypes = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
    free.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
    free.restype = None
    core, device = open_core(2 * BLOCK)
    other, _ = open_core(2 * BLOCK)
    assert malloc(100, 0, None) is None
    assert "no session" in _core.last_failure()
    core.enter()
    other.enter()
    address = malloc(100, 0, None)
    assert other.owned([(address, 100)]) == [(address, 100)]
    assert core.owned([(address, 100)]) == []
    other.leave()
    second = malloc(BLOCK, 0, None)
    assert core.owned([(second, BLOCK)]) == [(second, BLOCK)]
    assert _core.last_failure() == ""
    assert malloc(2**50, 0, None) is None
    assert "1048576.00 GiB" in _core.last_failure()
    core.leave()
    free(address, 100, 0, None)
    free(second, BLOCK, 0, None)
    core.trim()
    other.trim()
    assert core.stats().managed == other.stats().managed == device.on_card == 0
