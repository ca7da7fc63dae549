"""Small modules are leased whole, with the same bits, and their parts alone where need be."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vramx
from vramx import _core
from vramx.integrations.torch.fusing import fusible_modules, least_budget, most_bytes
from vramx.integrations.torch.units import leased_modules
from vramx.seeing.timeline import leases

WIDTH = 32
BLOCK = 4 * 2**10  # as large as a weight
LAYERS = 24
OpenSession = Callable[..., vramx.Session]


class Layer(nn.Module):
    """Two weights of a block each, used through their modules' calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second = nn.Linear(WIDTH, WIDTH, bias=False)
        self.then: Callable[[], Any] = lambda: None
        self.short = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        if self.short:
            return x + y.tanh()
        self.then()
        return x + self.second(y).tanh()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


PAIR = 2 * BLOCK
#: The least budget in which layers are managed as leased whole: two thirds of what they need.
WHOLE = 16 * PAIR
#: The least in which they still are when it has shrunk.
SHRUNK = least_budget(PAIR)
X = torch.linspace(-1, 1, 4 * WIDTH).view(4, WIDTH)


@pytest.fixture(autouse=True)
def no_gradients(one_thread: None) -> Iterator[None]:  # noqa: ARG001
    with torch.no_grad():
        yield


def leased(session: vramx.Session, run: Callable[[], Any]) -> list[str]:
    """Name what is leased while something runs, in the order in which it ends."""
    with session.trace() as trace:
        run()
    names = {group.serial: group.name for group in trace.log.groups}
    return [names[lease.group] for lease in leases(trace.log)]


def by_layers() -> list[str]:
    return [f"Model.layers.{i}" for i in range(LAYERS)]


def by_parts() -> list[str]:
    return [f"{layer}.{part}" for layer in by_layers() for part in ("first", "second")]


def counted(session: vramx.Session) -> set[int]:
    return {row.uses for row in session.modules()}


def test_layers_are_leased_whole_and_give_the_same_bits(open_session: OpenSession) -> None:
    model = Model()
    expected = copy.deepcopy(model)(X)
    with open_session(WHOLE, block=BLOCK) as session:
        session.manage(model)
        assert leased(session, lambda: model(X)) == by_layers()
        session.set_budget(SHRUNK)
        for done in range(1, 6):
            assert torch.equal(model(X), expected)
            assert counted(session) == {1 + done}
        before = session.stats()
        assert leased(session, lambda: model(X)) == by_layers()
        moved = session.stats().moved_in - before.moved_in
        assert moved >= LAYERS * PAIR - SHRUNK  # they stream, by a plan
        plan = session.plan()
        assert plan is not None
        assert (plan.uses, plan.moved_in) == (LAYERS, moved)
        assert session.stats().peak_resident <= WHOLE
    assert torch.equal(model(X), expected)


def test_parts_are_leased_one_by_one_in_a_small_budget(open_session: OpenSession) -> None:
    model = Model()
    expected = copy.deepcopy(model)(X)
    with open_session(WHOLE - 1, block=BLOCK) as session:
        session.manage(model)
        assert leased(session, lambda: model(X)) == by_parts()
        session.unmanage(model)
    with open_session(WHOLE, block=BLOCK) as session:
        session.manage(model)
        model(X)
        session.set_budget(SHRUNK - BLOCK)
        for _ in range(3):
            assert torch.equal(model(X), expected)
        assert leased(session, lambda: model(X)) == by_parts()
        assert counted(session) == {5}
        session.set_budget(SHRUNK)
        assert leased(session, lambda: model(X)) == by_layers()


def test_a_part_called_by_itself_has_a_lease_of_its_own(open_session: OpenSession) -> None:
    model = Model()
    part = model.layers[3].first
    expected = copy.deepcopy(part)(X)
    with open_session(WHOLE, block=BLOCK) as session, session:
        session.manage(model)
        session.evict(model)
        assert leased(session, lambda: part(X)) == ["Model.layers.3.first"]
        assert torch.equal(part(X), expected)
        assert session.stats().resident == BLOCK
        assert session.stats().unleased_accesses == 0
        assert {row.uses for row in session.modules()} == {0, 2}


def test_a_part_that_another_thread_calls_meanwhile_has_one_too(open_session: OpenSession) -> None:
    model = Model()
    got: list[torch.Tensor] = []

    def call() -> None:
        with torch.no_grad():
            got.append(model.layers[0].second(X))

    def elsewhere() -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    expected = copy.deepcopy(model.layers[0].second)(X)
    with open_session(WHOLE, block=BLOCK) as session:
        session.manage(model)
        model.layers[0].then = elsewhere
        assert leased(session, lambda: model(X)) == ["Model.layers.0.second", *by_layers()]
        assert torch.equal(got[0], expected)


def test_a_part_on_another_stream_has_one_too(open_session: OpenSession) -> None:
    streams = [0]
    model = Model()
    with open_session(WHOLE, block=BLOCK) as session:
        passes = session._torch.passes
        passes.context = _core.CallContext(
            core=session._core,
            stream=_core.PresentStream(0, lambda _: streams[-1]),
            program=weakref.proxy(passes),
        )
        session.manage(model)
        model.layers[0].then = lambda: streams.append(7)
        model.layers[1].then = lambda: streams.append(0)
        names = leased(session, lambda: model(X))
    assert names[:3] == ["Model.layers.0.second", "Model.layers.0", "Model.layers.1.second"]


