"""Tensors of one storage that do not overlap have places of their own, and go back into one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx
from vramx.integrations.torch.storages import split

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

X = torch.linspace(-1, 1, 256).view(2, 128)


def flatten(model: nn.Module) -> torch.Tensor:
    """Make all parameters views of one vector."""
    with torch.no_grad():
        flat = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        nn.utils.vector_to_parameters(flat, model.parameters())
    return flat


@pytest.mark.parametrize("reads_over_link", [True, False])
def test_layers_of_a_flat_model_are_leased_one_by_one(
    open_session: OpenSession, linears: Linears, reads_over_link: bool
) -> None:
    model = linears(16)
    expected = model(X)
    flatten(model)
    with (
        torch.no_grad(),
        open_session(4 * BLOCK, policy="lru", reads_over_link=reads_over_link) as session,
    ):
        session.manage(model)
        for _ in range(4):
            before = session.stats().moved_in
            assert torch.equal(model(X), expected)
            assert session.stats().moved_in - before == 16 * BLOCK
        assert session.stats().over_link == 0
        assert session.stats().moved_out == 0
    assert torch.equal(model(X), expected)


def test_what_was_one_storage_is_one_again(open_session: OpenSession, linears: Linears) -> None:
    model = linears(4)
    flatten(model)
    with open_session(2 * BLOCK) as session:
        session.manage(model)
    assert len({each.untyped_storage()._cdata for each in model.parameters()}) == 1
    offsets = [each.storage_offset() for each in model.parameters()]
    assert offsets == [128 * 128 * n for n in range(4)]


def test_a_layer_that_was_replaced_meanwhile_stays_apart(
    open_session: OpenSession, linears: Linears
) -> None:
    model = linears(4)
    flatten(model)
    plain = copy.deepcopy(model)
    with torch.no_grad(), open_session(2 * BLOCK) as session:
        session.manage(model)
        for each in (model, plain):
            each[1].weight = nn.Parameter(torch.full((128, 128), 0.01))
        for _ in range(3):
            assert torch.equal(model(X), plain(X))
    assert torch.equal(model(X), plain(X))


views = st.lists(
    st.tuples(
        st.integers(0, 200),  # offset
        st.tuples(st.integers(0, 5), st.integers(0, 5)),  # shape
        st.tuples(st.integers(0, 12), st.integers(0, 3)),  # strides
    ),
    min_size=1,
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(views=views, dtype=st.sampled_from([torch.uint8, torch.float16, torch.complex128]))
def test_parts_cover_their_tensors_and_do_not_overlap(
    views: list[tuple[int, tuple[int, int], tuple[int, int]]], dtype: torch.dtype
) -> None:
    base = torch.zeros(400, dtype=dtype)
    tensors = [base.as_strided(shape, stride, offset) for offset, shape, stride in views]
    parts = split(tensors)
    assert sorted(id(t) for _, _, held in parts for t in held) == sorted(map(id, tensors))
    for (before, size, _), (start, _, _) in zip(parts, parts[1:]):
        assert before + size <= start
    for start, size, held in parts:
        end = start + size
        assert 0 <= start < end <= base.nbytes
        for tensor in held:
            if tensor.numel():
                used = tensor.storage_offset() + torch.tensor(
                    [
                        i * tensor.stride(0) + j * tensor.stride(1)
                        for i in range(tensor.size(0))
                        for j in range(tensor.size(1))
                    ]
                )
                assert start <= int(used.min()) * dtype.itemsize
                assert (int(used.max()) + 1) * dtype.itemsize <= end
            assert (tensor.storage_offset() * dtype.itemsize - start) % dtype.itemsize == 0


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(views=views)
def test_views_of_one_storage_keep_their_values_and_what_they_share(
    open_session: OpenSession, views: list[tuple[int, tuple[int, int], tuple[int, int]]]
) -> None:
    base = torch.arange(400.0)
    model = nn.Module()
    for n, (offset, shape, stride) in enumerate(views):
        model.register_buffer(f"b{n}", base.as_strided(shape, stride, offset))
    plain = copy.deepcopy(model)
    with open_session(2 * BLOCK) as session:
        session.manage(model)
        for mine, other in zip(model.buffers(), plain.buffers()):
            assert torch.equal(mine, other)
        for each in (model, plain):
            if torch._debug_has_internal_overlap(each.b0) == 0:
                each.b0.add_(1)
        for mine, other in zip(model.buffers(), plain.buffers()):
            assert torch.equal(mine, other)
    for mine, other in zip(model.buffers(), plain.buffers()):
        assert torch.equal(mine, other)
