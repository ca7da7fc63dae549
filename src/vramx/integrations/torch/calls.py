"""Where a round of calls of managed modules begins, and writes between rounds are looked for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class _Depth(threading.local):
    value = 0


class Calls:
    """Looks for writes once a round of outermost calls.

    A write to a weight must be known before anything evicts it. Weights are written between passes,
    so all are looked at when a pass begins: when a module is called while none is running, and
    either it has been called since the last look or nothing has.

    Parameters
    ----------
    look : callable
        Looks for writes.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._called: set[int] = set()
        self._depth = _Depth()

    def begin(self, call: object) -> None:
        """Note that a call begins."""
        if self._depth.value == 0:
            if not self._called or id(call) in self._called:
                self._called.clear()
                self._look()
            self._called.add(id(call))
        self._depth.value += 1

    def end(self) -> None:
        """Note that a call ended."""
        self._depth.value -= 1
