"""How often tensors were changed: read where torch keeps it, and the same as torch tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vramx import _core
from vramx.integrations.torch.internals import layout

COUNT = 4


def zero(tensors: list[torch.Tensor], at: int) -> None:
    tensors[at].zero_()


def write_by_a_view(tensors: list[torch.Tensor], at: int) -> None:
    tensors[at].view(-1)[0] = 3


def copy(tensors: list[torch.Tensor], at: int) -> None:
    tensors[at].copy_(torch.ones_like(tensors[at]))


def give_other_data(tensors: list[torch.Tensor], at: int) -> None:
    tensors[at].data = torch.ones(3)


def swap(tensors: list[torch.Tensor], at: int) -> None:
    other = torch.nn.Parameter(torch.ones(2))
    other.add_(1)
    torch.utils.swap_tensors(tensors[at], other)


def read(tensors: list[torch.Tensor], at: int) -> None:
    tensors[at].sum().item()


ACTIONS = [zero, write_by_a_view, copy, give_other_data, swap, read]


@pytest.fixture(params=["read in place", "asked for"])
def known(request: pytest.FixtureRequest) -> Iterator[str]:
    """Set whether counts are read where torch keeps them."""
    if request.param == "asked for":
        tensor = torch.zeros(1)
        assert not _core.find_layout(tensor, tensor, tensor)
    yield request.param
    assert layout.find_layout()


def test_this_torch_keeps_counts_where_they_are_found() -> None:
    assert layout.find_layout()


@given(
    steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, COUNT - 1)), max_size=12),
    looks=st.sets(st.integers(0, 12)),
)
@pytest.mark.usefixtures("known")
def test_a_look_tells_what_torch_tells(
    steps: list[tuple[Callable[[list[torch.Tensor], int], None], int]], looks: set[int]
) -> None:
    with torch.no_grad():
        tensors: list[torch.Tensor] = [torch.nn.Parameter(torch.zeros(2)) for _ in range(COUNT)]
        found = _core.Versions(tensors)
        total = sum(tensor._version for tensor in tensors)
        for i, (act, at) in enumerate(steps):
            act(tensors, at)
            if i in looks:
                now = sum(tensor._version for tensor in tensors)
                assert found.changed() == (now != total)
                total = now
        assert found.changed() == (sum(tensor._version for tensor in tensors) != total)
        assert not found.changed()


@pytest.mark.usefixtures("known")
def test_a_tensor_that_counts_no_more_raises() -> None:
    tensor = torch.zeros(2)
    found = _core.Versions([tensor])
    with torch.inference_mode():
        uncounted = torch.zeros(2)
    torch.utils.swap_tensors(tensor, uncounted)
    with pytest.raises(RuntimeError, match="version counter"):
        found.changed()
