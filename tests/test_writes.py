"""No write is lost: what the program changed in managed memory survives eviction and the end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vramx

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]


class Model(nn.Module):
    """Three weights of a block each, one of them used twice, and a buffer."""

    def __init__(self, linears: Linears) -> None:
        super().__init__()
        self.body = linears(4)
        self.body[3].weight = self.body[0].weight
        self.norm = nn.BatchNorm1d(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(x))


def load(model: Model) -> None:
    torch.manual_seed(1)
    model.load_state_dict(
        {name: torch.rand(t.shape).to(t.dtype) for name, t in model.state_dict().items()}
    )


def load_new_tensors(model: Model) -> None:
    torch.manual_seed(1)
    model.load_state_dict(
        {n: torch.rand(t.shape).to(t.dtype) for n, t in model.state_dict().items()}, assign=True
    )


def add_in_place(model: Model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)


def add_through_data(model: Model) -> None:
    for parameter in model.parameters():
        parameter.data.add_(0.5)


def write_one_place(model: Model) -> None:
    with torch.no_grad():
        model.body[1].weight[3, 5] = 4.0
        model.body[2].weight[:, 7].mul_(2.0)
        model.body[2].weight.view(-1)[::31].zero_()


def merge_low_rank(model: Model) -> None:
    torch.manual_seed(2)
    up, down = torch.randn(128, 4), torch.randn(4, 128)
    with torch.no_grad():
        model.body[1].weight.addmm_(up, down, alpha=0.1)
        model.body[2].weight += 0.1 * up @ down


def write_into_it(model: Model) -> None:
    with torch.no_grad():
        weight = model.body[1].weight
        torch.mul(weight, 3.0, out=weight)
        torch._foreach_add_([model.body[0].weight, model.body[2].weight], 1.0)
        nn.init.uniform_(model.body[2].weight, generator=torch.Generator().manual_seed(4))


def step(model: Model) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.linspace(-1, 1, 256).view(2, 128)).square().sum().backward()
    optimizer.step()


def fused_step(model: Model) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    model(torch.linspace(-1, 1, 256).view(2, 128)).square().sum().backward()
    optimizer.step()


def run_batch_norm(model: Model) -> None:
    model.train()
    with torch.no_grad():
        model(torch.linspace(-1, 1, 256).view(2, 128))
    model.eval()


def write_buffers(model: Model) -> None:
    model.norm.running_mean.fill_(0.25)
    model.norm.num_batches_tracked += 3


def write_the_tied_weight(model: Model) -> None:
    with torch.no_grad():
        model.body[3].weight.mul_(-1.0)


def swap_data(model: Model) -> None:
    model.body[1].weight.data = torch.full((128, 128), 0.125)


def put_another_parameter(model: Model) -> None:
    model.body[1].weight = nn.Parameter(torch.full((128, 128), 0.125))


WRITES = [
    load,
    load_new_tensors,
    add_in_place,
    add_through_data,
    write_one_place,
    merge_low_rank,
    write_into_it,
    step,
    fused_step,
    run_batch_norm,
    write_buffers,
    write_the_tied_weight,
    swap_data,
    put_another_parameter,
]


both_memories = pytest.mark.parametrize("memory", ["mapped", "managed"])


def evict(session: vramx.Session, module: nn.Module) -> None:
    """Take a module off the card, as far as it is still in the session's memory."""
    ranges = session._core.owned(session._ranges(module))
    session._core.evict(ranges)
    assert not any(session._core.on_card([each]) for each in ranges)


