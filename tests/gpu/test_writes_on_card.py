"""Weights that a program changes between passes, by every way that programs know, on a real card.

The next pass uses them, and so does the model when the session is over. Of what torch cannot count
an error may tell instead, before an output is made.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import vramx

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

LAYERS, WIDTH = 16, 2048  # of 8 MiB each in bf16


class Layer(nn.Module):
    """A matrix, as a parameter or as a buffer, and what it does to its input."""

    def __init__(self, weight: torch.Tensor, kind: str) -> None:
        super().__init__()
        if kind == "buffer":
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(nn.functional.linear(x, self.weight))


def replaced(layer: Layer, change: torch.Tensor) -> None:
    made = layer.weight.detach() + change
    is_parameter = isinstance(layer.weight, nn.Parameter)
    layer.weight = nn.Parameter(made, requires_grad=False) if is_parameter else made


def by_thread(layer: Layer, change: torch.Tensor) -> None:
    thread = threading.Thread(target=lambda: layer.weight.data.add_(change))
    thread.start()
    thread.join()


def by_halves(layer: Layer, change: torch.Tensor) -> None:
    half = WIDTH // 2
    layer.weight.data[:half].add_(change[:half])
    layer.weight.data[half:] += change[half:]


def loaded(layer: Layer, change: torch.Tensor) -> None:
    layer.load_state_dict({"weight": layer.weight.detach() + change})


def with_data(write: Callable[[torch.Tensor, torch.Tensor], Any]) -> Callable[..., None]:
    def way(layer: Layer, change: torch.Tensor) -> None:
        write(layer.weight.data, change)

    return way


Way = Callable[[Layer, torch.Tensor], Any]

COUNTED: dict[str, Way] = {
    "add_": lambda layer, change: layer.weight.add_(change),
    "copy_": lambda layer, change: layer.weight.copy_(layer.weight + change),
    "detach().add_": lambda layer, change: layer.weight.detach().add_(change),
    "view": lambda layer, change: layer.weight.view(-1).add_(change.view(-1)),
    "out=": lambda layer, change: torch.add(layer.weight, change, out=layer.weight),
    "set_": lambda layer, change: layer.weight.set_(layer.weight + change),
    "load_state_dict": loaded,
    "weight=": replaced,
    "data=": lambda layer, change: setattr(layer.weight, "data", layer.weight.data + change),
    "data.add_": with_data(lambda data, change: data.add_(change)),
    "data+=": lambda layer, change: setattr(layer.weight, "data", layer.weight.data.add_(change)),
    "data[...]=": with_data(lambda data, change: data.__setitem__(..., data + change)),
    "data by halves": by_halves,
    "data.view": with_data(lambda data, change: data.view(-1)[:].add_(change.view(-1))),
    "data.t": with_data(lambda data, change: data.t().add_(change.t())),
    "data.copy_": with_data(lambda data, change: data.copy_(data + change)),
    "data on a thread": by_thread,
}
#: Torch tells of neither of these, so an error may.
TOLD: dict[str, Way] = {
    "dlpack": lambda layer, change: torch.from_dlpack(layer.weight.detach()).add_(change),
    "untyped_storage": lambda layer, change: layer.weight.untyped_storage().copy_(
        (layer.weight + change).untyped_storage()
    ),
}


def stack(kind: str) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(LAYERS, WIDTH, WIDTH, generator=generator).bfloat16() / WIDTH**0.5
    return nn.Sequential(*(Layer(weight.clone(), kind) for weight in weights))


@dataclass
class Case:
    """A stack on the CPU, and what stock torch makes of it before and after the change."""

    model: nn.Sequential
    x: torch.Tensor
    change: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    weights: list[torch.Tensor]


@pytest.fixture(scope="module", params=["parameter", "buffer"])
def case(request: pytest.FixtureRequest) -> Case:
    model = stack(request.param)
    x = torch.randn(4, WIDTH, device="cuda").bfloat16()
    change = torch.full((WIDTH, WIDTH), 0.01, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        stock = copy.deepcopy(model).cuda()
        before = stock(x)
        for layer in stock:
            layer.weight.add_(change)
        weights = [layer.weight.cpu() for layer in stock]
        return Case(model, x, change, before, stock(x), weights)


@pytest.mark.parametrize("way", [*COUNTED, *TOLD])
@pytest.mark.parametrize("budget", ["64MiB", "1GiB"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", ["mapped", "managed"])
def test_what_is_written_between_passes_is_used_by_the_next_and_kept(
    case: Case, backend: str, mode: Any, budget: str, way: str
) -> None:
    model = copy.deepcopy(case.model)
    told = vramx.UnreportedWriteError if way in TOLD else ()
    with mode(), vramx.oversubscribe(budget, backend=backend, block="8MiB") as session:
        session.manage(model)
        assert all(torch.equal(model(case.x), case.before) for _ in range(5))
        for layer in model:
            (COUNTED | TOLD)[way](layer, case.change)
        try:
            outs = [model(case.x) for _ in range(6)]
        except told as error:
            assert "weight" in str(error)
            return
        assert [torch.equal(out, case.after) for out in outs] == [True] * 6
    for layer, weight in zip(model, case.weights):
        assert torch.equal(layer.weight.detach().cpu(), weight)


@pytest.mark.parametrize("backend", ["mapped", "managed"])
def test_writes_of_all_kinds_in_any_order_are_never_lost(case: Case, backend: str) -> None:
    names = sorted(COUNTED)
    model, stock = copy.deepcopy(case.model), copy.deepcopy(case.model).cuda()
    order = torch.Generator().manual_seed(1)
    with torch.no_grad(), vramx.oversubscribe("64MiB", backend=backend, block="8MiB") as session:
        session.manage(model)
        for _ in range(40):
            layer, name = (
                int(torch.randint(most, (1,), generator=order)) for most in (LAYERS, len(names))
            )
            change = case.change * float(torch.randn(1, generator=order))
            for each in (model, stock):
                COUNTED[names[name]](each[layer], change)
            assert torch.equal(model(case.x), stock(case.x)), names[name]
    for one, other in zip(model, stock):
        assert torch.equal(one.weight.detach().cpu(), other.weight.cpu())
