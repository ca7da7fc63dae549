"""A card or the simulated one, as the benchmarks see it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import torch

from vramx import _core
from vramx.bench.measuring import times_by
from vramx.cards.simulation import current_simulation
from vramx.session import Session
from vramx.session.opening import oversubscribe

if TYPE_CHECKING:
    from vramx.integrations.torch.timing import PinnedCopies

T = TypeVar("T")


class Machine:
    """Where a benchmark runs.

    Parameters
    ----------
    backend : str
        Of the sessions. On ``"simulated"`` models are on the CPU, and times are virtual.
    block : int
        Of the sessions, in bytes.

    Attributes
    ----------
    name, device : str
        The card's name, and torch's name for where models compute.
    dtype : torch.dtype
        Of the weights.
    on_card : bool
        Whether there is a real card.
    """

    def __init__(self, backend: str, block: int) -> None:
        self.backend = backend
        self.block = block
        self.on_card = backend != "simulated"
        self.name = torch.cuda.get_device_name() if self.on_card else "simulated card"
        self.device = "cuda" if self.on_card else "cpu"
        self.dtype = torch.bfloat16 if self.on_card else torch.float32
        self._copies: PinnedCopies | None = None
        if self.on_card:
            from vramx.integrations.torch.timing import PinnedCopies

            self._copies = PinnedCopies()
        self._session: Session | None = None

    @contextlib.contextmanager
    def session(self, budget: int, policy: str, *, enter: bool = True) -> Iterator[Session]:
        """Open a session for a scope, and enter it unless told not to."""
        opened = oversubscribe(budget, backend=self.backend, policy=policy, block=self.block)
        self._session = opened
        try:
            with opened if enter else contextlib.closing(opened):
                yield opened
        finally:
            self._session = None

    def compute(self, seconds: float) -> None:
        """Spend virtual time in the open session; on a card time passes by itself."""
        if self._session is not None:
            device = self._session.device
            if isinstance(device, _core.SimulatedDevice):
                device.compute(seconds)

    def times(self, run: Callable[[], T], passes: int) -> tuple[list[float], T]:
        """Time passes that follow each other without a pause; see `times_on_card`."""
        if self.on_card:
            from vramx.integrations.torch.timing import times_on_card

            return times_on_card(run, passes)
        assert self._session is not None, "virtual time passes in a session only"
        card = self._session.device
        assert isinstance(card, _core.SimulatedDevice), f"{card.kind} memory has no virtual time"
        return times_by(lambda: card.now, run, passes)

    def allocating(self, run: Callable[[], T]) -> tuple[T, int]:
        """Run; return its result, and the most bytes that torch allocated on the card for it."""
        self.forget()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = run()
        return result, torch.cuda.max_memory_allocated() - before

    def link(self) -> float:
        """Return the bytes a second that the link takes to the card, measured now or simulated."""
        return current_simulation().link_up if self._copies is None else self._copies.to_card()

    def link_to_host(self) -> float:
        """Return the bytes a second that the link takes back, measured now or simulated."""
        return current_simulation().link_down if self._copies is None else self._copies.to_host()

    def forget(self) -> None:
        """Let go of the card's memory that torch, and libraries for it, keep for later."""
        if self.on_card:
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()
