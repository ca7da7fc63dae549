"""The call of a managed module as a whole: its passes are counted, and its callers known."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from vramx.integrations.torch.passes import Passes, Root


class CheckedRoot(Root, Protocol):
    """A managed module, as its own call sees it."""

    callers: list[int]

    def verify(self) -> None:
        """Look for writes that nobody was told of, in checking mode."""


class RootCall:
    """Stands in the call of a module that `Session.manage` was given: counts its passes.

    Parameters
    ----------
    root : CheckedRoot
        The managed module.
    passes : Passes
        Those of the session's managed modules.
    inner : callable
        The module's call without it.
    held : object
        What is to go with the module.
    """

    def __init__(
        self, root: CheckedRoot, passes: Passes[Any], inner: Callable[..., Any], held: object
    ) -> None:
        self.root = root
        self._passes = passes
        self._inner = inner
        self._held = held

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module and count it."""
        context = self._passes.context
        self.root.callers.append(threading.get_ident())
        try:
            context.enter(self)
            try:
                self.root.verify()
                result = self._inner(*args, **kwargs)
            finally:
                context.leave()
        finally:
            self.root.callers.remove(threading.get_ident())
        self._passes.count += 1
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (type(None), ())
