"""Torch operations that access managed memory outside any lease: the simulated card's page faults.

On a real card the hardware resolves such an access. On the simulated one an operation whose tensors
lie in the session's memory of one address, and that no lease covers, leases them for its own
duration; it is counted. What an operation writes is known from its schema, so no write is missed.
Memory of two addresses needs none of it: such weights are used in place on the host. Where the host
has packed copies alone, the same is done with weights on any card, since they lie nowhere without a
lease; and in checking mode, to find the uses that mapped memory is slow at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _pop_mode,
    _push_mode,
)

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


@cache
def _may_copy(func: Any) -> bool:
    """Tell whether what counts as a view may copy all the same, as ``contiguous`` does.

    In inference mode torch does not take such operations apart before a mode sees them.
    """
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(func.has_kernel_for_dispatch_key(composite))


# What torch notes as a mode is entered and restores as it is left, for the whole process, though
# modes are a thread's: of all of ours together, so that the last one left, on whatever thread,
# restores what was before the first. Else torch may take a mode to be in force for ever, and
# compile nothing any more.
_noted: dict[str, Any] = {}


class UnleasedAccesses(TorchDispatchMode):
    """Leases what operations access, while in force.

    Parameters
    ----------
    core : _core.Core
        The core whose memory to watch.
    stream : callable
        Gives the handle of the calling thread's stream.
    watched : callable
        Tells whether memory that begins at an address is looked at.
    wrote : callable
        Called with the ranges that an operation wrote to.
    warn : bool
        Whether to warn of each access to what is used in place on the host.
    """

    def __init__(
        self,
        core: _core.Core,
        stream: Callable[[], int],
        watched: Callable[[int], bool],
        wrote: Callable[[list[tuple[int, int]]], None],
        *,
        warn: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for name, own in list(vars(self).items()):
            if name.startswith("old_") and name.endswith("_flags"):
                setattr(self, name, _noted.setdefault(name, own))
        self._core = core
        self._stream = stream
        self._watched = watched
        self._wrote = wrote
        self._warn = warn
        self.count = 0

    def outside(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Make a call that does as another does while this mode is not in force on its thread.

        Operations take some microseconds less then. Beneath another mode it stays in force.
        """

        def called(*args: Any, **kwargs: Any) -> Any:
            if _get_current_dispatch_mode() is not self:
                return call(*args, **kwargs)
            _pop_mode()
            try:
                return call(*args, **kwargs)
            finally:
                _push_mode(self)

        return called

    def _owned(self, tree: Any) -> list[tuple[int, int]]:
        return [each for each in self._core.owned(_ranges(tree)) if self._watched(each[0])]

    def _reported(self, result: Any, written: list[tuple[int, int]]) -> Any:
        if written:
            self._wrote(written)
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view and not _may_copy(func):
            return func(*args, **kwargs)
        # Beneath a mode torch does not count all writes itself.
        written = self._core.owned(_ranges(_written(func._schema, args, kwargs)))
        accessed = self._owned((args, kwargs))
        if not accessed:
            return self._reported(func(*args, **kwargs), written)
        leased = self._core.leased(accessed)
        stream = self._stream()
        self._core.take(accessed, stream, True)
        try:
            # Told before another may evict it.
            result = self._reported(func(*args, **kwargs), written)
        finally:
            self._core.give(accessed, stream, True)
        if not (leased or (func.is_view and _ranges(result) == _ranges(args))):
            self._note(func, accessed)
        return result

    def _note(self, func: Any, accessed: list[tuple[int, int]]) -> None:
        """Count a use outside a lease, and warn of it if asked to."""
        self.count += 1
        if self._warn and any(self._core.host_address(start) for start, _ in accessed):
            warnings.warn(
                f"{func} used managed weights outside their modules' calls, which reads them "
                "from host memory over the link each time: use them inside "
                "`with session.pin(x)`",
                RuntimeWarning,
                stacklevel=3,
            )
