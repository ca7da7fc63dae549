"""Any sequence of what a program may ask: no byte is lost, the budget holds, and every byte counts.

A model in plain Python knows every byte that the program wrote and every lease it holds. It is
compared with the core on the simulated card, which poisons what is not there and carries out copies
and kernels at moments that a seed chooses.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import vramx
from bare_calls import call_of, context_of
from vramx import _core
from vramx._core import Advice, Moment, Operation, Purpose

GRANULE = 4096
BLOCK = 4 * GRANULE
ALIGNMENT = 512  # of what is packed into one range
#: Programs that are run, at random; a fixed few where nothing is asked. `make thorough` runs 500.
PROGRAMS = os.environ.get("VRAMX_TEST_PROGRAMS")

sizes = st.one_of(
    st.integers(1, 2 * GRANULE), st.integers(1, 3 * BLOCK), st.sampled_from([BLOCK, 2 * BLOCK])
)
indexes = st.integers(0, 2**16)
seconds = st.sampled_from([0.0, 1e-6, 1e-3, 1.0])
streams = st.sampled_from([0, 0, 0, 7])

#: A block: the range it belongs to, and its place there.
Block = tuple[int, int]


@dataclass
class Piece:
    """A piece of memory and what is in it."""

    memory: Any
    expected: np.ndarray
    range: int | None  # which reserved range it is part of; scratch shares ranges unseen
    blocks: list[Block]
    #: Stands for a framework's storage, which the core may point at another copy.
    storage: Any = None
    #: The streams with kernels that use it, which nobody waited for, and whether those write.
    streams: set[int] = field(default_factory=set)
    filled: bool = False
    stays: bool = False  # on the card

    def __post_init__(self) -> None:
        self.storage = (ctypes.c_size_t * 6)(self.memory.address)

    @property
    def span(self) -> tuple[int, int]:
        return self.memory.address, self.memory.nbytes

    @property
    def address(self) -> int:
        """Where the program uses it now."""
        return self.storage[0]

    @property
    def view(self) -> np.ndarray:
        return np.frombuffer(
            (ctypes.c_uint8 * self.memory.nbytes).from_address(self.address), np.uint8
        )


@dataclass
class Group:
    """Pieces that a module uses, and its call."""

    pieces: list[Piece]
    call: Any


@dataclass
class Lease:
    pieces: list[Piece]
    stream: int
    give: Callable[[], None]


def pattern(size: int, seed: int) -> np.ndarray:
    """Bytes that differ from place to place and from seed to seed, and are never the poison."""
    return ((np.arange(size, dtype=np.uint32) * 7 + seed * 13) % 211).astype(np.uint8)


class ProgramOnACard(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: dict[int, Piece] = {}
        self.groups: dict[int, Group] = {}
        self.leases: list[Lease] = []
        self.keys = itertools.count()
        self.most_budget = 0
        self.checks: list[_core.Check] = []
        self.present_stream = 0
        self.work: Callable[[], None] = lambda: None

    @initialize(
        policy=st.sampled_from(["adaptive", "adaptive", "lru", "mru", "clairvoyant"]),
        blocks=st.integers(2, 9),
        over_link=st.booleans(),
        latency=st.sampled_from([0.0, 1e-5]),
        two_addresses=st.booleans(),
        managed_access=st.booleans(),
        check_drops=st.booleans(),
        threaded=st.booleans(),
        moment=st.sampled_from(Moment),
        seed=st.integers(0, 2**32),
    )
    def open(
        self,
        policy: str,
        blocks: int,
        over_link: bool,
        latency: float,
        two_addresses: bool,
        managed_access: bool,
        check_drops: bool,
        threaded: bool,
        moment: Moment,
        seed: int,
    ) -> None:
        self.reads_over_link = over_link
        self.confined = not managed_access
        self.threaded = threaded
        _core.set_moments(moment, seed)
        self.budget = self.most_budget = blocks * BLOCK + GRANULE
        self.device = _core.SimulatedDevice(
            capacity=16 * BLOCK,
            link_up=1e9,
            link_down=5e8,
            latency=latency,
            lanes=2,
            granule=GRANULE,
            host_memory=2**30,
            reads_over_link=over_link,
            host_addresses=two_addresses,
            managed_access=managed_access,
            check_drops=check_drops,
        )
        self.core = _core.Core(
            device=self.device,
            budget=self.budget,
            block=BLOCK,
            policy=policy,
            threaded=threaded,
            host_limit=2**30,
        )
        here = weakref.ref(self)
        self.context = context_of(self.core, lambda _: here().present_stream)

    # Helpers

    def attempt(self, call: Callable[[], Any]) -> tuple[bool, Any]:
        """Whether a call went through; else a fault, or room that cannot be, stopped it."""
        before = self.core.stats()
        try:
            return True, call()
        except (vramx.DeviceError, vramx.OutOfMemoryError) as error:
            if "injected failure" not in str(error):
                assert isinstance(error, vramx.OutOfMemoryError)
                assert self.confined or not self.reads_over_link
                assert self.confined or error.asked + before.leased > before.budget
                assert error.asked + error.leased > before.budget
            assert self.core.stats().leased == before.leased
            return False, None

    def no_more_faults(self) -> None:
        for operation in (Operation.RESERVE, Operation.FETCH, Operation.EVICT, Operation.MAP_HOST):
            self.device.fail(operation, 0)

    def pick(self, index: int) -> Piece:
        return [*self.pieces.values()][index % len(self.pieces)]

    def pick_some(self, some: list[int]) -> list[Piece]:
        picked = {id(piece): piece for piece in (self.pick(index) for index in some)}
        return [*picked.values()]

    def holds(self, piece: Piece) -> bool:
        return any(each is piece for lease in self.leases for each in lease.pieces)

    def held_blocks(self) -> Counter[Block]:
        return Counter(
            block
            for lease in self.leases
            for block in {block for piece in lease.pieces for block in piece.blocks}
        )

    def in_use(self, pieces: list[Piece]) -> bool | None:
        """Whether a lease holds one of the blocks; None where the model does not know."""
        held = self.held_blocks()
        if any(block in held for piece in pieces for block in piece.blocks):
            return True
        if any(self.holds(piece) for piece in pieces):
            return True
        scratch_held = any(p.range is None for lease in self.leases for p in lease.pieces)
        if scratch_held and any(piece.range is None for piece in pieces):
            return None
        return False

    def refused_if_in_use(self, pieces: list[Piece], call: Callable[[], Any]) -> bool:
        """Whether a call, which is refused where a lease holds something, went through."""
        in_use = self.in_use(pieces)
        before = self.core.stats()
        try:
            done, _ = self.attempt(call)
        except vramx.InUseError:
            assert in_use is not False
            assert self.threaded or self.core.stats().resident == before.resident
            assert self.core.stats().leased == before.leased
            return False
        assert in_use is not True or not done
        return done

    def leased(self, piece: Piece, stream: int, act: Callable[[], None]) -> None:
        """Act on a piece under a lease of its own."""
        done, _ = self.attempt(lambda: self.core.take([piece.span], stream, True))
        if done:
            try:
                self.wait_for_kernels(piece, stream)
                act()
            finally:
                self.core.give([piece.span], stream, True)

    def wait_for_kernels(self, piece: Piece, *streams: int) -> None:
        """Wait for the program's kernels that use a piece, as the processor must before it does."""
        held_on = [lease.stream for lease in self.leases if any(p is piece for p in lease.pieces)]
        for stream in (*piece.streams, *streams, *held_on):
            self.device.synchronize(stream)
        piece.streams.clear()
        piece.filled = False

    def check(self, piece: Piece) -> None:
        self.wait_for_kernels(piece)
        assert np.array_equal(piece.view, piece.expected)

    def launch(self, piece: Piece, stream: int, fill: int | None) -> None:
        """Check a piece by a kernel, and fill it with a pattern by another."""
        if piece.filled or fill is not None:
            for other in piece.streams - {stream}:
                self.device.synchronize(other)
        piece.streams.add(stream)
        check = self.device.launch_check(piece.address, piece.expected.tobytes(), stream)
        self.checks.append(check)
        if fill is not None:
            piece.expected = pattern(piece.expected.size, fill)
            self.device.launch_fill(piece.address, piece.expected.tobytes(), stream)
            self.core.written([piece.span])
            piece.filled = True

    def settle_moves(self) -> None:
        """Let the mover's thread come to rest; setting a budget waits for what was decided."""
        self.attempt(lambda: self.core.set_budget(self.budget))

    # Memory comes and goes

    @rule(given=st.lists(sizes, min_size=1, max_size=4), purpose=st.sampled_from(Purpose))
    def adopt(self, given: list[int], purpose: Purpose) -> None:
        done, memories = self.attempt(lambda: self.core.reserve(given, purpose))
        if not done:
            return
        start, number = memories[0].address, next(self.keys)
        copies = []
        for memory in memories:
            first = (memory.address - start) // BLOCK
            last = (memory.address + memory.nbytes - 1 - start) // BLOCK
            blocks = [(number, place) for place in range(first, last + 1)]
            key = next(self.keys)
            expected = pattern(memory.nbytes, key)
            stays = self.confined and purpose is Purpose.SCRATCH
            piece = self.pieces[key] = Piece(memory, expected, number, blocks, stays=stays)
            if purpose is Purpose.WEIGHTS:
                self.core.point(ctypes.addressof(piece.storage), *piece.span)
            copies.append((memory.address, expected.ctypes.data, memory.nbytes))
        self.core.store(copies)

    @rule(size=sizes, stream=streams)
    def allocate(self, size: int, stream: int) -> None:
        done, memory = self.attempt(lambda: self.core.empty(size, stream))
        if not done:
            return
        content = pattern(memory.nbytes, next(self.keys))
        piece = Piece(memory, content, None, [], stays=self.confined)
        self.no_more_faults()

        def fill() -> None:
            piece.view[:] = piece.expected
            self.core.written([piece.span])
            self.pieces[next(self.keys)] = piece

        self.leased(piece, stream, fill)  # where it does not fit it is given back at once

    @precondition(lambda self: self.pieces)
    @rule(index=indexes)
    def forget(self, index: int) -> None:
        key = [*self.pieces][index % len(self.pieces)]
        if self.holds(self.pieces[key]):
            return
        gone = self.pieces.pop(key)
        self.wait_for_kernels(gone)
        if gone.range is not None:
            self.core.unpoint(gone.span[0], 1)
        # A group keeps its memory alive, as modules do; else new memory might be leased with it.
        for group in [
            g for g, group in self.groups.items() if any(p is gone for p in group.pieces)
        ]:
            self.core.undefine(group)
            del self.groups[group]
        del gone
        gc.collect(0)

    @rule()
    def trim(self) -> None:
        self.core.trim()

    # Bytes are written and read

    @precondition(lambda self: self.pieces)
    @rule(index=indexes, seed=st.integers(0, 200), stream=streams, part=st.booleans())
    def write(self, index: int, seed: int, stream: int, part: bool) -> None:
        piece = self.pick(index)

        def act() -> None:
            self.check(piece)
            where = slice(piece.view.size // 3, None) if part else slice(None)
            piece.expected = piece.expected.copy()
            piece.expected[where] = pattern(piece.expected[where].size, seed)
            piece.view[where] = piece.expected[where]
            self.core.written([piece.span])

        act() if self.holds(piece) else self.leased(piece, stream, act)

    @precondition(lambda self: self.pieces)
    @rule(index=indexes, stream=streams)
    def read(self, index: int, stream: int) -> None:
        piece = self.pick(index)
        self.leased(piece, stream, lambda: self.check(piece))

    @precondition(lambda self: self.pieces)
    @rule(index=indexes, seed=st.integers(0, 200))
    def store(self, index: int, seed: int) -> None:
        piece = self.pick(index)
        source = pattern(piece.expected.size, seed)
        self.wait_for_kernels(piece)
        copy = (piece.span[0], source.ctypes.data, source.size)
        if self.refused_if_in_use([piece], lambda: self.core.store([copy])):
            piece.expected = source

    @precondition(lambda self: self.pieces)
    @rule(index=indexes)
    def load(self, index: int) -> None:
        piece = self.pick(index)
        target = np.zeros(piece.expected.size, np.uint8)
        self.wait_for_kernels(piece)
        copy = (piece.span[0], target.ctypes.data, target.size)
        if self.refused_if_in_use([piece], lambda: self.core.load([copy])):
            assert np.array_equal(target, piece.expected)

    # Groups and leases

    @precondition(lambda self: self.pieces)
    @rule(some=st.lists(indexes, min_size=1, max_size=4))
    def define(self, some: list[int]) -> None:
        pieces = self.pick_some(some)
        ranges = [each.span for each in pieces]
        group = self.core.define(ranges)
        call = call_of(self.context, group, lambda: self.work())  # noqa: PLW0108
        call.lease(ranges, [], [], [], False)
        self.groups[group] = Group(pieces, call)

    @precondition(lambda self: self.groups)
    @rule(index=indexes, some=st.lists(indexes, min_size=1, max_size=4))
    def redefine(self, index: int, some: list[int]) -> None:
        group = [*self.groups][index % len(self.groups)]
        pieces = self.pick_some(some)
        ranges = [each.span for each in pieces]
        old = self.groups[group]
        if any(lease.pieces is old.pieces for lease in self.leases):
            with pytest.raises(vramx.InUseError):
                self.core.redefine(group, ranges)
            return
        self.core.redefine(group, ranges)
        old.call.lease(ranges, [], [], [], False)
        self.groups[group] = Group(pieces, old.call)

    @precondition(lambda self: self.groups)
    @rule(index=indexes)
    def undefine(self, index: int) -> None:
        group = [*self.groups][index % len(self.groups)]
        if any(lease.pieces is self.groups[group].pieces for lease in self.leases):
            return
        self.core.undefine(group)
        del self.groups[group]

    @precondition(lambda self: self.groups)
    @rule(index=indexes, rounds=st.integers(1, 3))
    def guess(self, index: int, rounds: int) -> None:
        groups = [*self.groups]
        first = index % len(groups)
        self.core.guess((groups[first:] + groups[:first]) * rounds)

    @precondition(lambda self: self.groups)
    @rule(
        index=indexes,
        stream=streams,
        work=seconds,
        kernels=st.booleans(),
        fill=st.none() | st.integers(0, 200),
    )
    def run(self, index: int, stream: int, work: float, kernels: bool, fill: int | None) -> None:
        """A module: a call under a lease, which computes."""
        group = [*self.groups.values()][index % len(self.groups)]

        def compute() -> None:
            for piece in group.pieces:
                if kernels:
                    self.launch(piece, stream, fill)
                else:
                    self.wait_for_kernels(piece, stream)
                    self.check(piece)
            self.device.compute(work, stream)

        self.present_stream, self.work = stream, compute
        self.attempt(group.call)
        self.work = lambda: None  # which keeps no piece

    @precondition(lambda self: self.groups)
    @rule(work=seconds)
    def run_all(self, work: float) -> None:
        """A pass of a model."""
        for index in range(len(self.groups)):
            self.run(index, 0, work, kernels=index % 2 == 0, fill=None)

    @precondition(lambda self: self.groups and len(self.leases) < 3)
    @rule(index=indexes, stream=streams)
    def acquire(self, index: int, stream: int) -> None:
        group = [*self.groups][index % len(self.groups)]
        done, _ = self.attempt(lambda: self.core.acquire(group, stream))
        if done:
            give = lambda: self.core.release(group, stream)  # noqa: E731
            self.leases.append(Lease(self.groups[group].pieces, stream, give))

    @precondition(lambda self: self.pieces and len(self.leases) < 3)
    @rule(some=st.lists(indexes, min_size=1, max_size=3), stream=streams, pins=st.booleans())
    def take(self, some: list[int], stream: int, pins: bool) -> None:
        pieces = self.pick_some(some)
        ranges = [each.span for each in pieces]
        done, _ = self.attempt(lambda: self.core.take(ranges, stream, not pins))
        if done:
            give = lambda: self.core.give(ranges, stream, not pins)  # noqa: E731
            self.leases.append(Lease(pieces, stream, give))

    @precondition(lambda self: self.leases)
    @rule(index=indexes, work=seconds)
    def release(self, index: int, work: float) -> None:
        lease = self.leases[index % len(self.leases)]
        for piece in lease.pieces:
            self.check(piece)
        self.device.compute(work)
        lease.give()
        self.leases.remove(lease)

    # Moves

    @precondition(lambda self: self.pieces)
    @rule(some=st.lists(indexes, min_size=1, max_size=3))
    def evict(self, some: list[int]) -> None:
        pieces = self.pick_some(some)
        ranges = [each.span for each in pieces]
        if self.refused_if_in_use(pieces, lambda: self.core.evict(ranges)):
            assert not any(self.core.on_card([each.span]) for each in pieces if not each.stays)
            assert all(self.core.on_card([each.span]) for each in pieces if each.stays)

    @precondition(lambda self: self.pieces)
    @rule(some=st.lists(indexes, min_size=1, max_size=5))
    def prefetch(self, some: list[int]) -> None:
        ranges = [each.span for each in self.pick_some(some)]
        self.attempt(lambda: self.core.prefetch(ranges))

    @precondition(lambda self: self.pieces)
    @rule(index=indexes, advice=st.sampled_from(Advice))
    def advise(self, index: int, advice: Advice) -> None:
        piece = self.pick(index)
        moves = advice in (Advice.PREFERRED_HOST, Advice.UNSET_READ_MOSTLY)
        call = lambda: self.core.advise([piece.span], advice)  # noqa: E731
        try:
            self.refused_if_in_use([piece], call) if moves else self.attempt(call)
        except vramx.ConfigError:
            assert piece.stays or not self.reads_over_link
            assert moves or advice is Advice.ACCESSED_BY
            assert piece.stays or advice is not Advice.UNSET_READ_MOSTLY

    @rule(blocks=st.integers(1, 9))
    def set_budget(self, blocks: int) -> None:
        budget = min(blocks * BLOCK, self.most_budget)
        before = self.core.stats()
        try:
            previous = self.core.set_budget(budget)
        except vramx.DeviceError as error:
            assert "injected failure" in str(error)
        except vramx.OutOfMemoryError as error:
            assert error.asked == budget < error.leased
            assert self.confined or error.leased == before.leased
            assert error.leased >= before.leased
        else:
            assert before.leased <= budget
            assert previous == self.budget
            self.budget = budget

    @rule(operation=st.sampled_from(Operation), nth=st.integers(1, 4))
    def break_something(self, operation: Operation, nth: int) -> None:
        self.device.fail(operation, nth)

    # What always holds

    @invariant()
    def the_budget_holds(self) -> None:
        if self.most_budget:
            assert self.device.on_card <= self.budget
            assert self.device.peak_on_card <= self.most_budget
            assert self.core.stats().peak_resident <= self.most_budget
            assert self.core.stats().budget == self.budget

    @invariant()
    def every_byte_counts(self) -> None:
        if self.most_budget and not self.threaded:
            self.count_every_byte()

    @precondition(lambda self: self.threaded)
    @rule()
    def count_at_rest(self) -> None:
        self.settle_moves()
        self.no_more_faults()
        self.settle_moves()
        self.count_every_byte()

    def count_every_byte(self) -> None:
        stats = self.core.stats()
        assert stats.resident == self.device.on_card
        assert stats.leased <= stats.resident
        assert stats.leased == 0 or self.leases
        assert stats.moved_out == self.device.moved_out
        assert stats.moved_in + stats.over_link == self.device.moved_in
        left = stats.dropped + stats.discarded + stats.moved_out
        assert (left > 0) == (stats.evictions > 0)

    @invariant()
    def kernels_find_the_right_bytes(self) -> None:
        assert not any(check.wrong for check in self.checks)

    @invariant()
    def leased_bytes_are_there(self) -> None:
        for lease in self.leases:
            assert self.core.leased([each.span for each in lease.pieces])
            for piece in lease.pieces:
                self.check(piece)

    def teardown(self) -> None:
        if not self.most_budget or sys.exc_info()[0] is not None:
            return  # a failure, whose traceback holds memory, must not be hidden by another
        self.no_more_faults()
        while self.leases:
            self.leases.pop().give()
        assert self.core.stats().leased == 0
        assert self.core.set_budget(self.most_budget) == self.budget
        self.budget = self.most_budget
        self.all_bytes_are_right()
        self.count_every_byte()
        self.the_budget_holds()
        self.device.synchronize_all()
        assert all(check.done for check in self.checks)
        self.kernels_find_the_right_bytes()
        self.groups.clear()
        self.pieces.clear()
        gc.collect()
        self.core.trim()
        stats = self.core.stats()
        assert (stats.managed, stats.resident, self.device.on_card) == (0, 0, 0)
        assert self.device.free_bytes == self.device.capacity

    def all_bytes_are_right(self) -> None:
        for piece in self.pieces.values():
            self.leased(piece, 0, lambda piece=piece: self.check(piece))
            target = np.zeros(piece.expected.size, np.uint8)
            self.wait_for_kernels(piece)
            self.core.load([(piece.span[0], target.ctypes.data, target.size)])
            assert np.array_equal(target, piece.expected)
            self.leased(piece, 0, lambda piece=piece: self.check(piece))
        self.core.close()
        for piece in self.pieces.values():
            self.check(piece)  # what outlives the core stays readable


@pytest.mark.timeout(0 if PROGRAMS else 1800)
class TestProgramOnACard(ProgramOnACard.TestCase):
    settings = settings(
        max_examples=int(PROGRAMS or 200),
        stateful_step_count=30,
        derandomize=PROGRAMS is None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def test_the_budget_holds_after_it_was_shrunk_and_grown(open_core: Callable[..., Any]) -> None:
    """Memory that was freed comes with nothing to copy, and what comes next counts on its room."""
    most = 5 * BLOCK + GRANULE
    core, device = open_core(most, block=BLOCK, reads_over_link=False)
    pieces = []

    def use(memory: Any) -> None:
        core.take([(memory.address, memory.nbytes)], 0, True)
        core.written([(memory.address, memory.nbytes)])
        core.give([(memory.address, memory.nbytes)], 0, True)

    def allocate(size: int) -> None:
        memory = core.empty(size, 0)
        with contextlib.suppress(vramx.OutOfMemoryError):
            use(memory)
            pieces.append(memory)

    for size in (2 * BLOCK - 511, BLOCK - 511, 2 * BLOCK - 511):
        allocate(size)
    for blocks in (1, 3):
        core.set_budget(blocks * BLOCK)
    allocate(BLOCK + 1)
    core.set_budget(most)
    for memory in pieces:
        use(memory)
        target = np.zeros(memory.nbytes, np.uint8)
        core.load([(memory.address, target.ctypes.data, target.size)])
        use(memory)
    assert device.peak_on_card <= most
