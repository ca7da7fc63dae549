"""A module's bytes on their way into a session's memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from vramx import _core
from vramx.integrations.torch.storages import Storage

#: Bytes that are copied before their sources are let go.
_BATCH = 2**29


def _batches(storages: list[Storage]) -> Iterator[list[Storage]]:
    """Take storages off a list, about `_BATCH` bytes at a time."""
    while storages:
        batch = [storages.pop(0)]
        size = batch[0].nbytes
        while storages and size + storages[0].nbytes <= _BATCH:
            size += storages[0].nbytes
            batch.append(storages.pop(0))
        yield batch


def moved_in(
    core: _core.Core, storages: list[Storage], purpose: _core.Purpose
) -> Iterator[list[tuple[Storage, _core.Memory]]]:
    """Copy storages to memory of a core's, batch by batch, so that the host holds little twice.

    Memory for the next batch is had while this one is copied: pinning takes the system longer than
    the copies do.

    Parameters
    ----------
    core : _core.Core
        The core.
    storages : list of Storage
        What to move; taken off the list.
    purpose : _core.Purpose
        What the memory is for.

    Yields
    ------
    list of (Storage, _core.Memory)
        Storages and where their bytes are now.

    Raises
    ------
    OutOfMemoryError
        If the host, ``host_limit`` or ``VRAMX_MANAGED_LIMIT`` cannot hold it.
    """
    batches = _batches(storages)
    batch = next(batches, None)
    if batch is None:
        return
    with ThreadPoolExecutor(1) as ahead:

        def reserve(batch: list[Storage]) -> Future[list[_core.Memory]]:
            return ahead.submit(core.reserve, [storage.nbytes for storage in batch], purpose)

        memories = reserve(batch)
        while batch is not None:
            present, mine = batch, memories.result()
            batch = next(batches, None)
            if batch is not None:
                memories = reserve(batch)
            sources = [storage.content() for storage in present]
            core.store(
                [
                    (memory.address, source.data_ptr(), memory.nbytes)
                    for memory, source in zip(mine, sources)
                ]
            )
            yield list(zip(present, mine))
