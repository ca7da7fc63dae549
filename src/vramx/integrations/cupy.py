"""vramx for CuPy: arrays in a session's memory, evicted like any activation.

An array that has been evicted is used over the link until ``session.prefetch`` or ``session.pin``
brings it back; both take CuPy arrays. They order torch's current stream, which is the default one
unless changed, as is CuPy's: on a CuPy stream of your own, synchronise it yourself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import cupy

from vramx.errors import ConfigError
from vramx.integrations.cards import require_card
from vramx.session import Session

Allocator = Callable[[int], Any]


def _allocator(session: Session) -> Allocator:
    """Make an allocator for CuPy whose memory is a session's."""
    require_card(session, "CuPy")
    core, ordinal = session._core, session.device.ordinal

    def allocate(size: int) -> Any:
        current = cupy.cuda.runtime.getDevice()
        if current != ordinal:
            raise ConfigError(
                f"CuPy's current device is {current} and the session is on card {ordinal}; use "
                f"`with cupy.cuda.Device({ordinal})`, or open a session on the other"
            )
        # The array keeps the memory, which goes back to the session when it is let go.
        memory = core.empty(size, cupy.cuda.get_current_stream().ptr) if size > 0 else None
        address = memory.address if memory is not None else 0
        return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(address, size, memory, ordinal), 0)

    return allocate


@contextlib.contextmanager
def route(session: Session) -> Iterator[None]:
    """Serve the calling thread's CuPy allocations from a session, for a scope.

    Arrays made inside stay valid after it, and after the session is closed.

    Parameters
    ----------
    session : Session
        An open session on a card.

    Raises
    ------
    ConfigError
        If the session has no real card; and, as an array is made, if CuPy's current device is
        not the session's.
    SessionClosedError
        If the session is closed.
    OutOfMemoryError
        As an array is made, if its memory cannot be had.
    """
    with cupy.cuda.using_allocator(_allocator(session)):
        yield


def install(session: Session) -> Allocator:
    """Serve the CuPy allocations of the whole process, on all threads, from a session.

    Parameters
    ----------
    session : Session
        An open session on a card. Once it is closed, new arrays are refused until
        ``cupy.cuda.set_allocator`` is given another allocator.

    Returns
    -------
    callable
        The previous allocator, for ``cupy.cuda.set_allocator``.

    Raises
    ------
    ConfigError
        If the session has no real card, or the thread is inside `route` or another
        ``cupy.cuda.using_allocator``.
    SessionClosedError
        If the session is closed.
    """
    allocator = _allocator(session)
    previous: Allocator = cupy.cuda.get_allocator()
    try:
        cupy.cuda.set_allocator(allocator)
    except ValueError as error:
        raise ConfigError(f"CuPy's allocator cannot be changed here: {error}") from error
    return previous
