"""Micro costs, each against torch's own where it has one, on a card or the simulated one.

Run with ``pytest benchmarks/test_micro.py --benchmark-only --benchmark-json FILE``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import vramx

ON_CARD = torch.cuda.is_available()
BACKEND = "managed" if ON_CARD else "simulated"
DEVICE = "cuda" if ON_CARD else "cpu"
SIZE = 2**20


@pytest.fixture
def session() -> Iterator[vramx.Session]:
    with vramx.oversubscribe("1GiB", backend=BACKEND, block="2MiB") as opened:
        yield opened


def managed_layers(session: vramx.Session, count: int) -> nn.Sequential:
    """Manage `count` layers of about 1 MiB."""
    return session.manage(nn.Sequential(*(nn.Linear(512, 512) for _ in range(count))))


def test_acquire_and_release_a_resident_module(benchmark, session) -> None:
    model = managed_layers(session, 1)
    x = torch.randn(1, 512, device=DEVICE)
    model(x)
    misses = session.stats().misses
    core, stream = session._core, session._stream()

    def acquire_and_release() -> None:
        core.acquire(0, stream)
        core.release(0, stream)

    benchmark.pedantic(acquire_and_release, rounds=200, iterations=100, warmup_rounds=5)
    assert session.stats().misses == misses


@pytest.mark.parametrize("managed", [False, True], ids=["stock", "managed"])
def test_call_a_resident_module(benchmark, session, managed) -> None:
    model = nn.Sequential(*(nn.Identity() for _ in range(100)))
    if managed:
        for module in model:
            module.register_parameter("weight", nn.Parameter(torch.zeros(1)))
        session.manage(model)
    x = torch.randn(1, device=DEVICE)
    model(x)
    benchmark.pedantic(lambda: model(x), rounds=100, iterations=5, warmup_rounds=2)
    benchmark.extra_info["modules_per_call"] = 100


@pytest.mark.parametrize("own", [False, True], ids=["torch", "vramx"])
def test_allocate_and_free_a_tensor(benchmark, session, own) -> None:
    if own:
        allocate = lambda: session.empty((SIZE,), torch.uint8)  # noqa: E731
    else:
        allocate = lambda: torch.empty(SIZE, dtype=torch.uint8, device=DEVICE)  # noqa: E731
    benchmark.pedantic(allocate, rounds=200, iterations=50, warmup_rounds=5)


def test_evict_decision_among_many_blocks(benchmark) -> None:
    """A pass under LRU on the simulated card: each acquire decides on a victim."""
    with (
        vramx.simulate(capacity="8GiB"),
        vramx.oversubscribe("256MiB", backend="simulated", policy="lru", block="64KiB") as session,
    ):
        core = session._core
        memories = core.reserve([64 * 2**10] * 8192, vramx._core.Use.WEIGHTS)
        groups = [core.define([(m.address, m.nbytes)]) for m in memories]

        def one_pass() -> None:
            for group in groups:
                core.acquire(group, 0)
                core.release(group, 0)

        benchmark.pedantic(one_pass, rounds=5, iterations=1, warmup_rounds=1)
        benchmark.extra_info["acquires_per_round"] = len(groups)
        assert session.stats().hits == 0
