"""One piece of memory for all that a scope allocates and frees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vramx.session import Session


class Arena:
    """Has what is allocated in a scope lie in one piece, on a stream of its own.

    Torch keeps what was freed in the pieces in which it came from the card, and those do not join:
    where pieces of many sizes come and go, half as much again is taken as is held at once. What is
    taken as one piece first is divided, and joins again. What is freed is kept by stream, so on one
    of its own nobody else takes a part of it between two scopes.

    Parameters
    ----------
    device : torch.device
        Where; elsewhere than on a card nothing is done.
    session : Session
        Whose memory it is.
    """

    def __init__(self, device: torch.device, session: Session) -> None:
        self._device = device
        self._session = session
        self._stream: torch.cuda.Stream | None = None
        self._caller: torch.cuda.Stream | None = None
        self._largest = 0

    @contextlib.contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """Allocate in the arena for a scope.

        Parameters
        ----------
        nbytes : int
            How much at once. More is allocated as usual.
        """
        if self._device.type != "cuda":
            yield
            return
        if nbytes > self._largest:  # what there was for smaller ones is of no use
            self._session.empty_cache()
            self._largest = nbytes
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        stream, caller = self._stream, torch.cuda.current_stream(self._device)
        stream.wait_stream(caller)
        try:
            with self._session.keep_cache(), torch.cuda.stream(stream):
                torch.empty(nbytes, dtype=torch.uint8, device=self._device)
                self._caller = caller
                yield
        finally:
            self._caller = None
            caller.wait_stream(stream)

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Allocate for the caller, within the arena."""
        if self._caller is None:
            yield
            return
        with torch.cuda.stream(self._caller):
            yield
        assert self._stream is not None
        self._stream.wait_stream(self._caller)
