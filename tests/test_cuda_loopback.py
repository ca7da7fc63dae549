"""The CUDA backends end to end over the stand-in driver: bytes kept, budget held, traffic exact."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import vramx
from loopback.control import Counts, Loopback
from loopback.profiles import CONFINED, PROFILES
from loopback.weights import Weight, filled
from vramx import _core
from vramx.cards.nvml import pinned_rate
from vramx.cards.opening import open_card
from vramx.cards.pcie import link_rate
from vramx.config import Config

pytest_plugins = ("loopback.fixture",)

BLOCK = 2 * 2**20
UNLIMITED = 2**64 - 1


@dataclass
class Card:
    """The stand-in driver, and the backend that a test uses it with."""

    driver: Loopback
    backend: str

    @property
    def counts(self) -> Counts:
        return self.driver.counts

    def device(self) -> _core.Device:
        if self.backend == "managed":
            return _core.open_managed(driver=self.driver.path, ordinal=0)
        return _core.open_mapped(driver=self.driver.path, ordinal=0, unit=BLOCK)

    def core(self, budget: int, *, policy: str = "lru") -> _core.Core:
        """A core whose budget is a number of blocks."""
        return _core.Core(
            device=self.device(),
            budget=budget * BLOCK,
            block=BLOCK,
            policy=policy,
            threaded=True,
            host_limit=UNLIMITED,
        )


CARDS = ["managed", "mapped", *PROFILES]

only_with_managed_access = pytest.mark.parametrize(
    "card", [name for name in CARDS if name not in CONFINED], indirect=True
)
only_in_place = pytest.mark.parametrize(
    "card",
    [name for name in CARDS if name not in PROFILES or PROFILES[name].uses_registered],
    indirect=True,
)


@pytest.fixture(params=CARDS)
def card(loopback: Loopback, request: pytest.FixtureRequest) -> Card:
    """By a backend's name, on a card that has all, or by a profile's."""
    if request.param not in PROFILES:
        return Card(loopback, request.param)
    PROFILES[request.param].describe(loopback, request.param)
    return Card(loopback, "mapped")


@pytest.fixture(params=CONFINED)
def confined(loopback: Loopback, request: pytest.FixtureRequest) -> Card:
    PROFILES[request.param].describe(loopback, request.param)
    return Card(loopback, "mapped")


def weights(one: _core.Core, card: Card, count: int, size: int = BLOCK) -> list[Weight]:
    return filled(one, card.driver, one.reserve([size] * count, _core.Purpose.WEIGHTS))


def run(one: _core.Core, model: list[Weight]) -> None:
    """One pass: each weight is used by the card and found right."""
    for weight in model:
        one.acquire(weight.group, 0)
        weight.touch()
        assert weight.right
        one.release(weight.group, 0)


def test_lru_on_a_cycle_brings_every_byte_once_a_pass_and_writes_none_back(
    card: Card,
) -> None:
    one = card.core(4)
    model = weights(one, card, 10)
    for passes in range(1, 5):
        run(one, model)
        assert card.counts.to_card == passes * 10 * BLOCK
        assert one.stats().moved_in == card.counts.to_card
    assert card.counts.to_host == 0
    assert card.counts.faulted == 0
    assert card.counts.peak_on_card == 4 * BLOCK
    assert one.stats().peak_resident == 4 * BLOCK
    assert one.stats().dropped == one.stats().evictions * BLOCK == 36 * BLOCK


@pytest.mark.parametrize("policy", ["mru", "clairvoyant"])
def test_on_a_cycle_mru_and_clairvoyant_bring_the_least_there_can_be(
    card: Card, policy: str
) -> None:
    count, budget = 10, 4
    one = card.core(budget, policy=policy)
    model = weights(one, card, count)
    for _ in range(count):
        run(one, model)
    before = card.counts.to_card
    # The best there can be hits budget - 1 of every count - 1 uses.
    for _ in range(count - 1):
        run(one, model)
    assert card.counts.to_card - before == count * (count - budget) * BLOCK
    assert card.counts.to_host == 0
    assert card.counts.peak_on_card <= budget * BLOCK


def test_bringing_ahead_keeps_the_budget_and_the_bytes(card: Card) -> None:
    one = card.core(6, policy="adaptive")
    model = weights(one, card, 16)
    one.guess([weight.group for weight in model])
    for _ in range(5):
        run(one, model)
    assert card.counts.peak_on_card <= 6 * BLOCK
    assert card.counts.to_host == 0
    assert card.counts.faulted == 0


def test_a_model_that_fits_is_brought_once(card: Card) -> None:
    one = card.core(12, policy="adaptive")
    model = weights(one, card, 10)
    for _ in range(5):
        run(one, model)
    assert card.counts.to_card == 10 * BLOCK
    assert one.stats().evictions == 0


def test_small_weights_share_blocks(card: Card) -> None:
    one = card.core(2)
    model = weights(one, card, 40, BLOCK // 8)
    for _ in range(3):
        run(one, model)
    assert card.counts.managed + card.counts.registered == 5 * BLOCK
    assert card.counts.to_card == 3 * 5 * BLOCK
    assert card.counts.peak_on_card <= 2 * BLOCK


@only_in_place
def test_a_weight_larger_than_the_budget_is_read_over_the_link(card: Card) -> None:
    one = card.core(2)
    model = weights(one, card, 2, 5 * BLOCK)
    for _ in range(3):
        run(one, model)
    assert card.counts.peak_on_card <= 2 * BLOCK
    assert card.counts.over_link > 0
    assert card.counts.faulted == 0
    assert one.stats().over_link == card.counts.over_link


def test_written_weights_survive_eviction(card: Card) -> None:
    one = card.core(2)
    model = weights(one, card, 5)
    for value in (1, 2, 3):
        for weight in model:
            one.acquire(weight.group, 0)
            weight.touch(write=True)
            weight.fill(value)
            one.written([weight.range])
            one.release(weight.group, 0)
        run(one, model)
    one.evict([weight.range for weight in model])
    for weight in model:
        copy = np.zeros_like(weight.bytes)
        one.load([(weight.memory.address, copy.ctypes.data, copy.nbytes)])
        assert np.array_equal(copy, weight.bytes)
    assert card.counts.on_card == 0
    assert card.counts.peak_on_card <= 2 * BLOCK


@only_with_managed_access
def test_scratch_survives_eviction(card: Card) -> None:
    one = card.core(4)
    held = [one.empty(BLOCK, 0) for _ in range(10)]
    for number, memory in enumerate(held):
        ranges = [(memory.address, memory.nbytes)]
        one.take(ranges, 0, True)
        card.driver.touch(*ranges[0], write=True)
        np.asarray(memory)[:] = number
        one.give(ranges, 0, True)
    assert card.counts.to_host > 0
    one.evict([(memory.address, memory.nbytes) for memory in held])
    assert card.counts.on_card == 0
    for number, memory in enumerate(held):
        assert (np.asarray(memory) == number).all()
    assert card.counts.peak_on_card <= 4 * BLOCK
    assert card.counts.faulted == 0


def test_a_smaller_budget_is_kept_at_once(card: Card) -> None:
    one = card.core(8)
    model = weights(one, card, 8)
    run(one, model)
    assert card.counts.on_card == 8 * BLOCK
    assert one.set_budget(3 * BLOCK) == 8 * BLOCK
    assert card.counts.on_card == 3 * BLOCK
    assert card.counts.card_memory in (0, 3 * BLOCK)
    run(one, model)


@only_in_place
def test_advice_holds(card: Card) -> None:
    one = card.core(4)
    model = weights(one, card, 4)
    one.advise([model[0].range], _core.Advice.PREFERRED_HOST)
    for _ in range(3):
        run(one, model)
    assert not one.on_card([model[0].range])
    assert card.counts.over_link == 3 * BLOCK
    assert card.counts.faulted == 0
    one.advise([model[0].range], _core.Advice.UNSET_PREFERRED)
    run(one, model)
    assert one.on_card([weight.range for weight in model])


@pytest.mark.parametrize(
    ("backend", "entry"),
    [
        ("managed", "cuMemAdvise"),
        ("managed", "cuMemPrefetchAsync"),
        ("mapped", "cuMemUnmap"),
        ("mapped", "cuMemMap"),
        ("mapped", "cuMemSetAccess"),
        ("mapped", "cuMemcpyHtoDAsync_v2"),
    ],
)
def test_a_pass_with_a_failed_move_is_told_and_the_next_pass_works(
    loopback: Loopback, backend: str, entry: str
) -> None:
    card = Card(loopback, backend)
    one = card.core(4)
    model = weights(one, card, 10)
    run(one, model)
    for nth in range(1, 12):
        loopback.fail(entry, nth=nth)
        with pytest.raises(vramx.DeviceError, match=entry.removesuffix("_v2")):
            for _ in range(5):
                run(one, model)
        run(one, model)
        assert card.counts.on_card == one.stats().resident
    assert card.counts.peak_on_card <= 4 * BLOCK


def test_the_end_gives_everything_back(card: Card) -> None:
    before = _core.managed_bytes(), _core.pinned_bytes()
    one = card.core(4, policy="adaptive")
    model = weights(one, card, 10)
    scratch = one.empty(3 * BLOCK, 0)
    run(one, model)
    one.close()
    one.close()
    with pytest.raises(vramx.SessionClosedError):
        one.acquire(model[0].group, 0)
    for weight in model:
        assert weight.right
    del one, model, weight, scratch
    assert card.driver.holds == {}
    assert (_core.managed_bytes(), _core.pinned_bytes()) == before


def test_mapped_memory_keeps_the_cards_memory_within_the_budget(loopback: Loopback) -> None:
    card = Card(loopback, "mapped")
    one = card.core(4, policy="adaptive")
    model = weights(one, card, 10)
    for _ in range(3):
        run(one, model)
        assert card.counts.card_memory <= 4 * BLOCK
    created = loopback.calls("cuMemCreate")
    run(one, model)
    assert loopback.calls("cuMemCreate") == created


def hold(one: _core.Core, blocks: int) -> _core.Memory:
    """Take blocks for the program's own."""
    return one.empty(blocks * BLOCK, 0)


