"""Weights with two copies: their storages point at the host's but under a lease, then the card's.

On the loopback driver, whose cards' memory the processor reads as well, with tensors of torch's on
the CPU: a use of what is away would fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramx
from bare_calls import call_of, context_of
from loopback.control import UNKNOWN, Loopback
from vramx import _core
from vramx.integrations.torch.memory import storage_range

pytest_plugins = ("loopback.fixture",)

BLOCK = 2 * 2**20


class Weight:
    """A tensor of `blocks` blocks and calls that lease it."""

    def __init__(self, core: Any, blocks: int = 1, calls: int = 1) -> None:
        self.core = core
        (self.memory,) = core.reserve([blocks * BLOCK], _core.Purpose.WEIGHTS)
        zeros = np.zeros(blocks * BLOCK, np.uint8)
        core.store([(self.memory.address, zeros.ctypes.data, zeros.nbytes)])
        self.tensor = torch.from_numpy(np.asarray(self.memory))
        self.range = (self.memory.address, self.memory.nbytes)
        self.points = core.point(self.tensor.untyped_storage()._cdata, *self.range)
        self.work: Callable[[], Any] = lambda: None
        group = core.define([self.range])
        here = weakref.ref(self)
        self.context = context_of(core, int)
        self.calls = [
            call_of(self.context, group, lambda: here().work())  # type: ignore[union-attr]
            for _ in range(calls)
        ]
        for call in self.calls:
            call.lease([self.range], [], [self.tensor], [self.tensor], False)

    @property
    def value(self) -> int:
        """What all of its bytes are."""
        low, high = self.tensor.aminmax()
        assert low == high
        return int(low)

    @property
    def at_card(self) -> bool:
        return self.tensor.data_ptr() == self.memory.address

    def call(self, work: Callable[[], Any], call: int = 0) -> Any:
        """Do some work under a lease."""
        outer, self.work = self.work, work
        try:
            return self.calls[call]()
        finally:
            self.work = outer

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Lease it as `Session.pin` does."""
        for each in self.calls:
            each.note_writes()
        self.core.take([self.range], 0, False)
        try:
            yield
        finally:
            self.core.give([self.range], 0, False)


