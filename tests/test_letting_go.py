"""What a program lets go of goes: models by `del`, parts of them, tensors."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import nn

import vramx

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

X = torch.linspace(-1, 1, 256).view(2, 128)


def test_a_model_that_nobody_refers_to_frees_its_memory_while_the_session_is_open(
    open_session: OpenSession, linears: Linears
) -> None:
    with torch.no_grad(), open_session(4 * BLOCK) as session:
        for seed in range(4):
            model = linears(8, seed=seed)
            expected = model(X)
            session.manage(model)
            for _ in range(3):
                assert torch.equal(model(X), expected)
            assert session.stats().managed == 8 * BLOCK
            del model
            gc.collect()
            assert session.stats().managed == 0
            assert session.stats().resident == 0
        assert session.modules() != []  # their counts are told still
        assert "module Sequential" not in session.report()


def test_a_part_that_is_kept_works_on_and_is_put_back(
    open_session: OpenSession, linears: Linears
) -> None:
    with torch.no_grad(), open_session(4 * BLOCK, block=BLOCK) as session:
        model = nn.ModuleDict({"kept": linears(4), "gone": linears(4, seed=1)})
        kept, expected = model["kept"], model["kept"](X)
        session.manage(model)
        assert torch.equal(kept(X), expected)
        del model
        gc.collect()
        for _ in range(3):
            assert torch.equal(kept(X), expected)
        session.report()
        kept[0].weight.mul_(2)
        doubled = kept(X)
    assert torch.equal(kept(X), doubled)
    assert "_compiled_call_impl" not in vars(kept[0])


def test_other_models_go_on_when_one_is_let_go(open_session: OpenSession, linears: Linears) -> None:
    stays = linears(6)
    with torch.no_grad(), open_session(4 * BLOCK) as session:
        expected = stays(X)
        session.manage(stays)
        for seed in range(3):
            other = linears(6, seed=seed + 1)
            session.manage(other)
            for _ in range(4):
                other(X)
                assert torch.equal(stays(X), expected)
            del other
            gc.collect()
            for _ in range(3):
                assert torch.equal(stays(X), expected)
    assert torch.equal(stays(X), expected)


def test_a_policy_in_python_may_be_asked_while_garbage_is_collected(
    open_session: OpenSession, linears: Linears
) -> None:
    class Policy:
        """Makes garbage as it decides, in which a managed model may be."""

        def __init__(self) -> None:
            self.blocks: dict[int, None] = {}

        def fetched(self, block: int) -> None:
            self.blocks[block] = None
            [[] for _ in range(2000)]

        def leased(self, block: int) -> None:
            self.blocks[block] = self.blocks.pop(block, None)

        def evicted(self, block: int) -> None:
            self.blocks.pop(block, None)

        def victim(self, evictable: Callable[[int], bool]) -> int | None:
            cycle: list[object] = []
            cycle.append(cycle)
            return next((block for block in self.blocks if evictable(block)), None)

    before = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        with torch.no_grad(), open_session(3 * BLOCK, policy=Policy()) as session:
            stays = linears(6)
            session.manage(stays)
            for seed in range(6):
                other = linears(6, seed=seed)
                session.manage(other)
                other(X)
                del other
                stays(X)
            gc.collect()
            assert session.stats().managed == 6 * BLOCK
    finally:
        gc.set_threshold(*before)