def test_what_calls_some_of_its_parts_only_is_leased_part_by_part(
    open_session: OpenSession,
) -> None:
    model = Model()
    for layer in model.layers[1::2]:
        layer.short = True
    expected = copy.deepcopy(model)(X)
    parts = [f"Model.layers.{i}" + ".first" * (i % 2) for i in range(LAYERS)]
    with open_session(LAYERS * PAIR, block=BLOCK) as session:
        session.manage(model)
        assert leased(session, lambda: model(X)) == by_layers()
        for _ in range(2):
            assert torch.equal(model(X), expected)
            assert leased(session, lambda: model(X)) == parts
        session.evict(model)
        before = session.stats().moved_in
        model(X)
        assert session.stats().moved_in - before == LAYERS // 2 * (PAIR + BLOCK)


def test_a_call_that_fails_says_nothing_of_the_parts(open_session: OpenSession) -> None:
    model = Model()

    def fail() -> None:
        raise RuntimeError("on purpose")

    with open_session(WHOLE, block=BLOCK) as session:
        session.manage(model)
        model.layers[5].then = fail
        with pytest.raises(RuntimeError, match="on purpose"):
            model(X)
        model.layers[5].then = lambda: None
        assert leased(session, lambda: model(X)) == by_layers()


def test_parts_bring_their_arguments_while_any_lies_on_the_host(open_session: OpenSession) -> None:
    model = Model()
    with open_session(WHOLE, block=BLOCK) as session:
        session.manage(model)
        other = session.empty((BLOCK,), torch.uint8).zero_()
        model.layers[0].then = lambda: session.evict(other)
        names = leased(session, lambda: model(X))
    assert names[:2] == ["Model.layers.0.second", "Model.layers.0"]


@pytest.mark.parametrize("inside", [True, False])
def test_a_write_to_one_part_is_kept_and_makes_no_other_dirty(
    open_session: OpenSession, inside: bool
) -> None:
    model = Model()
    twin = copy.deepcopy(model)

    def write(layer: Layer) -> None:
        layer.second.weight.mul_(1.5)

    for each in (model, twin):
        if inside:
            each.layers[2].then = lambda layer=each.layers[2]: write(layer)
    with open_session(WHOLE, block=BLOCK) as session:
        session.manage(model)
        for _ in range(2):
            if not inside:
                write(twin.layers[2])
                with session.pin(model.layers[2]):
                    write(model.layers[2])
            assert torch.equal(model(X), twin(X))
            session.evict(model)
        # Of a part what was written; of a pin what it held.
        assert session.device.saved == (2 if inside else 4) * BLOCK
        assert session.stats().moved_out == 0
    assert torch.equal(model.layers[2].second.weight, twin.layers[2].second.weight)


class Tree(nn.Module):
    """A module with weights and modules of its own, one of which may be another's too."""

    def __init__(self, own: int, parts: list[nn.Module]) -> None:
        super().__init__()
        if own:
            self.own = nn.Parameter(torch.zeros(own))
        self.parts = nn.ModuleList(parts)

    def forward(self) -> None:
        """Do nothing."""


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    made: list[nn.Module] = []

    def grow(depth: int) -> nn.Module:
        own = draw(st.integers(0, 40))
        if depth == 0:
            made.append(Tree(own, []))
        else:
            count = draw(st.integers(0, 3))
            made.append(Tree(own, [grow(depth - 1) for _ in range(count)]))
        if len(made) > 1 and draw(st.integers(0, 9)) == 0:
            return made[draw(st.integers(0, len(made) - 2))]
        return made[-1]

    return Tree(draw(st.integers(0, 40)), [grow(draw(st.integers(0, 3))) for _ in range(3)])


@given(root=trees(), most=st.integers(0, 1000))
def test_the_largest_modules_that_are_small_are_chosen(root: Tree, most: int) -> None:
    one_by_one = list(leased_modules(root))
    chosen = fusible_modules(root, one_by_one, most)
    sizes = {id(module): sum(t.nbytes for t in own) for module, own in one_by_one}
    places = [id(child) for module in root.modules() for child in module.children()]

    def fit(module: nn.Module) -> bool:
        below = [each for each in module.modules() if each is not module]
        parts = [sizes[id(each)] for each in module.modules() if id(each) in sizes]
        alone = all(places.count(id(each)) == 1 for each in below)
        is_list = isinstance(module, nn.ModuleList)
        return len(parts) > 1 and sum(parts) <= most and alone and not is_list

    whole = {id(module) for module, _ in chosen}
    assert id(root) not in whole
    assert len(whole) == len(chosen)
    for module, parts in chosen:
        assert fit(module)
        assert [id(part) for part, _ in parts] == [
            id(each) for each in module.modules() if id(each) in sizes
        ]

    def every_fit_is_in_one(module: nn.Module) -> None:
        for child in module.children():
            if id(child) in whole:
                continue
            assert not fit(child)
            every_fit_is_in_one(child)

    every_fit_is_in_one(root)


def test_how_large_they_may_be() -> None:
    assert most_bytes(2**40) == 128 * 2**20
    assert most_bytes(WHOLE) == PAIR
    assert least_budget(most_bytes(WHOLE)) == WHOLE // 2
