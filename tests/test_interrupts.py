"""Ctrl-C at any moment of what a session does with a module leaves the module whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

PACKAGE = str(Path(vramx.__file__).parent)
X = torch.linspace(-1, 1, 256).view(2, 128)


def run(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(X)


class Interrupt:
    """Interrupts a program as it begins its n-th call of a function in vramx's own files.

    There the interpreter itself looks whether a signal has come.
    """

    def __init__(self, after: int) -> None:
        self.left = after
        self.came = False

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self.look)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        sys.settrace(self.before)
        return kind is KeyboardInterrupt

    def look(self, frame: FrameType, event: str, arg: object) -> None:  # noqa: ARG002
        if event != "call" or self.came or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        self.left -= 1
        if not self.left:
            self.came = True
            raise KeyboardInterrupt


ACTS: dict[str, Callable[[vramx.Session, nn.Module], Any]] = {
    "manage": lambda session, model: session.manage(model),
    "unmanage": lambda session, model: session.unmanage(model),
    "close": lambda session, model: session.close(),  # noqa: ARG005
    "forward": lambda session, model: run(model),  # noqa: ARG005
    "set_budget": lambda session, model: session.set_budget(3 * BLOCK),  # noqa: ARG005
    "evict": lambda session, model: session.evict(model),
}
#: More calls than any of them makes.
ENDLESS = 10**6


@pytest.mark.parametrize("name", ACTS)
# A trace of Hypothesis' own, to explain failures, would be in the way.
@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=set(Phase) - {Phase.explain},
)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_module_is_whole_after_an_interrupt_at_any_moment(
    open_session: OpenSession, linears: Linears, name: str, part: float
) -> None:
    def prepared() -> tuple[vramx.Session, nn.Sequential]:
        session, model = open_session(4 * BLOCK, block=BLOCK), linears(3)
        if name != "manage":
            session.manage(model)
            run(model)
        return session, model

    expected = run(linears(3))
    session, model = prepared()
    whole = Interrupt(ENDLESS)
    with whole:
        ACTS[name](session, model)
    session.close()

    session, model = prepared()
    interrupt = Interrupt(1 + int(part * (ENDLESS - whole.left)))
    with interrupt:
        ACTS[name](session, model)
    assert session.closed or not session.stats().leased
    session.close()
    assert torch.equal(run(model), expected)
    with open_session(4 * BLOCK, block=BLOCK) as again:
        again.manage(model)
        assert torch.equal(run(model), expected)
