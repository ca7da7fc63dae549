"""Sessions whose host keeps packed copies alone: the same bits, and nobody reads what is gone.

The simulated card overwrites raw host bytes that were given back, and what storages point at
without a lease, with poison: a read of either shows in the bits.
"""

from __future__ import annotations

import copy
import functools
import gc
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vramx
from trials import trials
from vramx.hostram import HostRam
from vramx.integrations.torch.unleased import UnleasedAccesses

pytestmark = pytest.mark.usefixtures("no_open_session", "one_thread")

#: A layer in bfloat16 is a block.
WIDTH, LAYERS = 256, 14
BLOCK = 2 * WIDTH * WIDTH
X = torch.ones(1, WIDTH, dtype=torch.bfloat16)


@functools.cache
def drawn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(LAYERS))
    )


def layers() -> nn.Sequential:
    return copy.deepcopy(drawn())  # which is quicker than to draw them anew


def open_one(budget: float, **options: Any) -> vramx.Session:
    card = {"unpack_rate": "1TB/s", **options.pop("card", {})}
    with vramx.simulate(capacity="64MiB", link="10GB/s", latency=0.0, granule="4KiB", **card):
        return vramx.oversubscribe(
            int(budget * BLOCK),
            backend="simulated",
            block=BLOCK,
            **{"host": "packed", **options},
        )


