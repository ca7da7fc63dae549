"""A session's parts where there is no usable card: nothing is managed and nothing moves."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from vramx import _core
from vramx.seeing.stats import Stats
from vramx.units import LARGEST

if TYPE_CHECKING:
    import torch


class NoCard:
    """Stands in for a card that is not there."""

    name = "no card"
    kind = "none"
    uuid = ""
    ordinal = 0
    capacity = LARGEST
    computes_on_host = True
    virtual_clock = False
    slow_moves = False
    pageable_bytes = 0
    holds_up_launches = ""


class NothingFree:
    """No card, so no free memory."""

    def free(self) -> int:
        """Return how many bytes are free."""
        return 0


class NoCore:
    """A core that manages nothing."""

    def stats(self) -> Stats:
        """Count nothing."""
        return Stats()

    def plan(self) -> None:
        """Have no plan."""

    def set_budget(self, budget: int) -> int:  # noqa: ARG002
        """Keep no budget."""
        return 0

    def end_trace(self) -> _core.Log:
        """Return a trace without events."""
        return _core.Log()

    def _nothing(self, *_: Any) -> None:
        """Do nothing."""

    prefetch = evict = take = give = advise = written = begin_trace = close = _nothing


class NoTorch:
    """The torch side of a session in which modules stay where they are."""

    def route(self) -> contextlib.AbstractContextManager[None]:
        """Leave allocations to torch."""
        return contextlib.nullcontext()

    def manage(self, module: Any, name: str | None) -> None:
        """Leave a module as it is."""

    def unmanage(self, module: Any) -> None:
        """Leave a module as it is."""

    def load(
        self,
        module: Any,
        path: str | os.PathLike[str],
        name: str | None,
        *,
        strict: bool,
        dtype: str,
    ) -> None:
        """Fill a module where it is."""
        from vramx.integrations.torch.loading import incoming_for

        incoming_for(module, path, name, strict=strict, dtype=dtype).fill()

    def ranges(self, x: Any) -> list[tuple[int, int]] | None:
        """Return no ranges: nothing lies in the session's memory."""
        import torch

        return [] if isinstance(x, (torch.Tensor, torch.nn.Module)) else None

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype | None) -> torch.Tensor:
        """Make a tensor on the CPU."""
        import torch

        return torch.empty(shape, dtype=dtype)