def test_activations_that_stay_take_the_room_of_weights_and_give_it_back(confined: Card) -> None:
    one = confined.core(6, policy="adaptive")
    model = weights(one, confined, 10)
    run(one, model)
    held = [hold(one, 2), hold(one, 2)]
    for number, memory in enumerate(held):
        confined.driver.touch(memory.address, memory.nbytes, write=True)
        np.asarray(memory)[:] = number
    for _ in range(4):
        run(one, model)
        assert confined.counts.card_memory <= 6 * BLOCK
    for number, memory in enumerate(held):
        assert (np.asarray(memory) == number).all()
    assert one.stats().peak_resident <= 6 * BLOCK
    before = confined.counts.to_card
    run(one, model)
    beside = confined.counts.to_card - before
    del memory
    held.clear()
    for _ in range(4):
        before = confined.counts.to_card
        run(one, model)
    assert confined.counts.to_card - before < beside
    assert confined.counts.to_host == confined.counts.managed == confined.counts.faulted == 0


def test_what_does_not_fit_beside_activations_that_stay_is_refused_with_figures(
    confined: Card,
) -> None:
    one = confined.core(4)
    (large,) = weights(one, confined, 1, 3 * BLOCK)
    memory = hold(one, 2)
    with pytest.raises(vramx.OutOfMemoryError, match="activations do not exceed it") as raised:
        hold(one, 3)
    assert (raised.value.asked, raised.value.budget) == (3 * BLOCK, 4 * BLOCK)
    assert raised.value.leased == 2 * BLOCK
    if not confined.device().reads_over_link:
        with pytest.raises(vramx.OutOfMemoryError, match=r"4.00 MiB activations and buffers"):
            one.acquire(large.group, 0)
    with pytest.raises(vramx.OutOfMemoryError, match=r"4.00 MiB are activations and buffers"):
        one.set_budget(BLOCK)
    assert one.stats().budget == 4 * BLOCK
    del memory
    assert one.set_budget(3 * BLOCK) == 4 * BLOCK
    run(one, [large])
    assert confined.counts.card_memory <= 3 * BLOCK


