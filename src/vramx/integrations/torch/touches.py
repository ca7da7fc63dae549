"""The simulated card's page faults: torch operations on managed memory outside any lease.

On a real card the hardware resolves such a touch. Here an operation whose tensors lie in the
session's memory, and that no lease covers, leases them for its own duration; it is counted. What an
operation writes is known from its schema, so no write is missed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from vramx import _core
from vramx.integrations.torch.memory import storage_range


def _ranges(tree: Any) -> list[tuple[int, int]]:
    leaves: Iterable[Any] = _pytree.tree_leaves(tree)
    found = (storage_range(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))
    return list({each for each in found if each is not None})


def _written(schema: Any, args: Any, kwargs: Any) -> list[Any]:
    """Pick the arguments that an operation writes to."""
    return [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


class Touches(TorchDispatchMode):
    """Leases what operations touch, while in force.

    Parameters
    ----------
    core : _core.Core
        The core whose memory to watch.
    """

    def __init__(self, core: _core.Core) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._core = core
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view:
            return func(*args, **kwargs)
        touched = self._core.owned(_ranges((args, kwargs)))
        if not touched:
            return func(*args, **kwargs)
        written = self._core.owned(_ranges(_written(func._schema, args, kwargs)))
        if not self._core.leased(touched):
            self.count += 1
        self._core.take(touched, 0, True)
        try:
            result = func(*args, **kwargs)
            self._core.written(written)
            return result
        finally:
            self._core.give(touched, 0, True)
