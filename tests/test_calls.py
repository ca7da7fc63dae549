"""What leased calls tell their program of, and when; beneath any framework."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import vramx
from bare_calls import Program
from vramx import _core

OpenSession = Callable[..., vramx.Session]


class Told(Program):
    """Notes what begins, and fails to look where it is asked to."""

    def __init__(self, core: _core.Core) -> None:
        super().__init__(core)
        self.begun: list[object] = []
        self.fails = False

    def call_begins(self, called: object) -> None:
        self.begun.append(called)
        if self.fails:
            raise LookupError("on purpose")


class Scene:
    """A program and calls of units, each named as its unit is."""

    def __init__(self, session: vramx.Session) -> None:
        self.core = session._core
        self.program = Told(self.core)
        self.context = _core.CallContext(
            core=self.core, stream=_core.PresentStream(0, int), program=self.program
        )

    def call(self, unit: str, inner: Callable[[], Any] = lambda: None) -> _core.LeasedCall:
        return _core.LeasedCall(
            context=self.context,
            unit=unit,
            group=self.core.define([], unit),
            inner=inner,
            hooks=None,
            least_budget=0,
        )


@pytest.fixture
def scene(open_session: OpenSession) -> Scene:
    return Scene(open_session())


def test_of_calls_within_each_other_the_outermost_is_told(scene: Scene) -> None:
    inner = scene.call("inner")
    outer = scene.call("outer", inner)
    outer()
    inner()
    assert scene.program.begun == ["outer", "inner"]
    scene.context.enter("root")
    outer()
    scene.context.leave()
    assert scene.program.begun == ["outer", "inner", "root"]


def test_each_thread_has_an_outermost_call_of_its_own(scene: Scene) -> None:
    elsewhere = scene.call("elsewhere")

    def run_elsewhere() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    scene.call("here", run_elsewhere)()
    assert scene.program.begun == ["here", "elsewhere"]


def test_a_call_that_cannot_begin_is_not_made_and_has_not_begun(scene: Scene) -> None:
    made: list[str] = []
    call = scene.call("one", lambda: made.append("one"))
    scene.program.fails = True
    with pytest.raises(LookupError, match="on purpose"):
        call()
    assert made == []
    scene.program.fails = False
    call()
    assert scene.program.begun == ["one", "one"]
    assert made == ["one"]


def test_a_call_that_fails_has_ended(scene: Scene) -> None:
    def fail() -> None:
        raise LookupError("on purpose")

    call = scene.call("one", fail)
    for _ in range(2):
        with pytest.raises(LookupError, match="on purpose"):
            call()
    assert scene.program.begun == ["one", "one"]
    assert scene.core.stats().leased == 0
