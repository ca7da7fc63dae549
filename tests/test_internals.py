"""What vramx relies on in torch is as expected here; where it is not, work goes on by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import vramx
from vramx.integrations.torch import bridge, internals, places
from vramx.integrations.torch.internals import layout

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

X = torch.linspace(-1, 1, 256).view(2, 128)


def test_this_torch_is_as_expected() -> None:
    assert internals.unexpected() == []


@pytest.mark.parametrize("part", ["FOUND_LAYOUT", "FOUND_HOOKS", "COUNTS_USES", "FOUND_STREAM"])
def test_what_is_not_as_expected_is_named(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(internals, part, False)
    assert len(internals.unexpected()) == 1


def test_tensors_are_counted_wherever_they_are_held() -> None:
    tensor = torch.zeros(4)
    assert layout.tensors_on(tensor.untyped_storage()) == 1
    others = [tensor.view(2, 2), tensor.data, tensor.detach().numpy(), nn.Parameter(tensor)]
    assert layout.tensors_on(tensor.untyped_storage()) == 1 + len(others)
    others.clear()
    assert layout.tensors_on(tensor.untyped_storage()) == 1


def test_weights_lie_in_unified_memory_where_storages_are_not_as_expected(
    open_session: OpenSession, linears: Linears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "FOUND_LAYOUT", False)
    monkeypatch.setattr(bridge, "FOUND_LAYOUT", False)
    model, plain = linears(6), linears(6)
    with torch.no_grad(), open_session(3 * BLOCK) as session:
        with pytest.warns(RuntimeWarning, match="lie in unified memory instead of mapped"):
            session.manage(model)
        for _ in range(4):
            assert torch.equal(model(X), plain(X))
        model[0].weight.data.add_(1)
        plain[0].weight.data.add_(1)
        assert torch.equal(model(X), plain(X))
    assert torch.equal(model(X), plain(X))


@pytest.mark.parametrize("found", [True, False])
def test_writes_and_changes_are_seen_where_torch_has_to_be_asked(
    open_session: OpenSession, linears: Linears, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    from vramx import _core

    if not found:
        tensor = torch.zeros(1)
        assert not _core.find_layout(tensor, tensor, tensor)
    try:
        model, plain = linears(4), linears(4)
        with torch.no_grad(), open_session(2 * BLOCK) as session:
            session.manage(model)
            for n in range(4):
                for each in (model, plain):
                    each[n].weight.add_(0.5)
                    each[(n + 1) % 4].weight.data.mul_(0.5)
                    each[(n + 2) % 4].weight.data = torch.full((128, 128), 0.01 * n)
                assert torch.equal(model(X), plain(X))
                assert torch.equal(model(X), plain(X))
        assert torch.equal(model(X), plain(X))
    finally:
        assert layout.find_layout()
        monkeypatch.undo()
