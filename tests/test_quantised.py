"""Quantised weights: managed by the plain tensors that they consist of, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree

import vramx

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]

X = torch.linspace(-1, 1, 512).view(2, 256).bfloat16()


class Wrapped(torch.Tensor):
    """Codes and scales, as torchao and optimum-quanto keep them; perhaps one within another."""

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scales: torch.Tensor) -> Wrapped:
        return torch.Tensor._make_wrapper_subclass(
            cls, codes.shape, dtype=torch.bfloat16, device=codes.device
        )

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor) -> None:
        self.codes, self.scales = codes, scales

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["codes", "scales"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, context: Any, size: Any, stride: Any) -> Wrapped:
        del context, size, stride
        return cls(inner["codes"], inner["scales"])

    def plain(self) -> torch.Tensor:
        codes = self.codes.plain() if isinstance(self.codes, Wrapped) else self.codes
        return codes.bfloat16() * self.scales.bfloat16()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes.detach(), args[0].scales.detach())
        unwrapped = _pytree.tree_map(lambda x: x.plain() if isinstance(x, cls) else x, args)
        return func(*unwrapped, **(kwargs or {}))


class Carrying(nn.Parameter):
    """Codes with a state beside them, as bitsandbytes keeps it."""

    state: Any


class State:
    def __init__(self, scales: torch.Tensor, inner: State | None = None) -> None:
        self.scales, self.inner = scales, inner


class CarryingLinear(nn.Module):
    """Uses the state of its weight, and a view of the same bytes that it keeps once it has run."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Carrying(codes(), requires_grad=False)
        self.weight.state = State(scales(), State(scales()))
        self.kept = State(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.weight.state
        if not hasattr(self.kept, "codes"):
            self.kept.codes = self.weight.detach()
        weight = self.kept.codes.bfloat16() * state.scales * state.inner.scales
        return nn.functional.linear(x, weight) / 100


def codes() -> torch.Tensor:
    return torch.randint(-100, 100, (256, 256), dtype=torch.int8)


def scales() -> torch.Tensor:
    return torch.rand(256, 1).bfloat16()


def linear_of(weight: torch.Tensor) -> nn.Module:
    layer = nn.Linear(256, 256, bias=False, dtype=torch.bfloat16)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


KINDS: dict[str, Callable[[], nn.Module]] = {
    "wrapped": lambda: linear_of(Wrapped(codes(), scales())),
    "wrapped twice": lambda: linear_of(Wrapped(Wrapped(codes(), scales()), scales())),
    "carrying": CarryingLinear,
}


def stack(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(KINDS[kind]() for _ in range(6)))


#: Bytes of a layer: codes, and scales of two bytes once or twice.
BYTES = {"wrapped": 65536 + 512, "wrapped twice": 65536 + 1024, "carrying": 65536 + 1024}


@pytest.mark.parametrize("memory", ["mapped", "managed"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_the_same_bits_in_half_of_the_memory(
    open_session: OpenSession, kind: str, memory: str
) -> None:
    plain, model = stack(kind), stack(kind)
    nbytes = 6 * BYTES[kind]
    with torch.no_grad(), open_session(3 * BLOCK, memory=memory) as session:
        session.manage(model)
        assert session._torch.passes.modules[0].nbytes == nbytes
        for _ in range(4):
            assert torch.equal(model(X), plain(X))
        assert session.stats().peak_resident <= 3 * BLOCK
        assert session.stats().moved_out == 0
        assert session._torch.passes.modules[0].nbytes == nbytes
    assert torch.equal(model(X), plain(X))
    assert [type(p) for p in model.parameters()] == [type(p) for p in plain.parameters()]


def test_what_a_layer_keeps_of_its_weight_beside_it_is_managed_with_it(
    open_session: OpenSession,
) -> None:
    plain, model = stack("carrying"), stack("carrying")
    with torch.no_grad(), open_session(3 * BLOCK) as session:
        model(X)
        session.manage(model)
        for _ in range(3):
            assert torch.equal(model(X), plain(X))
        for layer in model:
            assert layer.kept.codes.data_ptr() == layer.weight.data_ptr()
        assert session._torch.passes.modules[0].nbytes == 6 * BYTES["carrying"]
