"""When the memory that torch keeps for later is asked back inside a scope."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vramx import _core
from vramx.integrations.torch.allocator import cached_bytes, renew_pool

#: Parts of the budget: what torch keeps for later is worth asking back where a managed module's
#: long turn begins; what frameworks hold leaves too little to others; has grown since.
_WORTH, _MOST, _GROWTH = 1 / 8, 3 / 4, 1 / 8


class Cache:
    """Keeps torch's cache from taking the place of weights.

    Torch keeps what is freed in a scope, by the sizes that were asked for; on a card that is full
    it would empty its cache, but a session makes room by sending weights away instead. What one
    network of a program leaves in the cache, the next may have no use for: a picture's decoder
    leaves gigabytes to the network that runs thirty times for the next picture. So where not
    everything fits, torch goes on with an empty pool when a managed module's long turn begins, and
    when it holds most of the budget. Not more often: a chain of five networks that had memory anew
    again and again, 15 GiB a pass, took 1.7 times as long.

    Parameters
    ----------
    core : _core.Core
        The session's core.
    ordinal : int
        The number of its card.
    """

    def __init__(self, core: _core.Core, ordinal: int) -> None:
        self._core = core
        self._ordinal = ordinal
        self._kept = 0

    def watch(self) -> None:
        """Have leased calls tell when frameworks hold too much of the present budget."""
        self._watch_from(0)

    def begin_long_turn(self) -> None:
        """Note that one managed module is called many times in a row."""
        if self._is_worth_it():
            self.ask_back()

    def _is_worth_it(self) -> bool:
        worth = self._core.stats().budget * _WORTH
        return (
            self._kept == 0
            and self._core.scratch_bytes >= worth
            and cached_bytes(self._ordinal) >= worth
        )

    def empty(self) -> None:
        """Have torch go on with an empty pool."""
        renew_pool(self._core)

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Leave torch what it holds for a scope, whether it is in use or kept for later."""
        self._kept += 1
        try:
            yield
        finally:
            self._kept -= 1

    def scratch_grew(self) -> None:
        """Have torch go on with an empty pool where it holds much for later, and watch for more."""
        if self._is_worth_it():
            self.ask_back()
        else:
            self._watch_on()

    def ask_back(self) -> None:
        """Have torch go on with an empty pool where not everything fits, and watch for more."""
        stats = self._core.stats()
        if stats.managed > stats.budget:
            self.empty()
        self._watch_on()

    def _watch_on(self) -> None:
        growth = int(self._core.stats().budget * _GROWTH)
        self._watch_from(self._core.scratch_bytes + growth)

    def _watch_from(self, least: int) -> None:
        self._core.watch_scratch(max(int(self._core.stats().budget * _MOST), least))
