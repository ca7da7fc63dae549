"""A module's bytes on their way into a session's memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from vramx import _core
from vramx.integrations.torch.storages import Storage

#: Bytes that are copied before their sources are let go, at most.
_BATCH = 2**29
#: What is smaller than this part of a block lies with others as small: beside what is used with it,
#: a layer's norms would have the layer's whole block come for each of their uses.
_SMALL_PART = 64
#: Where a core puts storages.
_ALIGNMENT = 512


def take_batch(storages: list[Storage], block: int, most: int) -> list[Storage]:
    """Take the next of a list off it.

    Parameters
    ----------
    storages : list of Storage
        What is left.
    block : int
        Bytes of a core's blocks. Among the batches of at least half of `most`, the one that leaves
        least of its last block empty is taken, since the next begins with a block of its own.
    most : int
        Bytes, at most, unless the first has more.

    Returns
    -------
    list of Storage
        The batch; empty if nothing is left.
    """
    taken, wasted, size = 1, block, 0
    for count, storage in enumerate(storages, 1):
        size += -(-storage.nbytes // _ALIGNMENT) * _ALIGNMENT
        if size > most:
            break
        if size >= most // 2 and -size % block <= wasted:
            taken, wasted = count, -size % block
    else:
        taken = len(storages)
    batch = storages[:taken]
    del storages[:taken]
    return batch


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
        What to move, those of few bytes first; taken off the list.
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
    if not storages:
        return
    storages.sort(key=lambda storage: storage.nbytes * _SMALL_PART >= core.block)
    batch = take_batch(storages, core.block, _BATCH)
    with ThreadPoolExecutor(1) as ahead:

        def reserve(batch: list[Storage]) -> Future[list[_core.Memory]]:
            return ahead.submit(core.reserve, [storage.nbytes for storage in batch], purpose)

        memories = reserve(batch)
        while batch:
            present, mine = batch, memories.result()
            batch = take_batch(storages, core.block, _BATCH)
            if batch:
                memories = reserve(batch)
            sources = [storage.content() for storage in present]
            core.store(
                [
                    (memory.address, source.data_ptr(), memory.nbytes)
                    for memory, source in zip(mine, sources)
                ]
            )
            yield list(zip(present, mine))
