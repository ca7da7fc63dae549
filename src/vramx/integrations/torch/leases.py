"""What of a managed module is leased by which calls, as of the last look at the module."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from vramx import _core
from vramx.integrations.torch.fusing import Leased, fusible_modules, most_bytes
from vramx.integrations.torch.internals.own_calls import (
    present_call,
    replace_call,
    restore_call,
)
from vramx.integrations.torch.module_memory import ModuleMemory
from vramx.integrations.torch.passes import Passes
from vramx.integrations.torch.root_call import CheckedRoot, RootCall
from vramx.integrations.torch.units import FusedUnit, Unit, is_leased_with_parts, leased_modules
from vramx.seeing.usage import ModuleStats, added, module_stats


def _outline(module: nn.Module, leased: list[Leased]) -> list[object]:
    """Tell which modules there are, and how many tensors each of those leased has."""
    return [*map(id, module.modules()), *((id(each), len(own)) for each, own in leased)]


def _holders(module: nn.Module) -> list[nn.Module]:
    """List the modules whose tensors a module's call uses."""
    return [*module.modules()] if is_leased_with_parts(module) else [module]


class Leases:
    """The leased calls of a managed module.

    The call of the module itself holds them, so that they go with it.

    Parameters
    ----------
    root : CheckedRoot
        The module as a session knows it.
    memory : ModuleMemory
        Where its bytes lie.
    passes : Passes
        Those of the session's managed modules.
    all_units : WeakSet of Unit
        Where to put all units that there are, of which some may outlive the module.

    Attributes
    ----------
    units : list of Unit
        The modules that are leased one by one, in registration order.
    """

    def __init__(
        self,
        root: CheckedRoot,
        memory: ModuleMemory,
        passes: Passes[Any],
        all_units: weakref.WeakSet[Unit],
    ) -> None:
        self._root = root
        self._memory = memory
        self._passes = passes
        self._core = passes.torch_core.core
        self._all_units = all_units
        self.units: list[Unit] = []
        self._fused: list[FusedUnit] = []
        self._outline: list[object] = []
        self._written = _core.Versions([])
        self._lost = _core.Versions([])
        self._always_look = False
        self._contents = _core.Contents([], [])
        self._outdated = False
        self._registered = 0
        self._past: dict[str, ModuleStats] = {}  # of what was leased before it changed

    def make(self, module: nn.Module) -> None:
        """Lease the calls of the module and its parts."""
        self._make(module)
        self.note_contents(module)

    def _make(self, module: nn.Module) -> None:
        leased = list(leased_modules(module))
        names = {id(each): name for name, each in module.named_modules()}

        def lease(each: nn.Module, uses: list[Leased], *, fused: bool) -> Unit | None:
            tensors = [tensor for _, own in uses for tensor in own]
            if not self._memory.places.ranges_of(tensors):
                return None
            holders = [holder for used, _ in uses for holder in _holders(used)]
            name = ".".join(filter(None, (self._memory.name, names[id(each)])))
            unit = Unit(
                self._root, self._memory, self._passes, each, tensors, holders, name, fused=fused
            )
            self._all_units.add(unit)
            replace_call(each, unit.call)
            return unit

        units = {id(one[0]): lease(one[0], [one], fused=False) for one in leased}
        self.units = [unit for unit in units.values() if unit is not None]
        most = most_bytes(self._core.stats().budget)
        for each, members in fusible_modules(module, leased, most):
            within = [unit for member, _ in members if (unit := units[id(member)]) is not None]
            fused = lease(each, members, fused=True)
            if fused is not None:
                self._fused.append(FusedUnit(fused, within))
        instead = {member.group: each.unit.group for each in self._fused for member in each.members}
        order = (instead.get(unit.group, unit.group) for unit in self.units)
        self._core.guess(list(dict.fromkeys(order)))
        self._call_root(module)
        self._outline = _outline(module, leased)
        self._note_versions()

    def _call_root(self, module: nn.Module) -> None:
        call = RootCall(self._root, self._passes, present_call(module), self)
        replace_call(module, call)

    def _note_versions(self) -> None:
        units = self.units
        self._written = _core.Versions([p for unit in units for p in unit.versioned])
        self._lost = _core.Versions(
            [p for unit in units if unit.call.loses_writes for p in unit.versioned]
        )
        self._always_look = any(unit.always_written for unit in units)

    def note_contents(self, module: nn.Module) -> None:
        """Take the modules that there are now for those that are leased.

        What each of them holds, its own call knows.
        """
        dicts = [
            each._modules
            for each in module.modules()
            if not isinstance(each, torch.jit.ScriptModule) and each._modules
        ]
        self._contents = _core.Contents(dicts, [])
        self._registered = self._passes.registered
        self._outdated = False

    def changed(self) -> bool:
        """Tell whether there are other modules than those that are leased."""
        is_new = self._registered != self._passes.registered
        return is_new or self._outdated or self._contents.changed()

    def changed_within(self) -> bool:
        """Tell whether a module holds something else than what is leased."""
        return any(unit.call.changed for unit in self.units)

    def follow(self, module: nn.Module) -> None:
        """Lease what the module holds now.

        Parameters
        ----------
        module : torch.nn.Module
            The module, which nobody runs.

        Raises
        ------
        InUseError
            If a part of it is running after all.
        """
        leased = list(leased_modules(module))
        units = {unit.call_of: unit for unit in self.units}
        missing = any(
            id(each) not in units and self._memory.places.ranges_of(own) for each, own in leased
        )
        if missing or _outline(module, leased) != self._outline:
            self._past = {row.name: row for row in self.usage()}
            self.undo()
            try:
                self._make(module)
            except BaseException:
                self._call_root(module)
                self._outdated = True
                raise
            return
        for each, own in leased:
            if id(each) in units:
                units[id(each)].lease(own, _holders(each))
        for fused in self._fused:
            fused.unit.lease_again()
        self._note_versions()

    def undo(self) -> None:
        """Give all modules their own calls again."""
        if (module := self._memory.module) is not None:
            restore_call(module)
        # All that there are: what was interrupted may have made some that are not known here.
        for unit in [*self._all_units]:
            unit.end()
            self._all_units.discard(unit)
        self.units.clear()
        self._fused.clear()
        self._note_versions()
        self._contents = _core.Contents([], [])

    def remember(self) -> None:
        """Have the session keep the counts of what is leased."""
        self._passes.history.remember(self.usage())

    def usage(self) -> list[ModuleStats]:
        """Count what was done with the leased modules, in the order of registration."""
        rows = {
            unit.group: module_stats(unit.name, unit.ranges, self._core.usage(unit.group))
            for unit in self.units
        }
        for fused in self._fused:
            usage = self._core.usage(fused.unit.group)
            stalled = usage.stall_seconds
            for one in fused.members:
                rows[one.group] += ModuleStats(one.name, uses=usage.uses, stall_seconds=stalled)
                stalled = 0.0  # it waited before the first of them
        past = dict(self._past)
        present = [added(past.pop(row.name, None), row) for row in rows.values()]
        return [*present, *past.values()]

    def note_writes(self) -> None:
        """Report weights that were changed in place since the last look."""
        if self._written.changed() or self._always_look:
            for unit in self.units:
                unit.call.note_writes()

    def note_writes_that_leave(self) -> None:
        """Report those that would be lost where something leaves the card."""
        if self._lost.changed() or self._always_look:
            self.note_writes()

    def count_as_written(self, address: int) -> None:
        """Take memory at an address for written at each call that uses it."""
        self._memory.places.written_unseen.add(address)
        for unit in [*self.units, *(fused.unit for fused in self._fused)]:
            if any(start == address for start, _ in unit.ranges):
                unit.note_writes_always()
        self._note_versions()
