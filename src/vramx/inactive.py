"""What ``on_missing="cpu"`` gives where there is no usable card."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from vramx import _core
from vramx.advice import Advice, native_advice
from vramx.arrays import checked_shape
from vramx.seeing.plans import Plan
from vramx.seeing.trace import MOST_EVENTS, Trace
from vramx.seeing.usage import ModuleStats
from vramx.session import Session, open_sessions
from vramx.stats import Stats
from vramx.units import LARGEST, Size, parse_size
from vramx.watcher import BudgetWatcher, FreeMemory, checked_rule

T = TypeVar("T")


class _NothingFree:
    """No card, so nothing that is free."""

    def free(self) -> int:
        return 0


class _NothingHappens:
    """Gives traces without events."""

    def begin_trace(self, stream: int, most_events: int) -> None:
        pass

    def end_trace(self) -> _core.Log:
        return _core.Log()


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

    def load(
        self,
        module: T,
        path: str | os.PathLike[str],
        *,
        strict: bool = True,
        dtype: str = "module",
        name: str | None = None,
    ) -> T:
        from vramx.integrations.torch.loading import incoming_for

        incoming_for(module, path, name, strict=strict, dtype=dtype).fill()
        return module

    def unmanage(self, module: T) -> T:
        return module

    def manages(self, module: Any) -> bool:  # noqa: ARG002
        return False

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

    def empty_cache(self) -> None:
        pass

    @contextlib.contextmanager
    def keep_cache(self) -> Iterator[None]:
        yield

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
        return BudgetWatcher(self, rule, _NothingFree() if card is None else card, every)

    def stats(self) -> Stats:
        return Stats()

    def modules(self) -> list[ModuleStats]:
        return []

    def plan(self) -> Plan | None:
        return None

    def trace(
        self, path: str | os.PathLike[str] | None = None, *, most_events: int = MOST_EVENTS
    ) -> Trace:
        return Trace(_NothingHappens(), lambda: 0, "no card", path, most_events=most_events)

    def report(self) -> str:
        return "vramx is inactive: there is no usable card, and on_missing is 'cpu'"
