"""Buffers are weights where torch counts their writes: clean, planned, and right when written."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import nn

import vramx

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]

X = torch.linspace(-1, 1, 512).view(2, 256)


class Coded(nn.Module):
    """A layer of 8-bit codes, as parameters or as buffers."""

    def __init__(self, *, as_buffers: bool) -> None:
        super().__init__()
        codes = torch.randint(-127, 127, (256, 256), dtype=torch.int8)
        for name, tensor in (("codes", codes), ("scales", torch.rand(256))):
            if as_buffers:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.codes.float() * self.scales[:, None]) / 1000


def coded(*, as_buffers: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Coded(as_buffers=as_buffers) for _ in range(16)))


@pytest.mark.parametrize("memory", ["mapped", "managed"])
def test_weights_in_buffers_move_as_parameters_do(open_session: OpenSession, memory: str) -> None:
    seen = []
    for as_buffers in (False, True):
        model = coded(as_buffers=as_buffers)
        with torch.no_grad(), open_session(8 * BLOCK, memory=memory) as session:
            expected = model(X)
            session.manage(model)
            for _ in range(10):
                assert torch.equal(model(X), expected)
            stats = session.stats()
            assert stats.moved_out == 0
            seen.append((stats.moved_in, stats.over_link, session.device.now))
    assert seen[0] == seen[1]


class Running(nn.Module):
    """Layers that write to their buffers, some of them without torch's counting it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(256)
        self.register_buffer("count", torch.zeros(128 * 128))
        self.register_buffer("last", torch.zeros(2, 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        self.count += 1
        self.last = x.detach() + self.last
        return x + self.count[0] + self.last


@pytest.mark.parametrize("memory", ["mapped", "managed"])
@pytest.mark.parametrize("training", [True, False])
def test_buffers_that_a_pass_writes_keep_what_was_written(
    open_session: OpenSession, memory: str, training: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(*(Running() for _ in range(4))).train(training)
    model = copy.deepcopy(plain)
    with torch.no_grad(), open_session(2 * BLOCK, memory=memory) as session:
        session.manage(model)
        for _ in range(6):
            assert torch.equal(model(X), plain(X))
            session.evict(model)
        assert session.stats().peak_resident <= 2 * BLOCK
    for mine, other in zip(model.buffers(), plain.buffers()):
        assert torch.equal(mine, other)


class ByAddress(nn.Module):
    """Has a kernel write to its buffer by an address, as custom kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(128 * 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        address = self.state.data_ptr()
        values = (ctypes.c_float * 4).from_address(address)
        values[0] += 1
        return x + self.state[0]


@pytest.mark.parametrize("memory", ["mapped", "managed"])
def test_a_kernel_may_write_to_a_buffer_by_its_address(
    open_session: OpenSession, memory: str
) -> None:
    plain, model = (nn.Sequential(*(ByAddress() for _ in range(4))) for _ in range(2))
    with torch.no_grad(), open_session(2 * BLOCK, memory=memory) as session:
        session.manage(model)
        for _ in range(6):
            assert torch.equal(model(X), plain(X))
    for mine, other in zip(model.buffers(), plain.buffers()):
        assert torch.equal(mine, other)
