"""Torch's CUDA allocations served by vramx: for a scope and thread, or for the process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vramx import _core
from vramx.errors import ConfigError

_allocators: list[Any] = []
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
    if _active:
        return
    for pool in list(_idle_pools):
        used = any(
            block["state"] != "inactive"
            for segment in pool.snapshot()
            for block in segment["blocks"]
        )
        if not used:
            _idle_pools.remove(pool)


class _Routes(threading.local):
    """The routes that a thread is in, innermost last."""

    def __init__(self) -> None:
        self.stack: list[_Route] = []


_routes = _Routes()


class _Route:
    """A thread's allocations going to one pool. A pool serves one thread."""

    def __init__(self, ordinal: int) -> None:
        self.pool = torch.cuda.MemPool(_allocator().allocator())
        self._ordinal = ordinal
        self._context: Any = None

    def begin(self) -> None:
        _active.append(self.pool)
        self._context = torch.cuda.use_mem_pool(self.pool, device=self._ordinal)
        self._context.__enter__()

    def end(self) -> None:
        self._context.__exit__(None, None, None)
        self._context = None
        _active.remove(self.pool)


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
    this = _Route(ordinal)
    stack.append(this)
    core.enter()
    this.begin()
    try:
        yield
    finally:
        this.end()
        core.leave()
        stack.pop()
        _idle_pools.append(this.pool)
        del this
        try:
            _drop_unused_pools()  # now, for while the outer route lasts none can be let go
        finally:
            if stack:
                stack[-1].begin()
