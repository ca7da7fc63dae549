"""Leased calls without a framework: of functions, with a program that does next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vramx import _core


class Program:
    """What leased calls tell of and ask; see `_core.CallContext`."""

    def __init__(self, core: _core.Core) -> None:
        self.wrote = core.written

    def call_begins(self, called: object) -> None:
        """Look at nothing."""

    def activations(self, args: Any, kwargs: Any) -> list[tuple[int, int]]:  # noqa: ARG002
        """Tell of none."""
        return []


def context_of(core: _core.Core, present_stream: Callable[[int], int]) -> _core.CallContext:
    """Make what calls share that run on whatever stream is present."""
    stream = _core.PresentStream(0, present_stream)
    return _core.CallContext(core=core, stream=stream, program=Program(core))


def call_of(context: _core.CallContext, group: int, inner: Callable[[], Any]) -> _core.LeasedCall:
    """Make the call of a function under a lease."""
    return _core.LeasedCall(
        context=context, unit=object(), group=group, inner=inner, hooks=None, least_budget=0
    )