# What is refused, before anything is done


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "raw"}, r"unknown host 'raw'; give one of raw\+packed, packed"),
        ({"compress": "never"}, r'compress="never" makes none'),
        ({"card": {"unpack_rate": None}}, r"give it one, or use host=\"raw\+packed\""),
        ({"backend": "managed"}, r'host="packed" takes backend="mapped"'),
    ],
)
def test_where_nothing_can_be_packed_it_is_refused_by_name(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(vramx.ConfigError, match=told):
        if "backend" in options:
            vramx.oversubscribe("1GiB", host="packed", **options)
        open_one(4, **options)
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()


def test_the_environment_chooses_where_the_program_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VRAMX_HOST", "packed")
    with open_one(4, host=None) as session:
        assert not session.device.keeps_raw
    with open_one(4, host="raw+packed") as session:
        assert session.device.keeps_raw
    with pytest.raises(vramx.ConfigError, match="VRAMX_HOST"):
        open_one(4, host=None, compress="never")
    monkeypatch.setenv("VRAMX_HOST", "raw")
    with pytest.raises(vramx.ConfigError, match=r"VRAMX_HOST is 'raw'; set it to one of raw\+pac"):
        open_one(4)


def test_weights_are_not_managed_where_nobody_sees_their_uses() -> None:
    session, model = open_one(12), layers()
    with pytest.raises(vramx.ConfigError, match="inside the session's scope"):
        session.manage(model)
    assert session.stats().managed == 0
    assert torch.equal(model(X), layers()(X))
    with session:
        session.manage(model)


# What the host holds


@pytest.mark.parametrize("compress", ["auto", "always"])
@pytest.mark.parametrize("budget", [6, 12, LAYERS + 4])
def test_the_host_holds_packed_bytes_alone(
    monkeypatch: pytest.MonkeyPatch, compress: str, budget: float
) -> None:
    scarce = HostRam(total=1000 * BLOCK, available=BLOCK, group_limit=None)
    monkeypatch.setattr("vramx.session.packing.host_ram", lambda: scarce)
    with open_one(budget, compress=compress) as session:
        model = session.manage(layers())
        raw = LAYERS * BLOCK
        assert session.device.given_back_bytes == raw
        assert session.stats().packed_on_host < 0.75 * raw
        for _ in range(8):
            assert torch.equal(model(X), layers()(X))
        assert session.device.given_back_bytes == raw
        assert f"{vramx.units.format_size(raw)} of weights have packed copies alone" in (
            session.report()
        )
        session.unmanage(model)
        assert session.device.given_back_bytes == 0


def test_it_never_holds_all_of_a_model_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has no room for raw bytes beside packed ones takes the model all the same."""
    monkeypatch.setattr("vramx.integrations.torch.moving._BATCH", BLOCK)
    room = int(0.7 * LAYERS + 3) * BLOCK
    with open_one(12, card={"host_memory": room}) as session:
        model = session.manage(layers())
        assert torch.equal(model(X), layers()(X))
        session.unmanage(model)
        assert torch.equal(model(X), layers()(X))
    with (
        open_one(12, host="raw+packed", card={"host_memory": room}) as session,
        pytest.raises(vramx.OutOfMemoryError),
    ):
        session.manage(layers())


def test_what_does_not_shrink_stays_raw() -> None:
    def mixed() -> nn.Sequential:
        model = layers()
        torch.manual_seed(1)
        noise = torch.randint(-(2**15), 2**15, (WIDTH, WIDTH), dtype=torch.int16)
        model[2].weight = nn.Parameter(noise.view(torch.bfloat16), requires_grad=False)
        return model

    with open_one(12) as session:
        model = session.manage(mixed())
        assert session.device.given_back_bytes == (LAYERS - 1) * BLOCK
        for _ in range(5):
            model(X)
        there = model[2].weight.clone().view(torch.int16)
        assert torch.equal(there, mixed()[2].weight.view(torch.int16))


# Uses outside leases


@pytest.mark.parametrize("is_card", [False, True], ids=["simulated", "as on a card"])
def test_a_use_outside_a_lease_is_leased_and_right(
    is_card: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_one(12) as session, monkeypatch.context() as patch:
        model = session.manage(layers())
        plain = layers()
        if is_card:  # whose memory of one address the hardware looks after
            torch_core = session._torch_bridge._torch_core  # type: ignore[union-attr]
            patch.setattr(torch_core, "computes_on_host", False)
        for _ in range(3):
            model(X)
        for mine, its in zip(model, plain):
            assert torch.equal(mine.weight, its.weight)
            assert torch.equal(mine.weight.T[3:5].float().sum(0), its.weight.T[3:5].float().sum(0))
        assert session.stats().unleased_accesses >= LAYERS
        assert session.device.given_back_bytes == LAYERS * BLOCK  # a read writes nothing


def test_addresses_of_what_lies_nowhere_are_refused_by_name() -> None:
    with open_one(12) as session:
        model = session.manage(layers())
        weight = model[0].weight
        for take in (weight.data_ptr, weight.detach().numpy, weight.detach().__dlpack__):
            with pytest.raises(vramx.ConfigError, match=r"no address outside .*session\.pin"):
                take()
        names = {each.weight.untyped_storage().data_ptr() for each in model}
        assert len(names) == LAYERS
        with session.pin(weight):
            assert weight.data_ptr() not in names
        assert torch.equal(weight.clone(), layers()[0].weight)


def test_what_nobody_leased_points_at_nothing() -> None:
    with open_one(12) as session:
        model = session.manage(layers())
        model(X)
        mode = session._torch_bridge._unleased  # type: ignore[union-attr]
        read: Any = mode.outside(lambda: model[0].weight.detach().view(torch.uint8).clone())
        assert (read() == vramx._core.POISON).all()


def test_a_leased_call_is_the_modules_own_with_its_hooks_outside_the_mode() -> None:
    """As on a real card, where the simulated one sees all operations."""
    active: list[bool] = []
    hooked: list[nn.Module] = []

    class Noting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            active.append(torch.utils._python_dispatch._get_current_dispatch_mode() is not None)
            return super().forward(x)

    with open_one(12) as session:
        bridge = session._torch_bridge
        bridge.passes.outside_mode = bridge._unleased.outside  # type: ignore[union-attr]
        model = layers()
        model.append(nn.Sequential(Noting(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16)))
        expected = model(X)
        active.clear()
        model[3].register_forward_hook(lambda module, *_: hooked.append(module))
        session.manage(model)
        assert torch.equal(model(X), expected)
    assert active == [False]
    assert hooked == [model[3]]


def test_calls_made_outside_the_mode_are_not_seen_by_it() -> None:
    seen: list[Any] = []

    class Mode(UnleasedAccesses):
        def __init__(self) -> None:
            torch.utils._python_dispatch.TorchDispatchMode.__init__(self)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    mode = Mode()

    def fails() -> None:
        torch.ones(1)
        raise ZeroDivisionError

    with mode:
        mode.outside(mode.outside(lambda: torch.ones(1)))()
        with pytest.raises(ZeroDivisionError):
            mode.outside(fails)()
        assert seen == []
        torch.ones(1)
        assert len(seen) == 1
    mode.outside(lambda: torch.ones(1))()
    torch.ones(1)
    assert len(seen) == 1


@pytest.mark.parametrize("unmanaged", [True, False])
def test_an_alias_outlives_its_module_and_its_session(unmanaged: bool) -> None:
    plain = layers()
    with open_one(12) as session:
        model = session.manage(layers())
        model(X)
        alias = model[1].weight.data
        with torch.no_grad():
            model[1].weight.mul_(2)
        if unmanaged:
            session.unmanage(model)
            assert torch.equal(alias, plain[1].weight * 2)
        del model
        gc.collect()
    assert torch.equal(alias, plain[1].weight * 2)


def test_a_written_weight_becomes_raw_and_the_others_stay_packed() -> None:
    with open_one(12) as session, torch.no_grad():
        model, plain = session.manage(layers()), layers()
        for both in (model, plain):
            both[3].weight[5:7].mul_(-1.5)
        for _ in range(4):
            assert torch.equal(model(X), plain(X))
        assert session.device.given_back_bytes == (LAYERS - 1) * BLOCK


def test_a_write_under_a_pin_that_no_mode_sees_is_not_lost() -> None:
    with open_one(6) as session:
        model, plain = session.manage(layers()), layers()

        def write() -> None:
            with torch.no_grad(), session.pin(model[0]):
                model[0].weight.add_(1)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        for each in model[1:]:
            each.weight.clone()  # which has the first one leave
        assert torch.equal(model[0].weight, plain[0].weight + 1)


# Any program


class Pair:
    """A managed model, and what it should be."""

    def __init__(self, budget: int) -> None:
        self.session = open_one(budget)
        self.mine, self.plain = layers(), layers()
        self.managed = False

    def step(self, what: str, i: int) -> None:
        if what == "manage" and not self.managed:
            self.session.manage(self.mine)
            self.managed = True
        elif what == "unmanage" and self.managed:
            self.session.unmanage(self.mine)
            self.managed = False
        elif what == "budget":
            self.session.set_budget((6 + i) * BLOCK)
        elif what == "call":
            assert torch.equal(self.mine(X), self.plain(X))
        elif what == "part":
            assert torch.equal(self.mine[i](X), self.plain[i](X))
        elif what == "read":
            assert torch.equal(self.mine[i].weight, self.plain[i].weight)
        elif not self.managed and "pin" in what:
            return
        elif what == "pin":
            with self.session.pin(self.mine[i]):
                assert torch.equal(self.mine[i].weight, self.plain[i].weight)
        elif what == "written under a pin":
            with self.session.pin(self.mine[i]):
                self.mine[i].weight.add_(0.125)
            self.plain[i].weight.add_(0.125)
        elif what == "state":
            state = {name: each + 0.5 for name, each in self.plain.state_dict().items()}
            self.mine.load_state_dict(state)
            self.plain.load_state_dict(state)
        elif what == "evict" and self.managed:
            self.session.evict(self.mine)
        else:
            for model in (self.mine, self.plain):
                weight = model[i].weight
                (weight.data if what == "alias" else weight)[i::3].mul_(-0.75)


STEPS = [
    *("manage", "unmanage", "budget", "call", "part", "read", "pin", "alias", "write"),
    *("written under a pin", "state", "evict"),
]


@settings(max_examples=trials(80))
@given(st.integers(6, 20), st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, LAYERS - 1))))
def test_any_program_has_the_same_bits(budget: int, steps: list[tuple[str, int]]) -> None:
    pair = Pair(budget)
    with torch.no_grad(), pair.session:
        pair.step("manage", 0)
        for step in steps:
            pair.step(*step)
        pair.step("call", 0)
    assert torch.equal(pair.mine(X), pair.plain(X))
