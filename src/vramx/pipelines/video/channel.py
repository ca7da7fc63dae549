"""A bounded queue between two threads, either of which may stop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """What one thread puts and another takes, in order, at most `size` at a time.

    Parameters
    ----------
    size : int
        How many may wait.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._left = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Put an item when there is room; tell whether the taker is still there."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or len(self._items) < self._size)
            if not self._left:
                self._items.append(item)
                self._changed.notify_all()
            return not self._left

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes; an error reaches the taker after what was put."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def leave(self) -> None:
        """Say that nothing more is taken: what waits is dropped, and `put` returns at once."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take until the end.

        Raises
        ------
        BaseException
            What `end` was given.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error
