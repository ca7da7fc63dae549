"""Captures of CUDA graphs, refused where they would record what a session moves."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from vramx import _core
from vramx.errors import CaptureError
from vramx.integrations.torch.internals.replacing import Replacements


class _Scopes(threading.local):
    """How many scopes of sessions a thread is in."""

    depth = 0


_scopes = _Scopes()


def refuse_capture() -> None:
    """Raise where the calling thread is in the scope of a session.

    Raises
    ------
    CaptureError
        If it is.
    """
    if _scopes.depth > 0:
        raise CaptureError(
            "a CUDA graph cannot be captured inside a session: it would record addresses that the "
            "session moves, and memory that it gives to others. Capture what is not managed before "
            "the session is opened or after it, and compile managed modules without CUDA graphs: "
            'torch.compile(mode="default") or "max-autotune-no-cudagraphs"'
        )


_capture_begin: Any = torch.cuda.CUDAGraph.capture_begin
_capture_end: Any = torch.cuda.CUDAGraph.capture_end
_enter: Any = torch.cuda.graph.__enter__


def _checked_enter(self: Any) -> Any:
    refuse_capture()  # before it changes the stream
    return _enter(self)


def _checked_capture_begin(self: Any, *args: Any, **kwargs: Any) -> Any:
    refuse_capture()
    result = _capture_begin(self, *args, **kwargs)
    _core.set_capturing(True)
    return result


def _noted_capture_end(self: Any) -> Any:
    _core.set_capturing(False)
    return _capture_end(self)


#: Keep captures out of scopes, and managed modules out of captures, while in force.
graphs_watched = Replacements(
    [
        (torch.cuda.graph, "__enter__", _checked_enter),
        (torch.cuda.CUDAGraph, "capture_begin", _checked_capture_begin),
        (torch.cuda.CUDAGraph, "capture_end", _noted_capture_end),
    ]
)


@contextlib.contextmanager
def no_captures() -> Iterator[None]:
    """Refuse captures on the calling thread, for a scope."""
    graphs_watched.begin()
    _scopes.depth += 1
    try:
        yield
    finally:
        _scopes.depth -= 1
        graphs_watched.end()
