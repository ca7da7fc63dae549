"""In which batches a module's bytes are moved in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vramx
from vramx.integrations.torch import moving

BLOCK = 2**20
ALIGNMENT = 512


def batches(sizes: list[int], most: int) -> list[list[int]]:
    storages: list[Any] = [SimpleNamespace(nbytes=size) for size in sizes]
    taken = []
    while storages:
        taken.append([each.nbytes for each in moving.take_batch(storages, BLOCK, most)])
    return taken


@given(st.lists(st.integers(0, 6 * BLOCK), max_size=60))
def test_batches_hold_all_in_order_and_no_more_than_told_or_one(sizes: list[int]) -> None:
    most = 8 * BLOCK
    found = batches(sizes, most)
    assert [size for batch in found for size in batch] == sizes
    assert all(sum(batch) <= most or len(batch) == 1 for batch in found)


@given(st.lists(st.integers(BLOCK, 3 * BLOCK), min_size=40, max_size=40))
def test_a_batch_ends_where_least_of_a_block_is_left_empty(sizes: list[int]) -> None:
    most = 30 * BLOCK
    (batch, *_) = batches(sizes, most)

    def empty(count: int) -> int:
        return -sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes[:count]) % BLOCK

    others = [
        n for n in range(1, len(sizes)) if most // 2 + BLOCK <= sum(sizes[:n]) <= most - BLOCK
    ]
    assert all(empty(len(batch)) <= empty(count) for count in others)


def test_norms_of_a_layer_do_not_have_its_weights_come_for_them() -> None:
    """They lie together, in blocks of few bytes that every pass keeps."""
    layers = [
        nn.ModuleList([nn.LayerNorm(256), nn.Linear(256, 1024), nn.LayerNorm(256)])
        for _ in range(24)
    ]
    model = nn.ModuleList(layers)
    with (
        vramx.simulate(capacity="64MiB"),
        vramx.oversubscribe("64MiB", backend="simulated", block="256KiB") as session,
    ):
        session.manage(model)
        norms = [each for each in model.modules() if isinstance(each, nn.LayerNorm)]
        blocks = {each.weight.data_ptr() // 2**18 for each in norms}
        assert len(blocks) <= 2
