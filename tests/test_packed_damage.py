"""Packed copies that are damaged on the host: errors that name weights, and right passes after."""

from __future__ import annotations

import random
import threading

import pytest
import torch
from torch import nn

import vramx
from vramx import _core
from vramx.integrations.torch.internals.layout import storage_address

pytestmark = pytest.mark.usefixtures("no_open_session", "one_thread")

WIDTH, LAYERS = 256, 24
#: A layer's bytes in bfloat16: a block.
BLOCK = 2 * WIDTH * WIDTH
X = torch.ones(1, WIDTH, dtype=torch.bfloat16)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(LAYERS))
    )


def opened() -> vramx.Session:
    with vramx.simulate(capacity="64MiB", unpack_rate="1TB/s"):
        return vramx.oversubscribe(
            14 * BLOCK, backend="simulated", block=BLOCK, compress="always", policy="lru"
        )


def damage(session: vramx.Session, weight: torch.Tensor, bit: int) -> None:
    """Flip a bit of a weight's packed copy on the host."""
    device = session.device
    assert isinstance(device, _core.SimulatedDevice)
    device.damage(_core.card_address(storage_address(weight.untyped_storage())), bit)


def test_any_flipped_bit_is_an_error_that_names_the_weight_and_the_next_pass_is_right() -> None:
    model = layers()
    expected = model(X)
    chance = random.Random(5)
    with opened() as session:
        session.manage(model, name="net")
        assert torch.equal(model(X), expected)
        for layer in chance.sample(range(LAYERS), 5):
            session.evict(model)
            damage(session, model[layer].weight, chance.getrandbits(40))
            named = rf"damaged: net\.{layer}\.weight \(a block of 128"
            with pytest.raises(vramx.CorruptedError, match=named):
                model(X)
            for _ in range(2):
                assert torch.equal(model(X), expected)


def test_damage_that_no_call_has_told_is_told_as_the_scope_ends_and_the_session_is_closed() -> None:
    model = layers()
    expected = model(X)
    session = opened()
    with pytest.raises(vramx.CorruptedError, match=r"net\.3\.weight"), session:
        session.manage(model, name="net")
        session.evict(model)
        damage(session, model[3].weight, 9)
        session.prefetch(model[3])
    assert session.closed
    assert torch.equal(model(X), expected)


def test_who_watches_a_session_takes_no_error_away_from_the_program() -> None:
    model = layers()
    with opened() as session:
        session.manage(model, name="net")
        session.evict(model)
        damage(session, model[0].weight, 9)
        session.prefetch(model[0])
        watcher = threading.Thread(target=session.stats)
        watcher.start()
        watcher.join()
        with pytest.raises(vramx.CorruptedError, match=r"net\.0\.weight"):
            model(X)
        model(X)


def test_an_error_of_the_program_leaves_its_scope_whatever_was_damaged() -> None:
    model = layers()
    with pytest.raises(KeyError), opened() as session:
        session.manage(model, name="net")
        session.evict(model)
        damage(session, model[3].weight, 9)
        session.prefetch(model[3])
        raise KeyError
    assert session.closed
