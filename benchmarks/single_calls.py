"""What single calls cost, by pytest-benchmark; the scenario `calls` runs it for a backend."""

import pytest
import torch
from torch import nn

import vramx

MIB = 2**20
MODULES = 100  # that are called one after the other
BACKEND = "simulated"


@pytest.fixture
def session():
    """Open a session in which all fits."""
    with vramx.oversubscribe("1GiB", backend=BACKEND, block="2MiB") as opened:
        yield opened


def device() -> str:
    """Where torch computes."""
    return "cpu" if BACKEND == "simulated" else "cuda"


def called(count: int) -> nn.Module:
    """Make modules that have a weight and do nothing."""
    model = nn.Sequential(*(nn.Identity() for _ in range(count)))
    for module in model:
        module.register_parameter("weight", nn.Parameter(torch.zeros(1), requires_grad=False))
    return model


def test_lease_and_release(benchmark, session) -> None:
    session.manage(called(1))(torch.randn(1, device=device()))
    core, stream, misses = session._core, session._stream(), session.stats().misses

    def lease() -> None:
        core.acquire(0, stream)
        core.release(0, stream)

    benchmark.pedantic(lease, rounds=100, iterations=100)
    assert session.stats().misses == misses


@pytest.mark.parametrize("own", [False, True], ids=["stock", "vramx"])
def test_call_a_module(benchmark, session, own) -> None:
    model, x = called(MODULES), torch.randn(1, device=device())
    model = session.manage(model) if own else model.to(device())
    benchmark.extra_info["of"] = MODULES
    benchmark.pedantic(lambda: model(x), rounds=100, iterations=5, warmup_rounds=1)


@pytest.mark.parametrize("own", [False, True], ids=["stock", "vramx"])
def test_allocate_and_free_a_mebibyte(benchmark, session, own) -> None:
    make, rest = (session.empty, {}) if own else (torch.empty, {"device": device()})
    benchmark.pedantic(lambda: make((MIB,), dtype=torch.uint8, **rest), rounds=100, iterations=50)
