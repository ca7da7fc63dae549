"""A pipeline runs every value through its stages in order, in one budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx

BLOCK = 64 * 2**10
SECONDS = BLOCK / 1e9  # that a block takes on the link
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]


def inputs(count: int) -> list[torch.Tensor]:
    return [*torch.randn(count, 1, 128, generator=torch.Generator().manual_seed(1)).split(1)]


def make_stages(linears: Linears, length: int = 6) -> dict[str, nn.Sequential]:
    return {name: linears(length, seed) for seed, name in enumerate(("first", "second", "third"))}


def unmanaged(stages: dict[str, nn.Sequential], x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        for stage in stages.values():
            x = stage(x)
    return x


@pytest.mark.parametrize("given", [False, True])
def test_outputs_are_the_bits_of_the_stages_called_by_hand(
    open_session: OpenSession, linears: Linears, given: bool
) -> None:
    stages = make_stages(linears)
    frames = inputs(4)
    wanted = [unmanaged(stages, x) for x in frames]
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        if given:
            with open_session(8 * BLOCK) as session:
                with vramx.pipeline(stages, session=session) as chain:
                    got = [*chain.run(frames)]
        else:
            options = {"budget": 8 * BLOCK, "block": BLOCK, "backend": "simulated"}
            with vramx.pipeline(stages, **options) as chain:
                got = [*chain.run(frames)]
                session = chain.session
                assert session.stats().managed == 18 * BLOCK
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert session.stats().peak_resident <= 8 * BLOCK
    assert session.stats().passes == 12


def test_the_next_stages_weights_come_while_one_computes_and_wrap_to_the_next_frame(
    open_session: OpenSession, linears: Linears
) -> None:
    stages = make_stages(linears, 16)
    used, frames, in_flight = 48, 24, 4
    with open_session(frames * BLOCK) as session:
        for stage in stages.values():
            for layer in stage:
                layer.register_forward_hook(lambda *_: session.device.compute(0.55 * SECONDS))
        with vramx.pipeline(stages, session=session) as chain:
            for x in inputs(3):
                chain(x)
            for x in inputs(4):
                began, before = session.device.now, session.stats()
                chain(x)
                after = session.stats()
                assert after.misses == before.misses
                assert after.moved_in - before.moved_in <= (used - frames + in_flight) * BLOCK
                limit = max(0.55 * used, used - frames + in_flight) * SECONDS
                assert session.device.now - began <= 1.01 * limit


def test_a_stage_that_frames_skip_leaves_first(open_session: OpenSession, linears: Linears) -> None:
    stages: dict[str, Any] = make_stages(linears, 4)
    swapper = stages["second"]
    wants = [True]
    stages["second"] = vramx.Stage(swapper, when=lambda _: wants[0])
    with open_session(10 * BLOCK, policy="lru") as session:
        with vramx.pipeline(stages, session=session) as chain:
            chain(inputs(1)[0])
            wants[0] = False
            for x in inputs(3):
                chain(x)
            before = session.stats()
            chain(inputs(1)[0])
            assert session.stats().moved_in == before.moved_in
            assert chain.counts["second"].ran == 1
            assert chain.counts["second"].skipped == 4
            assert "stage second: ran 1, skipped 4" in chain.report()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    takes=st.lists(st.booleans(), max_size=9),
    batch=st.integers(1, 5),
    widths=st.lists(st.integers(1, 3), min_size=9, max_size=9),
)
def test_each_value_takes_just_its_stages_whatever_the_batch(
    open_session: OpenSession, takes: list[bool], batch: int, widths: list[int]
) -> None:
    double = nn.Linear(1, 1, bias=False)
    nn.init.constant_(double.weight, 2.0)
    seen = []

    def add_one(values: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.append(len(values))
        return [value + 1 for value in values]

    frames = [torch.full((width, 1), float(n)) for n, width in zip(range(len(takes)), widths)]
    stages = {
        "double": vramx.Stage(double, when=lambda x: takes[int(x[0, 0])]),
        "add": vramx.Stage(add_one, batched=True),
    }
    with open_session() as session, vramx.pipeline(stages, session=session, batch=batch) as chain:
        results = [*chain.run(frames)]
    for n, (result, frame) in enumerate(zip(results, frames, strict=True)):
        assert torch.equal(result, frame * (2 if takes[n] else 1) + 1)
    assert sum(seen) == len(takes)
    assert all(count == batch for count in seen[:-1])


def test_a_batch_uses_each_arrival_of_the_weights_for_all_its_values(
    open_session: OpenSession, linears: Linears
) -> None:
    moved = []
    for batch in (1, 4):
        with open_session(3 * BLOCK, policy="lru") as session:
            with vramx.pipeline(make_stages(linears), session=session, batch=batch) as chain:
                assert len([*chain.run(inputs(8))]) == 8
                moved.append(session.stats().moved_in)
    assert moved[0] == 4 * moved[1]


def test_values_are_read_no_more_than_a_batch_ahead(
    open_session: OpenSession, linears: Linears
) -> None:
    read = []

    def source() -> Iterator[torch.Tensor]:
        for number, x in enumerate(inputs(9)):
            read.append(number)
            yield x

    with open_session() as session:
        with vramx.pipeline({"only": linears(2)}, session=session, batch=3) as chain:
            for done, _ in enumerate(chain.run(source())):
                assert len(read) == 3 * (done // 3 + 1)


def test_what_the_caller_sees_between_values_keeps_its_gradients(
    open_session: OpenSession, linears: Linears
) -> None:
    with open_session() as session, vramx.pipeline({"a": linears(2)}, session=session) as chain:
        for _ in chain.run(inputs(2)):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()


def test_one_module_may_serve_several_stages(open_session: OpenSession, linears: Linears) -> None:
    shared = nn.ModuleList([linears(2, 1), linears(2, 2)])

    def encode(x: torch.Tensor) -> torch.Tensor:
        return shared[0](x)

    def decode(x: torch.Tensor) -> torch.Tensor:
        return shared[1](x)

    stages = {
        "encode": vramx.Stage(encode, [shared]),
        "decode": vramx.Stage(decode, [shared]),
    }
    x = inputs(1)[0]
    wanted = shared[1](shared[0](x))
    with open_session() as session, vramx.pipeline(stages, session=session) as chain:
        assert torch.equal(chain(x), wanted)
        assert session.stats().managed == 4 * BLOCK


def test_leaving_puts_back_what_entering_took_and_nothing_else(
    open_session: OpenSession, linears: Linears
) -> None:
    mine, theirs = linears(2, 1), linears(2, 2)
    with open_session() as session:
        session.manage(theirs)
        with vramx.pipeline({"a": mine, "b": theirs}, session=session) as chain:
            chain(inputs(1)[0])
            assert session.stats().managed == 4 * BLOCK
        assert session.stats().managed == 2 * BLOCK
        assert torch.equal(theirs(inputs(1)[0]), linears(2, 2)(inputs(1)[0]))
        with pytest.raises(vramx.SessionClosedError, match="inside its scope"):
            chain(inputs(1)[0])


def test_a_stage_that_cannot_be_managed_leaves_all_as_it_was(
    open_session: OpenSession, linears: Linears
) -> None:
    good = linears(2)
    bad = nn.Linear(2, 2, device="meta")
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match="meta"):
            vramx.pipeline({"good": good, "bad": bad}, session=session).__enter__()
        assert session.stats().managed == 0
        session.manage(good)


def test_a_session_closed_inside_the_scope_ends_the_pipelines_use(
    open_session: OpenSession, linears: Linears
) -> None:
    session = open_session()
    with vramx.pipeline({"a": linears(2)}, session=session) as chain:
        session.close()
        with pytest.raises(vramx.SessionClosedError, match="was closed"):
            chain(inputs(1)[0])


def test_an_error_in_a_stage_comes_out_and_names_the_stage(open_session: OpenSession) -> None:
    def fail(_: Any) -> None:
        raise KeyError("lost")

    with open_session() as session, vramx.pipeline({"swap": fail}, session=session) as chain:
        with pytest.raises(KeyError, match="lost") as caught:
            chain(1)
        assert chain.counts["swap"].ran == 0
    if sys.version_info >= (3, 11):
        assert any("'swap'" in note for note in caught.value.__notes__)


class Pair(nn.Module):
    """Returns what cannot be split."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Pair(), "Pair returned a tuple for a batch"),
        (nn.Flatten(0), "returned 256 along the first axis for 2"),
        (vramx.Stage(lambda values: values[:1], batched=True), "returned 1 for 2 values"),
        (vramx.Stage(lambda _: None, batched=True), "returned a NoneType for 2 values"),
    ],
)
def test_a_batch_that_does_not_come_back_whole_is_refused(
    open_session: OpenSession, stage: Any, message: str
) -> None:
    with open_session() as session:
        with vramx.pipeline({"it": stage}, session=session, batch=2) as chain:
            with pytest.raises(vramx.ConfigError, match=message):
                list(chain.run(inputs(2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vramx.pipeline({}), "at least one name"),
        (lambda: vramx.pipeline([nn.ReLU()]), "a mapping"),
        (lambda: vramx.pipeline({"a": 3}), "stage 'a': .* not a int"),
        (lambda: vramx.pipeline({2: nn.ReLU()}), "name is text"),
        (lambda: vramx.pipeline({"a": nn.ReLU()}, batch=0), "batch 0"),
        (lambda: vramx.pipeline({"a": nn.ReLU()}, batch=True), "batch True"),
        (lambda: vramx.pipeline({"a": nn.ReLU()}, session="8GiB"), "not a str"),
        (lambda: vramx.Stage(print, nn.ReLU()), "put the one into a list"),
        (lambda: vramx.Stage(print, [print]), "this is not: builtin_function_or_method"),
        (lambda: vramx.Stage(nn.ReLU(), [nn.ReLU()]), "has its own weights"),
        (lambda: vramx.Stage(nn.ReLU(), batched=True), "has its own weights"),
        (lambda: vramx.Stage(print, when=3), "function of a value"),
    ],
)
def test_bad_arguments_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        make()