@both_memories
@pytest.mark.parametrize("where", ["on the card", "on the host", "while it streams"])
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_write_between_passes_is_seen_by_later_passes_and_after_the_session(
    open_session: OpenSession,
    linears: Linears,
    write: Callable[[Model], None],
    where: str,
    memory: str,
) -> None:
    plain = Model(linears).eval()
    managed = copy.deepcopy(plain)
    x = torch.randn(3, 128)
    budget = (2 if where == "while it streams" else 16) * BLOCK
    with open_session(budget, policy="lru", memory=memory) as session:
        session.manage(managed)
        assert torch.equal(managed(x), plain(x))
        if where == "on the host":
            evict(session, managed)
        write(managed)
        write(plain)
        if where == "on the card":
            evict(session, managed)
        assert torch.equal(managed(x), plain(x))
        evict(session, managed)
        assert torch.equal(managed(x), plain(x))
    assert_equal(managed, plain)
    for each in (plain, managed):
        tied = each.body[0].weight is each.body[3].weight
        assert tied == (write is not load_new_tensors)


def assert_equal(managed: nn.Module, plain: nn.Module) -> None:
    state, expected = managed.state_dict(), plain.state_dict()
    assert list(state) == list(expected)
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


@both_memories
@pytest.mark.parametrize("blocks", [2, 16])
@pytest.mark.parametrize("advice", vramx.Advice, ids=lambda advice: advice.name)
def test_no_advice_loses_a_write(
    open_session: OpenSession, linears: Linears, advice: vramx.Advice, blocks: int, memory: str
) -> None:
    plain = Model(linears).eval()
    managed = copy.deepcopy(plain)
    x = torch.randn(3, 128)
    with open_session(blocks * BLOCK, memory=memory) as session:
        session.manage(managed)
        managed(x)
        session.advise(managed, advice)
        for write in (add_in_place, write_buffers, load, step):
            write(managed)
            write(plain)
            evict(session, managed)
            assert torch.equal(managed(x), plain(x)), write.__name__
        session.unmanage(managed)
        assert torch.equal(managed(x), plain(x))
    assert_equal(managed, plain)


