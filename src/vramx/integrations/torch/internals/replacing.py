"""Putting functions in the place of torch's for a time."""

from __future__ import annotations

import threading
from typing import Any


class Replacements:
    """Attributes that have other values while somebody wants that.

    Parameters
    ----------
    wanted : list of (object, str, object)
        Owners, attributes and the values that they are to have.
    """

    def __init__(self, wanted: list[tuple[Any, str, Any]]) -> None:
        self._wanted = wanted
        self._before: list[tuple[Any, str, Any]] = []
        self._changing = threading.Lock()
        self._users = 0

    def begin(self) -> None:
        """Want them from now on."""
        with self._changing:
            self._users += 1
            if self._users > 1:
                return
            for owner, name, value in self._wanted:
                self._before.append((owner, name, vars(owner).get(name)))
                setattr(owner, name, value)

    def end(self) -> None:
        """Want them no more; the last end leaves everything as it was."""
        with self._changing:
            self._users -= 1
            while self._users == 0 and self._before:
                owner, name, before = self._before.pop()
                if before is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)
