"""Which modules are leased as one with all below them, where a lease for each would cost more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import nn

from vramx.integrations.torch.storages import storage_key

#: A module with its tensors, leased as one.
Leased = tuple[nn.Module, list[torch.Tensor]]

# A lease takes some microseconds of the program's time, whatever its size: of kernels that take as
# long, a module this large has hardly more than a handful. What one lease holds is lost for what
# is fetched ahead, so it is little of the budget.
_MOST_BYTES = 128 * 2**20
_MOST_OF_BUDGET = 16


def most_bytes(budget: int) -> int:
    """Tell how large a module may be to be a fused unit."""
    return min(_MOST_BYTES, budget // _MOST_OF_BUDGET)


def least_budget(nbytes: int) -> int:
    """Tell below which budget the members of a fused unit of so many bytes are leased one by one.

    Where the budget shrinks, the module may be twice as much of it as where it is managed.
    """
    return nbytes * _MOST_OF_BUDGET // 2


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward  # not so lists of modules


def _places(module: nn.Module) -> Counter[int]:
    """Count the places at which each module is registered."""
    return Counter(
        id(child) for each in module.modules() for child in each.children() if child is not each
    )


class _Contents:
    """What of the leased modules lies below each module."""

    def __init__(self, root: nn.Module, leased: Sequence[Leased]) -> None:
        self._leased = {id(each[0]): each for each in leased}
        self._places = _places(root)

    def members(self, module: nn.Module) -> list[Leased]:
        """List the leased modules from here down, in registration order."""
        return [self._leased[id(m)] for m in module.modules() if id(m) in self._leased]

    def are_only_here(self, module: nn.Module) -> bool:
        """Tell whether nothing below a module is registered at a second place."""
        return all(self._places[id(m)] == 1 for m in module.modules() if m is not module)


def _bytes_of(members: Sequence[Leased]) -> int:
    storages: dict[Hashable, int] = {}
    for _, tensors in members:
        for tensor in tensors:
            key = storage_key(tensor)
            if key is not None:
                storages[key] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def fusible_modules(
    root: nn.Module, leased: Sequence[Leased], most: int
) -> list[tuple[nn.Module, list[Leased]]]:
    """Choose the largest modules that are small enough to be fused units.

    Not `root`, of which programs call the parts at times (``model.encode``), and none with a part
    that is a part of another module too.

    Parameters
    ----------
    root : torch.nn.Module
        Where to look.
    leased : sequence of (torch.nn.Module, list of torch.Tensor)
        The modules to lease one by one.
    most : int
        Bytes, at most.

    Returns
    -------
    list of (torch.nn.Module, list)
        Modules and the members of each, two or more of `leased`.
    """
    contents = _Contents(root, leased)
    fused: list[tuple[nn.Module, list[Leased]]] = []
    seen: set[int] = set()

    def visit(module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        members = contents.members(module)
        if len(members) < 2:
            return
        fits = _bytes_of(members) <= most
        if fits and _has_forward(module) and contents.are_only_here(module):
            fused.append((module, members))
            return
        for child in module.children():
            visit(child)

    for child in root.children():
        visit(child)
    return fused
