"""One piece of memory for all that a scope allocates and frees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_streams: dict[int, torch.cuda.Stream] = {}


@contextlib.contextmanager
def arena(device: torch.device, nbytes: int) -> Iterator[None]:
    """Have what is allocated in a scope lie in one piece, on a stream of its own.

    Torch keeps what was freed in the pieces in which it came from the card, and those do not join:
    where pieces of many sizes come and go, half as much again is taken as is held at once. What is
    taken as one piece first is divided, and joins again. What is freed is kept by stream, so on one
    of its own nobody else takes a part of it between two scopes.

    Parameters
    ----------
    device : torch.device
        Where; elsewhere than on a card nothing is done.
    nbytes : int
        How much at once. More is allocated as usual.
    """
    if device.type != "cuda":
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _streams:
        _streams[index] = torch.cuda.Stream(index)
    stream = _streams[index]
    caller = torch.cuda.current_stream(device)
    stream.wait_stream(caller)
    try:
        with torch.cuda.stream(stream):
            torch.empty(nbytes, dtype=torch.uint8, device=device)
            yield
    finally:
        caller.wait_stream(stream)


@contextlib.contextmanager
def outside(device: torch.device, caller: torch.cuda.Stream | None) -> Iterator[None]:
    """Allocate for the caller of an arena, within one.

    Parameters
    ----------
    device : torch.device
        The arena's.
    caller : torch.cuda.Stream or None
        The stream of the caller; None where there is no arena.
    """
    if caller is None:
        yield
        return
    with torch.cuda.stream(caller):
        yield
    torch.cuda.current_stream(device).wait_stream(caller)
