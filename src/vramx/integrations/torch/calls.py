"""Where a round of calls of managed modules begins, and writes between rounds are looked for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Calls(threading.local):
    """The rounds of a thread's outermost calls of managed modules.

    A write to a weight must be known before anything evicts it. Weights are written between passes,
    so all are looked at when a pass begins: when a module is called while none is running, and it
    is of another managed module than the last such call, or has been called since the last look.

    Parameters
    ----------
    look : callable
        Looks for writes.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._root: object = None
        self._called: set[int] = set()

    def begin_round(self, call: object, root: object) -> None:
        """Note an outermost call of a part of `root`, and look if it begins a new round."""
        if root is not self._root or id(call) in self._called:
            self._root = root
            self._called.clear()
            self._look()
        self._called.add(id(call))
