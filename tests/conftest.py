"""Fixtures for tests on the simulated card."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import vramx
from vramx import _core

# How long an example takes says what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

KIB = 2**10
MIB = 2**20
#: The block of these tests: what the weight of `Linear(128, 128, bias=False)` takes.
BLOCK = 64 * KIB
#: The card of these tests; a link of 1 GB/s and no latency make virtual times easy to check.
CARD = {
    "capacity": 64 * MIB,
    "link": 1e9,
    "latency": 0.0,
    "granule": 4 * KIB,
    "host_memory": 1024 * MIB,
}
if os.environ.get("VRAMX_COMPRESS") == "always":
    CARD["unpack_rate"] = 400e9  # it can make packed copies, so sessions do
NATIVE_CARD = {
    "capacity": 64 * MIB,
    "link_up": 1e9,
    "link_down": 1e9,
    "latency": 0.0,
    "lanes": 2,
    "granule": 4 * KIB,
    "host_memory": 1024 * MIB,
    "reads_over_link": True,
    "host_addresses": True,
    "check_drops": False,
}


#: When copies and kernels are carried out on cards that are made of host memory: "earliest",
#: "latest", or the seed of random moments. The stand-in driver reads it by itself.
SEED = os.environ.setdefault("VRAMX_TEST_SEED", "1")


def pytest_report_header() -> str:
    return f"moments of simulated work: VRAMX_TEST_SEED={SEED}"


@pytest.fixture(scope="module", autouse=True)
def little_to_look_through() -> None:
    """What is loaded by now stays: collections in the midst of tests need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def moments(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test has moments of its own, which are the same whatever runs before it."""
    if SEED in ("earliest", "latest"):
        previous = _core.set_moments(_core.Moment[SEED.upper()], 0)
    else:
        own = zlib.crc32(f"{SEED} {request.node.nodeid}".encode())
        # Random moments are rarely late together, and a test in four is.
        when = _core.Moment.LATEST if own % 4 == 0 else _core.Moment.RANDOM
        previous = _core.set_moments(when, own)
    yield
    _core.set_moments(*previous)


@pytest.fixture(scope="session", autouse=True)
def runtime_dir() -> Iterator[None]:
    """Processes of this test run find each other, and no others."""
    with tempfile.TemporaryDirectory(prefix="vramx-test-") as folder:
        os.environ["VRAMX_RUNTIME_DIR"] = folder
        yield
        del os.environ["VRAMX_RUNTIME_DIR"]


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache folder, shared by the tests of a run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def model_cache(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained weights are converted once a run, outside the real user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))


@pytest.fixture
def no_open_session() -> Iterator[None]:
    """What a test opens is closed after it."""
    yield
    while True:
        try:
            session = vramx.current_session()
        except vramx.Error:
            return
        session.close()


@pytest.fixture
def open_queue() -> Iterator[Callable[..., vramx.Queue]]:
    """Open a queue on a simulated card; it is closed after the test, its jobs cancelled."""
    with vramx.simulate(capacity="64MiB"), contextlib.ExitStack() as opened:

        def open_one(budget: Any = 10 * MIB, **options: Any) -> vramx.Queue:
            queue = vramx.Queue(budget, backend="simulated", **options)
            opened.callback(queue.close, cancel=True)
            return queue

        yield open_one


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: small models are no faster on more, and every run is alike."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def open_session(
    one_thread: None,  # noqa: ARG001
    no_open_session: None,  # noqa: ARG001
) -> Callable[..., vramx.Session]:
    """Open a session on a simulated card of its own; it is closed after the test."""

    def open_one(
        budget: Any = 4 * BLOCK,
        *,
        policy: Any = "adaptive",
        block: Any = BLOCK,
        host_limit: Any = None,
        compress: Any = None,
        **card: Any,
    ) -> vramx.Session:
        with vramx.simulate(**{**CARD, **card}):
            return vramx.oversubscribe(
                budget,
                backend="simulated",
                policy=policy,
                block=block,
                host_limit=host_limit,
                compress=compress,
            )

    return open_one


@pytest.fixture
def open_core() -> Iterator[Callable[..., tuple[_core.Core, _core.SimulatedDevice]]]:
    """Open a core, without a session, on a simulated card; held moves are let go at the end."""
    devices = []

    def open_one(
        budget: int = 4 * BLOCK,
        *,
        policy: Any = "lru",
        block: int = BLOCK,
        threaded: bool = False,
        host_limit: int = 2**63,
        **card: Any,
    ) -> tuple[_core.Core, _core.SimulatedDevice]:
        device = _core.SimulatedDevice(**{**NATIVE_CARD, **card})
        devices.append(device)
        core = _core.Core(
            device=device,
            budget=budget,
            block=block,
            policy=policy,
            threaded=threaded,
            host_limit=host_limit,
        )
        return core, device

    yield open_one
    for device in devices:
        device.let_go()


@pytest.fixture
def linears(one_thread: None) -> Callable[..., Any]:  # noqa: ARG001
    """Make a stack of linear modules, each of exactly one block; the same one every time."""
    import torch
    from torch import nn

    def make(count: int, seed: int = 0) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(*(nn.Linear(128, 128, bias=False) for _ in range(count))).eval()

    return make
