"""Results on their way from a card to the host, while the card goes on."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Downloads:
    """Copies tensors from a card to the host on a stream of its own."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    def begin(self, x: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to copy a tensor, once the caller's stream has made it.

        Parameters
        ----------
        x : torch.Tensor
            On a card; elsewhere nothing is done.

        Returns
        -------
        callable
            Waits for the copy and returns it, in memory that is not page-locked.
        """
        if x.device.type != "cuda":
            return lambda: x
        if self._stream is None:
            self._stream = torch.cuda.Stream(x.device)
        self._stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(self._stream):
            copy = x.to("cpu", non_blocking=True)  # torch takes page-locked memory for that
            done = torch.cuda.Event()
            done.record(self._stream)
        kept = [x]  # until it is copied: what record_stream keeps, a scope's pool never has back

        def wait() -> torch.Tensor:
            done.synchronize()
            kept.clear()
            return copy.clone()

        return wait
