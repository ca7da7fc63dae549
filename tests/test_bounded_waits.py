"""No wait without an end: branches on threads, leases that others hold, modules in use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

X = torch.linspace(-1, 1, 256).view(2, 128)
#: Longer than any wait may take.
LONG = 60


def run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(x)


class Branches(nn.Module):
    """Runs its parts on a pool of threads, while it uses a weight of its own."""

    def __init__(self, branches: list[nn.Module], depth: int = 0) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.eye(128))
        self.branches = nn.ModuleList(branches)
        self.nested = Branches(branches, depth - 1) if depth else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [*self.branches, *([self.nested] if self.nested else [])]
        with ThreadPoolExecutor(len(parts)) as pool:
            made = [part.result(LONG) for part in [pool.submit(run, each, x) for each in parts]]
        return sum(made) + x @ self.own


def ends(act: Callable[[], Any]) -> Any:
    """Return what an action returns or raises; fail where it does not end."""
    said: list[Any] = []

    def work() -> None:
        try:
            said.append(act())
        except vramx.Error as error:
            said.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LONG)
    assert said, "it waits without an end"
    return said[0]


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(branches=st.integers(1, 3), depth=st.integers(0, 1), budget=st.integers(2, 4))
def test_branches_on_threads_end_with_the_same_bits(
    open_session: OpenSession, linears: Linears, branches: int, depth: int, budget: int
) -> None:
    model = Branches([linears(2, seed=n) for n in range(branches)], depth)
    expected = run(model, X)
    session = open_session(budget * BLOCK)
    session.manage(model)
    assert torch.equal(ends(lambda: run(model, X)), expected)
    assert session.stats().leased == 0
    session.close()


def test_what_cannot_be_read_in_place_is_an_error_that_names_who_holds_the_memory(
    open_session: OpenSession, linears: Linears, monkeypatch: pytest.MonkeyPatch
) -> None:
    del monkeypatch
    model = Branches([linears(1)])
    session = open_session(BLOCK, reads_over_link=False)
    session.manage(model)
    error = ends(lambda: run(model, X))
    assert isinstance(error, vramx.OutOfMemoryError)
    assert "(Branches)" in str(error)
    assert session.stats().leased == 0


class Waiting(nn.Module):
    """Says that it runs, and goes on when it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.reached.set()
        assert self.go_on.wait(LONG)
        return x


@pytest.mark.parametrize("end", ["close", "unmanage", "leave the scope"])
def test_a_module_in_the_midst_of_a_pass_is_not_taken_away(
    open_session: OpenSession, linears: Linears, end: str
) -> None:
    between = Waiting()
    model = nn.Sequential(*linears(2), between, *linears(2, seed=1))
    idle = linears(3, seed=2)
    made: list[torch.Tensor] = []
    between.go_on.set()
    expected = run(model, X)
    between.reached.clear()
    between.go_on.clear()
    session = open_session(2 * BLOCK)
    session.manage(idle)
    session.manage(model)
    thread = threading.Thread(target=lambda: made.append(run(model, X)))
    thread.start()
    assert between.reached.wait(LONG)
    with pytest.raises(vramx.InUseError, match="Sequential is running"):
        if end == "close":
            session.close()
        elif end == "unmanage":
            session.unmanage(model)
        else:
            with session:
                pass
    assert session.manages(model)
    assert session.manages(idle)  # nothing has changed
    assert not session.closed
    between.go_on.set()
    thread.join()
    assert torch.equal(made[0], expected)
    session.close()
    assert torch.equal(run(model, X), expected)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_a_program_s_own_exception_leaves_the_scope_as_itself_with_a_note(
    open_session: OpenSession, linears: Linears, raised: type[BaseException]
) -> None:
    between = Waiting()
    model = nn.Sequential(*linears(2), between)
    session = open_session(4 * BLOCK)
    with pytest.raises(raised) as caught:
        with session:
            session.manage(model)
            thread = threading.Thread(target=run, args=(model, X))
            thread.start()
            assert between.reached.wait(LONG)
            raise raised
    assert not session.closed
    if hasattr(caught.value, "__notes__"):
        assert "the session stays open: Sequential is running" in caught.value.__notes__[-1]
    between.go_on.set()
    thread.join()
    session.close()
