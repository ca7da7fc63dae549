"""Torch's CUDA allocations served by vramx: for a scope and thread, or for the process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vramx import _core
from vramx.errors import ConfigError
from vramx.integrations.torch.internals.graphs import no_captures
from vramx.integrations.torch.internals.snapshots import pool_snapshot

#: A route goes on with its pool where so many of its old ones cannot be let go of yet.
MOST_IDLE = 8

_allocators: list[Any] = []
_changing = threading.RLock()  # guards the two below
_idle_pools: list[Any] = []
_active: list[Any] = []


def _allocator() -> Any:
    """Return the one pluggable allocator of the process, over the core's C symbols."""
    if not _allocators:
        made = torch.cuda.memory.CUDAPluggableAllocator(
            _core.__file__, "vramx_malloc", "vramx_free"
        )
        made.allocator().set_record_stream_fn(_core.record_stream_address())
        _allocators.append(made)
    return _allocators[0]


def make_torch_allocator() -> Callable[[], None]:
    """Prepare to serve the whole process.

    Returns
    -------
    callable
        Swaps torch's allocator for vramx's.

    Raises
    ------
    ConfigError
        If torch has no CUDA, or has taken CUDA memory: it cannot be swapped any more.
    """
    if not torch.backends.cuda.is_built():
        raise ConfigError(
            f"torch {torch.__version__} is built without CUDA; there is nothing to serve"
        )
    taken = (
        "CUDA memory has been taken in this process, so torch's allocator cannot be swapped; call "
        "vramx.install() before anything uses CUDA, or use vramx.oversubscribe()"
    )
    if torch.cuda.is_initialized() and torch.cuda.memory_reserved() > 0:
        raise ConfigError(taken)

    def swap() -> None:
        try:
            torch.cuda.memory.change_current_allocator(_allocator())
        except RuntimeError as error:
            raise ConfigError(f"{taken} ({error})") from error

    return swap


def _drop_unused_pools() -> None:
    """Let go of the pools in which nothing lives.

    Torch keeps a pool's freed memory for as long as the pool object lives. Letting go of a pool
    while its tensors live (pytorch#188170), or while any pool is routed to, ends the process.
    """
    with _changing:
        if not _active:
            _sift_idle_pools()


def _sift_idle_pools() -> list[int]:
    """Let go of those pools where none is routed to; return the others' unused segments."""
    found = [(pool, *_used_segments(pool)) for pool in _idle_pools]
    kept = [each for each in found if each[1] or _active]
    _idle_pools[:] = [pool for pool, _, _ in kept]
    return [address for _, _, unused in kept for address in unused]


def _used_segments(pool: Any) -> tuple[list[int], list[int]]:
    """Find the addresses of a pool's segments in which something lives, and of the others."""
    found: tuple[list[int], list[int]] = ([], [])
    for segment in pool_snapshot(pool):
        unused = all(block["state"] == "inactive" for block in segment["blocks"])
        found[unused].append(segment["address"])
    return found


class _Routes(threading.local):
    """The routes that a thread is in, innermost last."""

    def __init__(self) -> None:
        self.stack: list[_Route] = []


_routes = _Routes()


class _Route:
    """A thread's allocations going to one pool at a time. A pool serves one thread."""

    def __init__(self, core: _core.Core, ordinal: int) -> None:
        self.core = core
        self._pool = torch.cuda.MemPool(_allocator().allocator())
        self._ordinal = ordinal
        self._context: Any = None
        self._retired: set[tuple[int, int]] = set()

    def begin(self) -> None:
        with _changing:
            _active.append(self._pool)
            self._context = torch.cuda.use_mem_pool(self._pool, device=self._ordinal)
            self._context.__enter__()

    def end(self) -> None:
        with _changing:
            self._context.__exit__(None, None, None)
            self._context = None
            _active.remove(self._pool)

    def retire(self) -> None:
        self._retired.add(self._pool.id)
        _idle_pools.append(self._pool)
        del self._pool

    def renew(self) -> None:
        with _changing:
            self.end()
            try:
                _drop_unused_pools()
                # Beside another thread's route nothing can be let go of.
                kept = sum(pool.id in self._retired for pool in _idle_pools)
                if not _active and kept < MOST_IDLE:
                    fresh = torch.cuda.MemPool(_allocator().allocator())
                    self.retire()
                    self._pool = fresh
                self.core.abandon(_sift_idle_pools())  # none is routed to again
            finally:
                self.begin()


def cached_bytes(ordinal: int) -> int:
    """Tell what torch keeps of a card's memory for later, in all pools."""
    # Empty where torch has not used CUDA.
    stats: dict[str, int] = torch.cuda.memory_stats(ordinal)
    held = stats.get("reserved_bytes.all.current", 0)
    return held - stats.get("active_bytes.all.current", 0)


def renew_pool(core: _core.Core) -> None:
    """Have the calling thread go on with an empty pool, in a scope of a core's.

    What torch keeps of the old one for later goes back to the core, once nothing lives in it.

    Parameters
    ----------
    core : _core.Core
        The core whose scope it is; in none, in one of another's or in the midst of a capture,
        nothing happens.
    """
    stack = _routes.stack
    if stack and stack[-1].core is core and not torch.cuda.is_current_stream_capturing():
        stack[-1].renew()


@contextlib.contextmanager
def route(core: _core.Core, ordinal: int) -> Iterator[None]:
    """Serve the calling thread's CUDA allocations from a core, for a scope.

    Torch gives the allocations of nested pools to the outer one (pytorch#161193), so the outer
    route is suspended while an inner one lasts.

    Parameters
    ----------
    core : _core.Core
        The core that serves.
    ordinal : int
        The card's number.
    """
    torch.cuda.init()
    _drop_unused_pools()
    stack = _routes.stack
    if stack:
        stack[-1].end()
    this = _Route(core, ordinal)
    stack.append(this)
    core.enter()
    this.begin()
    try:
        with no_captures():
            yield
    finally:
        this.end()
        core.leave()
        stack.pop()
        this.retire()
        del this
        try:
            _drop_unused_pools()  # now, for while the outer route lasts none can be let go
        finally:
            if stack:
                stack[-1].begin()