def test_what_stays_is_told_to_go_to_the_host_in_vain(confined: Card) -> None:
    one = confined.core(4)
    (weight,) = weights(one, confined, 1)
    memory = hold(one, 1)
    activations = [(memory.address, memory.nbytes)]
    assert one.confined(activations)
    assert not one.confined([weight.range])
    for advice in (
        _core.Advice.PREFERRED_HOST,
        _core.Advice.ACCESSED_BY,
        _core.Advice.UNSET_READ_MOSTLY,
    ):
        with pytest.raises(vramx.ConfigError, match="activations stay on it"):
            one.advise(activations, advice)
    run(one, [weight])
    one.evict([weight.range, *activations])
    assert one.on_card(activations)
    assert not one.on_card([weight.range])


def test_what_stays_is_stored_and_loaded_where_it_lies(confined: Card) -> None:
    confined.driver.set_copies_pageable(1)
    one = confined.core(4)
    (memory,) = one.reserve([BLOCK + 4096], _core.Purpose.SCRATCH)
    content = np.random.default_rng(1).integers(0, 256, memory.nbytes, dtype=np.uint8)
    one.store([(memory.address, content.ctypes.data, content.nbytes)])
    assert np.array_equal(np.asarray(memory), content)
    found = np.zeros_like(content)
    one.load([(memory.address, found.ctypes.data, found.nbytes)])
    assert np.array_equal(found, content)
    assert one.on_card([(memory.address, memory.nbytes)])