@both_memories
@pytest.mark.parametrize("advice", [None, vramx.Advice.ACCESSED_BY, vramx.Advice.PREFERRED_HOST])
def test_a_write_over_the_link_is_seen_wherever_the_weight_goes_next(
    open_session: OpenSession, linears: Linears, advice: vramx.Advice | None, memory: str
) -> None:
    plain, managed, x = linears(3), linears(3), torch.randn(2, 128)
    with torch.no_grad(), open_session(2 * BLOCK, memory=memory) as session:
        session.manage(managed)
        if advice is not None:
            session.advise(managed, advice)
        full = session.empty((2 * BLOCK // 4,))
        for after in ("run", "evict", "load", "unmanage"):
            with session.pin(full):
                before = session.stats().over_link
                for model in (plain, managed):
                    model[1].weight.add_(0.25)
                # A use in place at the host's own address is no fault that anybody sees.
                seen = BLOCK if memory == "managed" else 0
                assert session.stats().over_link == before + seen
            if after == "evict":
                session.evict(managed)
            if after == "load":
                state = {"weight": torch.randn(128, 128)}
                managed[0].load_state_dict(state)
                plain[0].load_state_dict(state)
            if after == "unmanage":
                session.unmanage(managed)
            assert torch.equal(managed(x), plain(x)), after
    assert_equal(managed, plain)


def test_writes_pile_up_over_many_passes(open_session: OpenSession, linears: Linears) -> None:
    plain = Model(linears).eval()
    managed = copy.deepcopy(plain)
    x = torch.randn(3, 128)
    with open_session(2 * BLOCK) as session:
        session.manage(managed)
        for write in (*WRITES, *WRITES):
            if write is put_another_parameter:
                continue
            write(managed)
            write(plain)
            assert torch.equal(managed(x), plain(x)), write.__name__
        assert session.device.peak_on_card <= 2 * BLOCK
    assert_equal(managed, plain)


def test_views_of_one_storage_stay_so(open_session: OpenSession) -> None:
    whole = torch.randn(256, 128)
    model = nn.Module()
    model.first = nn.Parameter(whole[:128])
    model.second = nn.Parameter(whole[64:192])
    model.register_buffer("row", whole[100])
    model.again = model.first

    def write(value: float) -> None:
        with torch.no_grad():
            model.first[70].fill_(value)
            model.row.fill_(value + 1)
        for each, place in ((model.first, 70), (model.second, 6), (model.again, 70)):
            assert torch.equal(each[place].clone(), torch.full((128,), value))
        for each, place in ((model.first, 100), (model.second, 36)):
            assert torch.equal(each[place].clone(), torch.full((128,), value + 1))

    with open_session(BLOCK) as session:
        session.manage(model)
        assert session.stats().managed == 2 * BLOCK  # once, not once a view
        write(1.0)
        session.evict(model)
        write(3.0)
    write(5.0)
    assert torch.equal(model.second[100:].clone(), whole[164:192])
    assert model.again is model.first


def test_only_what_was_written_is_written_back(open_session: OpenSession, linears: Linears) -> None:
    with open_session(4 * BLOCK, memory="managed") as session, torch.no_grad():
        model = session.manage(linears(4))
        x = torch.ones(1, 128)
        model(x)
        model[2].weight[0, 0] = 1.0
        session.evict(model)
        assert session.device.moved_out == BLOCK
        model(x)
        session.evict(model)
        assert session.device.moved_out == BLOCK


@pytest.mark.parametrize("in_scope", [True, False], ids=["in the scope", "outside any scope"])
def test_a_weight_written_by_the_forward_itself_is_not_lost(
    open_session: OpenSession, linears: Linears, in_scope: bool
) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.total = nn.Parameter(torch.zeros(128, 128), requires_grad=False)
            self.register_buffer("calls", torch.zeros(()))
            self.rest = linears(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total += x.mean()
            self.calls += 1
            return self.rest(x + self.total[0])

    plain, managed, x = Counting(), Counting(), torch.randn(2, 128)
    with torch.no_grad():
        expected = [plain(x) for _ in range(4)]
        session = open_session(3 * BLOCK)
        if in_scope:
            with session:
                session.manage(managed)
                outputs = [managed(x) for _ in range(4)]
        else:
            session.manage(managed)
            outputs = [managed(x) for _ in range(4)]
        assert session.stats().evictions > 0
        session.close()
    assert all(map(torch.equal, outputs, expected))
    assert_equal(managed, plain)


def test_a_hook_that_writes_its_module_s_weight_is_not_lost(
    open_session: OpenSession, linears: Linears
) -> None:
    def shrink(module: nn.Linear, _: Any) -> None:
        with torch.no_grad():
            module.weight.mul_(0.5)

    plain = linears(4)
    managed = linears(4)
    x = torch.randn(2, 128)
    for model in (plain, managed):
        model[1].register_forward_pre_hook(shrink)
    with torch.no_grad(), open_session(BLOCK) as session:
        session.manage(managed)
        for _ in range(3):
            assert torch.equal(managed(x), plain(x))
        assert session.stats().unleased_accesses == 0
    assert_equal(managed, plain)


def test_load_state_dict_into_part_of_a_managed_module(
    open_session: OpenSession, linears: Linears
) -> None:
    plain, managed, x = linears(4), linears(4), torch.randn(2, 128)
    new = {"weight": torch.randn(128, 128)}
    with open_session(4 * BLOCK) as session:
        session.manage(managed)
        managed(x)
        managed[2].load_state_dict(new)
        plain[2].load_state_dict(new)
        session.evict(managed)
        assert torch.equal(managed(x), plain(x))
    assert_equal(managed, plain)


def test_a_load_that_fails_leaves_the_session_usable(
    open_session: OpenSession, linears: Linears
) -> None:
    plain, managed, x = linears(4), linears(4), torch.randn(2, 128)
    with open_session(2 * BLOCK) as session:
        session.manage(managed)
        for state in ({}, {**plain.state_dict(), "0.weight": torch.zeros(3)}):
            with pytest.raises(RuntimeError, match="Error"):
                managed.load_state_dict(state)
        assert torch.equal(managed(x), plain(x))
        assert session.stats().leased == 0


def test_activations_that_exceed_the_budget_are_not_lost(open_session: OpenSession) -> None:
    count = BLOCK // 4
    with open_session(3 * BLOCK) as session:
        kept = []
        for step in range(9):
            x = session.empty((count,))
            torch.arange(count, dtype=x.dtype, out=x).add_(step)
            kept.append(x)
        total = session.empty((count,), torch.float64).zero_()
        for x in reversed(kept):
            total += x
        assert torch.equal(total.clone(), 9 * torch.arange(count).double() + 36)
        for step, x in enumerate(kept):
            assert torch.equal(x.clone(), torch.arange(count).float() + step)
        assert session.device.peak_on_card <= 3 * BLOCK
        assert session.device.moved_out > 0
    for step, x in enumerate(kept):
        assert torch.equal(x, torch.arange(count).float() + step)


def test_a_module_uses_and_makes_activations_in_evicted_memory(
    open_session: OpenSession, linears: Linears
) -> None:
    plain, managed, x = linears(4), linears(4), torch.randn(128, 128)
    with torch.no_grad(), open_session(3 * BLOCK) as session:
        session.manage(managed)
        given = session.empty((128, 128)).copy_(x)
        result = session.empty((128, 128))
        for _ in range(3):
            session.evict(given)
            result.copy_(managed(given))
            session.evict([given, result])
            assert torch.equal(result.clone(), plain(x))


# Writes that cannot be seen


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMX_CHECK", "1")


def write_raw(session: vramx.Session, weight: torch.Tensor, value: float) -> None:
    """Write where nothing looks: past torch, through the address."""
    with session.pin(weight):
        weight.detach().numpy()[:] = value


def test_a_raw_write_that_is_reported_is_not_lost(
    open_session: OpenSession, linears: Linears
) -> None:
    managed, x = linears(4), torch.ones(1, 128)
    with torch.no_grad(), open_session(2 * BLOCK) as session:
        session.manage(managed)
        with session.pin(managed[1]):
            managed[1].weight.detach().numpy()[:] = 0.5
            session.written(managed[1])
        session.evict(managed)
        y = managed(x)
        session.evict(managed)
        assert torch.equal(managed(x), y)
    assert torch.equal(managed[1].weight, torch.full((128, 128), 0.5))


def test_a_raw_write_to_memory_of_the_session_is_not_lost(open_session: OpenSession) -> None:
    with open_session(2 * BLOCK) as session:
        x = session.empty((4, 5), np.int16)
        with session.pin(x):
            x[:] = np.arange(20).reshape(4, 5)
        session.evict(x)
        with session.pin(x):
            assert (x == np.arange(20).reshape(4, 5)).all()
    assert (x == np.arange(20).reshape(4, 5)).all()


@pytest.mark.usefixtures("checking")
def test_checking_finds_a_forgotten_write_before_it_is_lost(
    open_session: OpenSession, linears: Linears
) -> None:
    managed, x = linears(4), torch.ones(1, 128)
    with torch.no_grad(), open_session(4 * BLOCK, memory="managed") as session:
        session.manage(managed)
        write_raw(session, managed[1].weight, 0.5)
        with pytest.raises(vramx.UnreportedWriteError, match=r"session\.written"):
            session.evict(managed)
        assert session.stats().resident == session.device.on_card
        y = managed(x)
        session.written(managed[1].weight)
        session.evict(managed)
        assert torch.equal(managed(x), y)
    assert torch.equal(managed[1].weight, torch.full((128, 128), 0.5))


@pytest.mark.usefixtures("checking")
def test_checking_finds_a_forgotten_write_when_room_is_needed(
    open_session: OpenSession, linears: Linears
) -> None:
    managed, x = linears(3), torch.ones(1, 128)
    with torch.no_grad(), open_session(BLOCK, policy="lru", memory="managed") as session:
        session.manage(managed)
        write_raw(session, managed[0].weight, 0.5)
        with pytest.raises(vramx.UnreportedWriteError):
            managed[1](x)
        assert session.stats().leased == 0
        session.written(managed[0])
        managed(x)
    assert torch.equal(managed[0].weight, torch.full((128, 128), 0.5))


@pytest.mark.usefixtures("checking")
@pytest.mark.filterwarnings("ignore:.*outside their modules' calls:RuntimeWarning")
@both_memories
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_checking_blames_no_write_that_can_be_seen(
    open_session: OpenSession,
    linears: Linears,
    write: Callable[[Model], None],
    memory: str,
) -> None:
    plain = Model(linears).eval()
    managed = copy.deepcopy(plain)
    x = torch.randn(3, 128)
    with open_session(2 * BLOCK, memory=memory) as session:
        session.manage(managed)
        managed(x)
        write(managed)
        write(plain)
        assert torch.equal(managed(x), plain(x))
        assert torch.equal(managed(x), plain(x))
    assert_equal(managed, plain)


# Writes that only a version counter shows, as all do on a real card: outside a scope nothing else
# watches on the simulated one.


def evict_it(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    session.evict(model)


def shrink(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    session.set_budget(BLOCK)
    session.set_budget(4 * BLOCK)


def run_other(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    with torch.no_grad():
        other(torch.ones(1, 128))


def run_one_other(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    with torch.no_grad():
        for each in other:
            each(torch.ones(1, 128))


def prefetch_other(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    session.prefetch(other)


def pin_other(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    with session.pin(other):
        pass


def allocate(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    session.empty((4 * BLOCK // 4,))


def advise(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    session.advise(model, vramx.Advice.PREFERRED_HOST)


def load_elsewhere(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    model.load_state_dict({"3.weight": torch.zeros(128, 128)}, strict=False)


def run_it(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:  # noqa: ARG001
    with torch.no_grad():
        model(torch.ones(1, 128))


def nothing(session: vramx.Session, model: nn.Module, other: nn.Module) -> None:
    pass


@pytest.mark.parametrize(
    "then",
    [
        evict_it,
        shrink,
        run_other,
        run_one_other,
        prefetch_other,
        pin_other,
        allocate,
        advise,
        load_elsewhere,
        run_it,
        nothing,
    ],
    ids=lambda then: then.__name__,
)
def test_an_in_place_write_outside_a_scope_is_not_lost(
    open_session: OpenSession,
    linears: Linears,
    then: Callable[[vramx.Session, nn.Module, nn.Module], None],
) -> None:
    model, other = linears(4), linears(4, seed=1)
    session = open_session(4 * BLOCK, policy="lru")
    session.manage(model)
    session.manage(other)
    session.prefetch(model)
    with torch.no_grad():
        model[1].weight.fill_(0.5)
        model[2].weight.view(-1)[5] = 7.0
    then(session, model, other)
    session.close()
    assert torch.equal(model[1].weight, torch.full((128, 128), 0.5))
    assert model[2].weight[0, 5] == 7.0


def test_an_in_place_write_between_the_calls_of_a_pipeline_is_not_lost(
    open_session: OpenSession, linears: Linears
) -> None:
    """Models run one after the other, and a weight of one is changed between two others."""
    first, second, third = (linears(2, seed=seed) for seed in range(3))
    x = torch.ones(1, 128)
    session = open_session(4 * BLOCK, policy="lru")
    with torch.no_grad():
        for model in (first, second, third):
            session.manage(model)
        first(x)
        second(x)
        changed = [*first, *second]
        for layer in changed:
            layer.weight.fill_(0.5)
        third(x)
        assert not session._core.on_card(session._ranges(changed))
    session.close()
    for layer in changed:
        assert torch.equal(layer.weight, torch.full((128, 128), 0.5))
