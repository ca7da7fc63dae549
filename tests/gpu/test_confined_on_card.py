"""A real card taken for one without concurrent managed access, as under WSL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

import vramx

torch = pytest.importorskip("torch")

MIB = 2**20
WIDTH = 2048
LAYERS = 32  # of 8 MiB
BUDGET = 96 * MIB

Opened = Callable[[], contextlib.AbstractContextManager[vramx.Session]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Opens a session; what a test makes on the card before that is not the session's."""
    monkeypatch.setenv("VRAMX_DENY_MANAGED", "1")
    with torch.no_grad():
        yield lambda: vramx.oversubscribe(BUDGET, block="8MiB")


def layers() -> torch.nn.Module:
    torch.manual_seed(0)
    made = [torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)]
    return torch.nn.Sequential(*made).bfloat16()


def test_weights_stream_beside_activations_with_the_same_bits(opened: Opened) -> None:
    x = torch.randn(64, WIDTH, device="cuda", dtype=torch.bfloat16)
    expected = layers().cuda()(x)
    with opened() as session:
        assert not session.device.managed_access
        net = session.manage(layers())
        for held in (1, 24 * MIB, 1):
            kept = torch.full((held,), 7, device="cuda", dtype=torch.uint8)
            for _ in range(4):
                assert torch.equal(net(x), expected)
            assert (kept == 7).all()
            del kept
        stats = session.stats()
        assert stats.moved_in > 0
        assert stats.moved_out == 0
        assert stats.peak_resident <= BUDGET
        assert session.device.card_bytes <= BUDGET


def test_activations_beyond_the_budget_are_refused_and_the_next_ones_are_had(
    opened: Opened,
) -> None:
    with opened() as session:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * BUDGET, device="cuda", dtype=torch.uint8)
        with pytest.raises(vramx.OutOfMemoryError, match="activations do not exceed it"):
            session.empty(2 * BUDGET, torch.uint8)
        assert torch.ones(MIB, device="cuda").sum().item() == MIB


def test_statistics_that_torch_writes_uncounted_stay_and_are_right(opened: Opened) -> None:
    def made() -> torch.nn.Module:
        return torch.nn.Sequential(layers(), torch.nn.BatchNorm1d(WIDTH).bfloat16())

    plain, managed = made().cuda(), made()
    x = torch.randn(16, WIDTH, device="cuda", dtype=torch.bfloat16)
    expected = [plain(x) for _ in range(3)]
    with opened() as session:
        session.manage(managed)
        for each in expected:
            assert torch.equal(managed(x), each)
        session.unmanage(managed)
    assert torch.equal(managed[1].running_mean, plain[1].running_mean.cpu())
