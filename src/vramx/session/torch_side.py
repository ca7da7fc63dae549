"""What a session asks of its torch side, with a card or without one."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class TorchSide(Protocol):
    """Does what `Session` says of torch's modules and tensors."""

    def route(self) -> AbstractContextManager[None]:
        """Serve the calling thread's CUDA allocations, for a scope."""

    def manage(self, module: Any, name: str | None) -> None:
        """Take charge of a module or a pipeline's modules."""

    def unmanage(self, module: Any) -> None:
        """Put a module or a pipeline's modules back."""

    def load(
        self,
        module: Any,
        path: str | os.PathLike[str],
        name: str | None,
        *,
        strict: bool,
        dtype: str,
    ) -> None:
        """Take charge of a module with a file's weights."""

    def ranges(self, x: Any) -> list[tuple[int, int]] | None:
        """Tell where the bytes of what torch knows lie; else None."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype | None) -> torch.Tensor:
        """Make an uninitialised tensor."""
