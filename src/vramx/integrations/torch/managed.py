"""A managed module: its bytes in a session's memory, its calls leased, and all put back."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vramx.errors import InUseError
from vramx.integrations.torch.leases import Leases
from vramx.integrations.torch.module_memory import ModuleMemory, plainly
from vramx.integrations.torch.passes import Passes
from vramx.integrations.torch.storages import Placement
from vramx.integrations.torch.tensors import each_once, tensors_of
from vramx.integrations.torch.units import Unit
from vramx.seeing.usage import ModuleStats
from vramx.units import format_size

if TYPE_CHECKING:
    from vramx.integrations.torch.loading import Incoming

#: What is replaced in so many passes in a row is left where it is.
RESTLESS = 3

_owners: weakref.WeakKeyDictionary[nn.Module, Passes[ManagedModule]] = weakref.WeakKeyDictionary()


def passes_of(module: nn.Module) -> Passes[ManagedModule] | None:
    """Return the passes of the session that manages a module, if one does."""
    return _owners.get(module)


def _nothing(*_: Any) -> None:
    """Stand in for a hook in a copy of a managed module, which is not managed."""


def _return_nothing() -> Any:
    return _nothing


class _BeforeLoad:
    """Takes a module off the card before it is loaded: written in place, the host is faster."""

    def __init__(self, managed: ManagedModule) -> None:
        self._managed = weakref.ref(managed)

    def __call__(self, *_: Any) -> None:
        if (managed := self._managed()) is not None:
            managed.evict()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _nothing

    def __reduce__(self) -> Any:
        return (_return_nothing, ())


class ManagedModule:
    """A module in a session's charge.

    It does not hold the module: the calls in the module's parts hold it, so that what a program
    lets go of goes.

    Parameters
    ----------
    passes : Passes
        Those of the session's managed modules, of which it becomes one.
    module : torch.nn.Module
        The module, of which `refuse` refuses nothing.
    name : str
        How reports call it.
    incoming : Incoming, optional
        Bytes to take in place of the module's own.

    Attributes
    ----------
    memory : ModuleMemory
        Where its bytes lie.
    callers : list of int
        The threads of its calls that are under way.
    budget_changed : bool
        Whether the budget was set since it was last seen whether weights are to be packed.

    Raises
    ------
    OutOfMemoryError
        If its memory cannot be had; nothing has changed.
    """

    def __init__(
        self,
        passes: Passes[ManagedModule],
        module: nn.Module,
        name: str,
        incoming: Incoming | None = None,
    ) -> None:
        self.name = name
        self.passes = passes
        self.callers: list[int] = []
        self.budget_changed = False
        self.memory = ModuleMemory(passes.torch_core, module, name)
        self._units: weakref.WeakSet[Unit] = weakref.WeakSet()
        self._leases: Any = lambda: None
        self._hook: Any = None
        self._following = threading.Lock()
        self._passes = 0
        self._looked_in = 0  # the pass in which all was looked at
        placement = Placement(module, revocable=incoming is not None)
        try:
            with plainly():
                self.memory.take_in(module, placement, incoming)
                leases = Leases(self, self.memory, passes, self._units)
                self._leases = weakref.ref(leases)  # which the module's call holds
                leases.make(module)
            self.memory.note_known(module)
            if not isinstance(module, torch.jit.ScriptModule):  # which has no such hooks
                self._hook = module.register_load_state_dict_pre_hook(_BeforeLoad(self))
            for each in module.modules():
                _owners[each] = passes
            passes.add(self)
        except BaseException:
            placement.revoke()
            self.put_back()
            raise
        placement.settle()

    @property
    def module(self) -> nn.Module | None:
        """The module; None where the program has let go of it."""
        return self.memory.module

    @property
    def nbytes(self) -> int:
        """Bytes in the session's charge."""
        return sum(self.memory.places.ranges_of(self._tensors()).values())

    def usage(self) -> list[ModuleStats]:
        """Count what was done with the leased modules, in the order of registration."""
        leases = self._leases()
        return [] if leases is None else leases.usage()

    def describe(self) -> list[str]:
        """Describe it in a line, and in others what of it is not in the session's memory."""
        leases = self._leases()
        units = len(self._units) if leases is None else len(leases.units)
        left_out = (f"{name} {why}" for name, why in self.memory.left_out.items())
        return [
            f"{self.name}: {format_size(self.nbytes)} in {units} units",
            *(f"{self.name}, not in the session's memory: {each}" for each in left_out),
        ]

    def _tensors(self) -> list[torch.Tensor]:
        """List the module's tensors, and those of parts that outlive it, each once."""
        module = self.module
        tensors = [] if module is None else list(tensors_of(module).values())
        tensors += [tensor for unit in [*self._units] for tensor in unit.tensors]
        return each_once(tensors)

    # What the program does to the module meanwhile

    def begin_pass(self) -> None:
        """See whether there are other modules now, and take in what they hold."""
        self._passes += 1
        leases = self._leases()
        if leases is not None and (self.memory.look_again or leases.changed()):
            self._look(leases)

    def _runs_elsewhere(self) -> bool:
        return any(each != threading.get_ident() for each in self.callers)

    def look_at(self, unit: Unit) -> None:
        """See what a module holds now that is about to be called, and what the others do.

        All are looked at once in a pass. What changes in each pass is left where it is.
        """
        if unit.restless_in != self._passes:
            follows = unit.restless_in == self._passes - 1
            unit.restless = unit.restless + 1 if follows else 1
            unit.restless_in = self._passes
        leases = self._leases()
        settles = unit.restless < RESTLESS
        if leases is not None and settles and self._looked_in != self._passes:
            self._looked_in = self._passes
            self._look(leases)
        if unit.call.changed:
            self.memory.look_again |= settles
            with self._following, plainly(), contextlib.suppress(InUseError):
                unit.lease_again()

    def look(self) -> None:
        """See what the module holds now, and take that in, also what could not be before."""
        leases = self._leases()
        if leases is None:
            return
        pending = self.memory.look_again or self.memory.left_out
        if pending or leases.changed() or leases.changed_within():
            self._look(leases)

    def _look(self, leases: Leases) -> None:
        """Follow the module, unless another thread runs it: what that uses stays as it is."""
        with self._following:
            module = self.module
            if module is None or self._runs_elsewhere():
                return
            with plainly(), contextlib.suppress(InUseError):
                look = self.memory.take_in_new(module)
                leases.follow(module)
                leases.note_contents(module)
                for each in module.modules():
                    _owners[each] = self.passes
                self.memory.note(look, module)

    def count_buffer_as_written(self, address: int) -> None:
        """Take a buffer at an address for written at each call that uses it."""
        leases = self._leases()
        if leases is not None and self.memory.places.is_buffer(address):
            leases.count_as_written(address)

    def note_writes(self) -> None:
        """Report weights that were changed in place since the last look."""
        if (leases := self._leases()) is not None:
            leases.note_writes()

    def note_writes_that_leave(self) -> None:
        """Report those that would be lost where something leaves the card."""
        if (leases := self._leases()) is not None:
            leases.note_writes_that_leave()

    def pack_if_due(self) -> None:
        """Pack after a change of the budget, as a pass begins and no other thread runs it."""
        if self.budget_changed and not self._runs_elsewhere():
            self.budget_changed = False
            self.passes.note_writes()
            self.passes.torch_core.packing.pack([self.memory.places])

    def verify(self) -> None:
        """Look for writes that nobody was told of, in checking mode."""
        if self.memory.digests is not None:
            self.look()  # what lies elsewhere now has no digest
            self.passes.note_writes()
            self.memory.digests.verify()

    def forget_digests(self, ranges: list[tuple[int, int]]) -> None:
        """Accept the present bytes of written ranges; see `Digests`."""
        if self.memory.digests is not None:
            self.memory.digests.accept(ranges)

    # Back

    def evict(self) -> None:
        """Take everything off the card."""
        self.note_writes()
        self.memory.evict(self._tensors())

    def check_idle(self) -> None:
        """Raise where it is running.

        Raises
        ------
        InUseError
            If a call of it is under way.
        """
        if self.callers:
            raise InUseError(
                f"{self.name} is running: {len(self.callers)} calls of it are under way; let them "
                "end first"
            )

    def put_back(self) -> None:
        """Move everything back where it came from and restore the calls.

        Raises
        ------
        InUseError
            If it is running, or a lease or a pin holds some of it; nothing has changed.
        """
        self.check_idle()
        self.note_writes()
        module = self.module
        self.memory.put_back(self._tensors())
        leases = self._leases()
        if leases is not None:
            if module is not None and passes_of(module) is self.passes:
                leases.remember()
            leases.undo()
        for unit in [*self._units]:  # of parts that outlive the module
            unit.end()
        if self._hook is not None:
            self._hook.remove()
        if module is not None:
            for each in module.modules():
                _owners.pop(each, None)
