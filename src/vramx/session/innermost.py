"""The session's methods as functions that act on the innermost open session."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from vramx.seeing.stats import Stats
from vramx.session import current_session
from vramx.session.advice import Advice

T = TypeVar("T")


def prefetch(x: Any) -> None:
    """`Session.prefetch` on the innermost open session."""
    current_session().prefetch(x)


def evict(x: Any) -> None:
    """`Session.evict` on the innermost open session."""
    current_session().evict(x)


def pin(x: T) -> AbstractContextManager[T]:
    """`Session.pin` on the innermost open session."""
    return current_session().pin(x)


def advise(x: Any, advice: Advice) -> None:
    """`Session.advise` on the innermost open session."""
    current_session().advise(x, advice)


def empty(shape: int | Iterable[int], dtype: Any = None) -> Any:
    """`Session.empty` on the innermost open session."""
    return current_session().empty(shape, dtype)


def stats() -> Stats:
    """`Session.stats` of the innermost open session."""
    return current_session().stats()