@pytest.mark.parametrize("name", PROFILES)
def test_auto_serves_each_card_with_what_it_has(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    PROFILES[name].describe(loopback, name)
    with contextlib.closing(vramx.oversubscribe("64MiB")) as session:
        assert session.device.kind == "mapped"
        assert session.device.managed_access == (name not in CONFINED)
        told = "no concurrent managed access" in session.report()
        assert told == (name in CONFINED)
    if name in CONFINED:
        with pytest.raises(vramx.NoDeviceError, match='use backend="mapped"'):
            vramx.oversubscribe("64MiB", backend="managed")
        assert loopback.calls("cuMemAllocManaged") == 0


def test_a_card_is_taken_for_one_without_managed_access(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    monkeypatch.setenv("VRAMX_DENY_MANAGED", "1")
    with contextlib.closing(vramx.oversubscribe("64MiB")) as session:
        assert not session.device.managed_access
    with pytest.raises(vramx.NoDeviceError, match="no concurrent managed access"):
        vramx.oversubscribe("64MiB", backend="managed")


def test_serving_a_process_is_refused_where_all_would_stay_on_the_card(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    monkeypatch.setattr("vramx.integrations.torch.make_torch_allocator", lambda: pytest.fail)
    PROFILES["vGPU"].describe(loopback, "vGPU")
    with pytest.raises(vramx.NoDeviceError, match=r"install\(\) .* vGPU 0 has no concurrent"):
        vramx.install("64MiB")


def test_a_card_that_has_neither_memory_is_refused_by_both_names(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    loopback.set_concurrent_access(0)
    loopback.set_maps_memory(0)
    for backend in ("auto", "managed", "mapped"):
        with pytest.raises(vramx.NoDeviceError, match="nothing can be managed on it"):
            vramx.oversubscribe("64MiB", backend=backend)


def test_memory_says_which_card_it_is_on(card: Card) -> None:
    # The driver names the host where mapped memory lies there.
    memory = card.core(4).empty(BLOCK, 0)
    assert memory.__dlpack_device__() == (2, 0)


def test_a_session_maps_blocks_of_its_size(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    with contextlib.closing(
        vramx.oversubscribe("64MiB", backend="mapped", block="8MiB")
    ) as session:
        assert session.device.kind == "mapped"
        one = session._core
        model = weights(one, Card(loopback, "mapped"), 12, 8 * 2**20)
        run(one, model)
        assert loopback.counts.peak_on_card == session.stats().peak_resident == 64 * 2**20
        assert "mapped" in session.report()
    loopback.set_maps_memory(0)
    with pytest.raises(vramx.NoDeviceError, match="managed"):
        vramx.oversubscribe("64MiB", backend="mapped")


@pytest.mark.parametrize(
    ("maps_memory", "uses_registered", "kind"),
    [(1, 1, "mapped"), (0, 1, "managed"), (1, 0, "managed")],
)
def test_auto_is_mapped_where_the_card_also_uses_pinned_memory_in_place(
    loopback: Loopback,
    monkeypatch: pytest.MonkeyPatch,
    maps_memory: int,
    uses_registered: int,
    kind: str,
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    loopback.set_maps_memory(maps_memory)
    loopback.set_uses_registered(uses_registered)
    with contextlib.closing(vramx.oversubscribe("64MiB")) as session:
        assert session.device.kind == kind
        assert kind in session.report()


class Slot:
    """As much of pynvml as tells of a card's slot."""

    class NVMLError(Exception):
        pass

    def __init__(self, uuid: str, generation: int, lanes: int) -> None:
        self.uuid = uuid
        self.generation = generation
        self.lanes = lanes

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != self.uuid:
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: str) -> int:  # noqa: N802, ARG002
        return self.generation

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: str) -> int:  # noqa: N802, ARG002
        return self.lanes


def test_plans_count_with_the_link_of_the_cards_slot(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(cuda_driver=loopback.path)

    def rates(backend: str) -> tuple[float, float]:
        pinned_rate.cache_clear()
        device = open_card(backend, 0, BLOCK, config, accept_unpinned=False, keeps_raw=True)
        return device.link_up, device.link_down

    uuid = Card(loopback, "managed").device().uuid
    monkeypatch.setitem(sys.modules, "pynvml", Slot(uuid, 4, 8))
    eight_lanes = rates("mapped")
    assert eight_lanes == (link_rate(4, 8), link_rate(4, 8))
    up, down = rates("managed")
    assert down < up < link_rate(4, 8)
    monkeypatch.setitem(sys.modules, "pynvml", Slot(uuid, 4, 16))
    assert rates("mapped") == (2 * eight_lanes[0], 2 * eight_lanes[1])
    unknown = [Slot("GPU-other", 4, 16), Slot(uuid, 0, 16), None]
    for slot in unknown:
        monkeypatch.setitem(sys.modules, "pynvml", slot)
        assert rates("managed") == (50e9, 25e9)
    pinned_rate.cache_clear()