def test_a_session_and_what_would_open_one_exclude_each_other(open_session: OpenSession) -> None:
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match=r"budget would open a session"):
            vramx.pipeline({"a": nn.ReLU()}, session=session, budget="1GiB")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_where_there_is_no_card_what_another_session_manages_runs_in_that_one(
    open_session: OpenSession, linears: Linears
) -> None:
    x = inputs(1)[0]
    stage = linears(2)
    expected = stage(x)
    with open_session() as session:
        session.manage(stage)
        with pytest.warns(RuntimeWarning, match="manages nothing"):
            with vramx.pipeline({"a": stage}, on_missing="cpu") as chain:
                assert torch.equal(chain(x), expected)
        assert session.manages(stage)
        assert session.stats().passes == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_where_there_is_no_card_it_runs_on_the_cpu_if_so_told(linears: Linears) -> None:
    x = inputs(1)[0]
    stage = linears(2)
    with pytest.warns(RuntimeWarning, match="manages nothing"):
        with vramx.pipeline({"a": stage}, on_missing="cpu") as chain:
            assert torch.equal(chain(x), stage(x))


def test_what_pipelines_return_is_public() -> None:
    from vramx import pipelines

    module = nn.Conv2d(3, 3, 1)
    assert isinstance(pipelines.pipeline({"a": module}), pipelines.Pipeline)
    assert isinstance(pipelines.super_resolution(module), pipelines.SuperResolution)
    assert isinstance(pipelines.face_swap(module, module, None), pipelines.FaceSwap)
    assert all(hasattr(pipelines, name) for name in pipelines.__all__)
    assert not hasattr(pipelines, "NoSuchName")
