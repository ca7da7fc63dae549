"""What ``on_missing="cpu"`` gives where there is no usable card."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from vramx.advice import Advice, native_advice
from vramx.arrays import checked_shape
from vramx.session import Session, open_sessions
from vramx.stats import Stats
from vramx.units import LARGEST, Size, parse_size
from vramx.watcher import BudgetWatcher, FreeMemory, checked_rule

T = TypeVar("T")


class _Nothing:
    """No card, so nothing that is free."""

    def free(self) -> int:
        return 0


class InactiveSession(Session):
    """A scope in which nothing is managed: each verb checks its arguments and does nothing."""

    def __init__(self) -> None:  # no core: there is no card to have one for
        self._depth = 0
        self._closed = False
        open_sessions.append(self)

    def __enter__(self) -> InactiveSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        if self in open_sessions:
            open_sessions.remove(self)

    @contextlib.contextmanager
    def route(self) -> Iterator[None]:
        yield

    def keep(self) -> None:
        pass

    def manage(self, module: T, *, name: str | None = None) -> T:  # noqa: ARG002
        return module

    def unmanage(self, module: T) -> T:
        return module

    def empty(self, shape: int | Iterable[int], dtype: Any = None) -> Any:
        import torch

        return torch.empty(checked_shape(shape), dtype=dtype)

    def prefetch(self, x: Any) -> None:
        pass

    def evict(self, x: Any) -> None:
        pass

    @contextlib.contextmanager
    def pin(self, x: T) -> Iterator[T]:
        yield x

    def advise(self, x: Any, advice: Advice) -> None:  # noqa: ARG002
        native_advice(advice)

    def written(self, x: Any) -> None:
        pass

    def set_budget(self, budget: Size) -> int:
        parse_size(budget, "budget")
        return 0

    def watch_budget(
        self,
        *,
        reserve: Size | None = None,
        least: Size | None = None,
        most: Size | None = None,
        every: float = 1.0,
        card: FreeMemory | None = None,
    ) -> BudgetWatcher:
        rule = checked_rule(
            reserve=0 if reserve is None else reserve,
            least=least,
            most=most,
            block=1,
            budget=LARGEST,
            capacity=LARGEST,
        )
        return BudgetWatcher(self, rule, _Nothing() if card is None else card, every)

    def stats(self) -> Stats:
        return Stats()

    def report(self) -> str:
        return "vramx is inactive: there is no usable card, and on_missing is 'cpu'"