@pytest.fixture
def driver(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    return loopback


@contextlib.contextmanager
def core_of(blocks: int, backend: str = "mapped", **options: Any) -> Iterator[Any]:
    with contextlib.closing(
        vramx.oversubscribe(blocks * BLOCK, backend=backend, block=BLOCK, **options)
    ) as session:
        yield session._core


def test_a_storage_points_at_the_card_under_a_lease_and_only_then(driver: Loopback) -> None:
    with core_of(1) as core:
        weights = [Weight(core), Weight(core)]
        for weight in [*weights, *weights]:
            assert weight.points
            assert not weight.calls[0].loses_writes
            assert not weight.at_card
            alias = weight.tensor[3:9]
            seen = weight.call(lambda w=weight, a=alias: (w.at_card, a.data_ptr(), w.value))
            assert seen == (True, weight.memory.address + 3, 0)
            assert not weight.at_card
            assert storage_range(weight.tensor) == storage_range(alias) == weight.range
            with weight.pinned(), weight.pinned():
                assert weight.at_card
                weight.call(lambda: None)
                assert weight.at_card
            assert not weight.at_card
        core.unpoint(*weights[0].range)
        assert storage_range(weights[0].tensor) != weights[0].range
        assert weights[0].value == 0
    assert driver.counts.faulted == 0


@pytest.mark.usefixtures("driver")
def test_managed_weights_have_one_address() -> None:
    with core_of(1, backend="managed") as core:
        weight = Weight(core)
        assert not weight.points
        assert weight.calls[0].loses_writes
        assert weight.at_card


@pytest.mark.usefixtures("driver")
def test_what_does_not_show_its_address_is_refused() -> None:
    with core_of(1) as core:
        weight = Weight(core)
        other = torch.zeros(4)
        with pytest.raises(vramx.ConfigError, match="keep a storage's address"):
            core.point(other.untyped_storage()._cdata, *weight.range)
        assert other.sum() == 0


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("work", ["read", "write"])
def test_an_error_in_a_call_leaves_the_bytes_and_no_lease(work: str) -> None:
    with core_of(1) as core:
        weight, other = Weight(core), Weight(core)

        def fail() -> None:
            if work == "write":
                weight.tensor.add_(5)
            raise KeyError("the program's own")

        with pytest.raises(KeyError):
            weight.call(fail)
        assert not weight.at_card
        other.call(lambda: None)
        assert weight.value == weight.call(lambda: weight.value) == (5 if work == "write" else 0)


def test_a_refresh_that_fails_is_told_and_done_by_the_next_call(driver: Loopback) -> None:
    with core_of(2) as core:
        weight = Weight(core)
        weight.call(lambda: None)
        weight.tensor.add_(7)
        driver.fail("cuMemcpyHtoDAsync_v2", UNKNOWN)
        with pytest.raises(vramx.DeviceError):
            weight.call(lambda: None)
        assert not weight.at_card
        assert weight.call(lambda: weight.value) == weight.value == 7


STEPS = st.tuples(
    st.integers(0, 3),
    st.sampled_from(
        [
            "call",
            "call and write",
            "call and write untold",
            "call and write in a tied call",
            "read",
            "write",
            "write untold",
            "write, then pin",
            "pin and write",
            "pin and call and write",
            "evict",
            "prefetch",
        ]
    ),
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # nothing is left in the driver
)
@given(steps=st.lists(STEPS, max_size=40), budget=st.integers(1, 4))
def test_every_reader_sees_the_last_write_wherever_it_was_made(
    loopback: Loopback, steps: list[tuple[int, str]], budget: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
        with core_of(budget) as core:
            weights = [Weight(core, calls=2) for _ in range(4)]
            values = [0] * 4
            for which, step in steps:
                values[which] = take_step(core, weights[which], step, values[which])
                assert weights[which].value == values[which]
            for weight, value in zip(weights, values):
                assert weight.call(lambda w=weight: w.value) == value
                assert weight.value == value
    assert loopback.counts.faulted == 0


def take_step(core: Any, weight: Weight, step: str, value: int) -> int:
    """Do one thing to a weight that has this value; returns the one it has to have then."""
    tensor = weight.tensor

    def write() -> None:
        assert weight.value == value
        tensor.fill_(value + 1)

    def write_untold() -> None:
        assert weight.value == value
        np.asarray(tensor.numpy())[:] = value + 1
        core.written([storage_range(tensor)])

    if step == "call":
        assert weight.call(lambda: weight.value) == value
    elif step == "call and write":
        weight.call(write)
    elif step == "call and write untold":
        weight.call(write_untold)
    elif step == "call and write in a tied call":
        weight.call(lambda: weight.call(write, 1))
    elif step == "write":
        write()
    elif step == "write untold":
        write_untold()
    elif step == "write, then pin":
        write()
        with weight.pinned():
            assert weight.value == value + 1
    elif step == "pin and write":
        with weight.pinned():
            write()
    elif step == "pin and call and write":
        with weight.pinned():
            weight.call(write)
    elif step == "evict":
        core.evict([weight.range])
    elif step == "prefetch":
        core.prefetch([weight.range])
    return value + 1 if "write" in step else value


# Where the host has packed copies alone


def readable(address: int) -> bool:
    """Tell whether the process may read a byte, by having the system read it."""
    here, there = os.pipe()
    try:
        return ctypes.CDLL(None).write(there, ctypes.c_void_p(address), 1) == 1
    finally:
        os.close(here)
        os.close(there)


needs_kernels = pytest.mark.skipif(
    not _core.packing_kernels()[0], reason="this build has no kernels that pack"
)


@needs_kernels
def test_without_a_host_copy_storages_point_at_nothing_but_under_a_lease(driver: Loopback) -> None:
    driver.set_copies_pageable(1)
    with core_of(2, host="packed") as core:
        weights = [Weight(core), Weight(core), Weight(core)]
        for value, weight in enumerate([*weights, *weights]):
            assert weight.points
            assert weight.calls[0].loses_writes  # the card's copy alone has them
            assert core.host_address(weight.memory.address) == 0
            assert not readable(weight.tensor.data_ptr())
            assert storage_range(weight.tensor) == weight.range
            weight.call(lambda w=weight, v=value: w.tensor.fill_(v))
            assert not readable(weight.tensor.data_ptr())
        for value, weight in enumerate(weights):
            with weight.pinned():
                assert weight.at_card
                assert weight.value == value + len(weights)
        idle = [weight.tensor.data_ptr() for weight in weights]
        assert len({*idle}) == len(weights)
    for value, weight in enumerate(weights):
        assert weight.at_card  # they came there for good, as closing has them
        assert weight.value == value + len(weights)
    assert driver.counts.faulted == 0
