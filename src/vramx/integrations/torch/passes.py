"""Where a pass of calls of managed modules begins: writes are looked for, and turns are told."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils import _pytree

from vramx import _core
from vramx.integrations.torch.caching import Cache
from vramx.integrations.torch.core import TorchCore
from vramx.integrations.torch.history import History
from vramx.integrations.torch.memory import storage_range

#: A turn of so many passes is long.
LONG = 4


class Root(Protocol):
    """A managed module, as passes of its calls see it."""

    def begin_pass(self) -> None:
        """Look at what it holds, since a pass of its calls begins."""

    def look_at(self, unit: Any) -> None:
        """Look at what a unit of it holds now that is about to be called."""

    def note_writes(self) -> None:
        """Report what of it was changed in place since the last look."""

    def note_writes_that_leave(self) -> None:
        """Report that as far as it is lost where it leaves the card."""

    def pack_if_due(self) -> None:
        """Give its weights packed copies where a changed budget asks for them."""

    def forget_digests(self, ranges: list[tuple[int, int]]) -> None:
        """Take reported writes out of what checking mode compares."""


class Called(Protocol):
    """What is called in a pass: a unit, or a managed module itself."""

    @property
    def root(self) -> Root:
        """The managed module that it is of."""


class Unit(Called, Protocol):
    """What is leased as one around a call."""

    def put_in_place(self) -> None:
        """Put what a call gave tensors in the place of their bytes."""


R = TypeVar("R", bound=Root)


class _Turns(threading.local):
    """The passes of a thread's outermost calls of managed modules.

    The passes of one managed module in a row are its turn.
    """

    def __init__(self) -> None:
        self._root: Callable[[], object] = lambda: None
        self._called: set[int] = set()
        self._passes = 0
        self._takes_long: weakref.WeakSet[object] = weakref.WeakSet()

    def goes_on(self, called: Called) -> bool:
        """Note an outermost call, unless that begins a new pass; tell whether it is noted."""
        noted = self._called
        if called.root is not self._root() or id(called) in noted:
            return False
        noted.add(id(called))
        return True

    def begin_pass(self, called: Called) -> bool:
        """Begin one by its first call; return whether the cache is to be told of a long turn.

        That is once in each: before its first pass where the module's last turn was long, else when
        it has become so.
        """
        root, before = called.root, self._root()
        if root is not before:
            if before is not None and self._passes < LONG:
                self._takes_long.discard(before)
            self._root = weakref.ref(root)
            self._passes = 0
        self._called = {id(called)}
        self._passes += 1
        if self._passes != (1 if root in self._takes_long else LONG):
            return False
        self._takes_long.add(root)
        return True


class Passes(Generic[R]):
    """A session's managed modules, the passes of their calls, and what leased calls tell of.

    A write to a weight must be known before anything evicts it. Weights are written between passes,
    so all are looked at when a pass begins: when a module is called while none is running, and it
    is of another managed module than the last such call, or has been called since the last look.

    Parameters
    ----------
    torch_core : TorchCore
        What the session's torch side stands on.
    cache : Cache
        What torch keeps for later.

    Attributes
    ----------
    history : History
        What was counted of modules of old.
    context : _core.CallContext
        What the leased calls of the session share.
    count : int
        How often managed modules were called.
    outside_mode : callable or None
        Makes a call that operations of leased modules alone are made in, if there is a mode that
        need not see those.
    registered : int
        How often something of a new name was put into a managed module.
    """

    def __init__(self, torch_core: TorchCore, cache: Cache) -> None:
        self.torch_core = torch_core
        self.history = History(torch_core.core)
        self.count = 0
        self.registered = 0
        self.outside_mode: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
        self._core = torch_core.core
        self._cache = cache
        self._turns = _Turns()
        self._managed: list[weakref.ref[R]] = []
        # Calls hold the context, and their units hold this.
        self.context = _core.CallContext(
            core=self._core, stream=torch_core.stream, program=weakref.proxy(self)
        )

    @property
    def modules(self) -> list[R]:
        """The managed modules that the program has not let go of, in order."""
        return [managed for ref in self._managed if (managed := ref()) is not None]

    def add(self, managed: R) -> None:
        """Know of a module from now on, for as long as it lives."""
        self._managed.append(weakref.ref(managed))

    def remove(self, managed: R) -> None:
        """Know of a module no more."""
        self._managed = [ref for ref in self._managed if ref() is not managed]

    def bury(self) -> None:
        """Let go of what is known of modules that the program has let go of."""
        self.history.bury()
        self._managed = [ref for ref in self._managed if ref() is not None]

    def note_writes(self) -> None:
        """Report what was changed in place since the last look, before anything evicts it."""
        self.context.look_at_aliases()
        for managed in self.modules:
            managed.note_writes()

    # What leased calls tell and ask; see `_core.CallContext`

    def call_begins(self, called: Called) -> None:
        """Look at what is about to be called, and at what may leave the card for it."""
        if self._turns.goes_on(called):
            return
        if self._turns.begin_pass(called):
            self._cache.begin_long_turn()
        if self.history.gone:
            self.bury()
        called.root.begin_pass()
        for ref in self._managed:
            if (managed := ref()) is not None:
                managed.note_writes_that_leave()
        called.root.pack_if_due()

    def contents_changed(self, unit: Unit) -> None:
        """Look at what a unit holds now."""
        unit.root.look_at(unit)

    def storage_replaced(self, unit: Unit) -> None:
        """Put what a call gave the tensors of a unit in the place of their bytes."""
        unit.put_in_place()

    def wrote(self, ranges: list[tuple[int, int]]) -> None:
        """Note that the program wrote to weights where they are now."""
        self._core.written(ranges)
        self.forget_digests(ranges)

    def forget_digests(self, ranges: list[tuple[int, int]]) -> None:
        """Take reported writes out of what checking mode compares."""
        for managed in self.modules:
            managed.forget_digests(ranges)

    def scratch_grew(self) -> None:
        """Ask back what torch keeps for later, if it is worth it."""
        self._cache.scratch_grew()

    def activations(self, args: Any, kwargs: Any) -> list[tuple[int, int]]:
        """Tell where those arguments of a call lie that are in the session's memory."""
        leaves = _pytree.tree_leaves((args, kwargs))
        found = [storage_range(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        return self._core.owned([each for each in found if each is not None])
