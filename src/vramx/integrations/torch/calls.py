"""Where a pass of calls of managed modules begins: writes are looked for, and turns are told."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

#: A turn of so many passes is long.
LONG = 4


class Calls(threading.local):
    """The passes of a thread's outermost calls of managed modules.

    A write to a weight must be known before anything evicts it. Weights are written between passes,
    so all are looked at when a pass begins: when a module is called while none is running, and it
    is of another managed module than the last such call, or has been called since the last look.

    The passes of one managed module in a row are its turn.

    Parameters
    ----------
    look : callable
        Looks for what was changed, given what is called.
    begin_long_turn : callable
        Called once in each long turn: before its first pass where the module's last one was long,
        else when it has become so.
    """

    def __init__(self, look: Callable[[Any], None], begin_long_turn: Callable[[], None]) -> None:
        self._look = look
        self._begin_long_turn = begin_long_turn
        self._root: Callable[[], object] = lambda: None
        self._called: set[int] = set()
        self._passes = 0
        self._takes_long: weakref.WeakSet[object] = weakref.WeakSet()

    def begin_round(self, call: object, root: object) -> None:
        """Note an outermost call of a part of `root`, and look if it begins a new pass."""
        if root is not self._root() or id(call) in self._called:
            self._begin_pass(root)
            self._called.clear()
            self._look(root)
        self._called.add(id(call))

    def _begin_pass(self, root: object) -> None:
        before = self._root()
        if root is not before:
            if before is not None and self._passes < LONG:
                self._takes_long.discard(before)
            self._root = weakref.ref(root)
            self._passes = 0
        self._passes += 1
        if self._passes == (1 if root in self._takes_long else LONG):
            self._takes_long.add(root)
            self._begin_long_turn()
