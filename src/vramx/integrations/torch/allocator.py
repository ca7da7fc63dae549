"""Torch's CUDA allocations served by vramx: for a scope and thread, or for the process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vramx import _core
from vramx.errors import ConfigError

_allocators: list[Any] = []
_pools: list[Any] = []


def _allocator() -> Any:
    """Return the one pluggable allocator of the process, over the core's C symbols."""
    if not _allocators:
        made = torch.cuda.memory.CUDAPluggableAllocator(
            _core.__file__, "vramx_malloc", "vramx_free"
        )
        made.allocator().set_record_stream_fn(_core.RECORD_STREAM)
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

    Torch keeps a pool's freed memory for as long as the pool object lives, and a pool that is let
    go of while its tensors live brings the process down (pytorch#188170).
    """
    for pool in list(_pools):
        used = any(
            block["state"] != "inactive"
            for segment in pool.snapshot()
            for block in segment["blocks"]
        )
        if not used:
            _pools.remove(pool)


@contextlib.contextmanager
def route(core: _core.Core, ordinal: int) -> Iterator[None]:
    """Serve the calling thread's CUDA allocations from a core, for a scope.

    Parameters
    ----------
    core : _core.Core
        The core that serves.
    ordinal : int
        The card's number.
    """
    torch.cuda.init()
    _drop_unused_pools()
    pool = torch.cuda.MemPool(_allocator().allocator())
    _pools.append(pool)
    core.enter()
    try:
        with torch.cuda.use_mem_pool(pool, device=ordinal):
            yield
    finally:
        core.leave()
        del pool
        _drop_unused_pools()
