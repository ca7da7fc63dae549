"""Finding out whether a network looks at rows near by alone, by `torch.fx`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from vramx.pipelines.upscaling.building import Builder
from vramx.pipelines.upscaling.layers import (
    Layer,
    NotByRowsError,
    RowGraph,
    Rows,
)

#: While it traces, torch.fx has its own call in the place of all modules'. Of two traces at once
#: the first to end would leave behind what the other one found there: a trace that is over.
_alone = threading.Lock()


class _Tracer(fx.Tracer):
    """Traces a module past its own and its parts' calls, so that nothing is leased meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace a call; while tracing all modules' calls come here, those of other threads too."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        if m._forward_hooks or m._forward_pre_hooks:
            raise NotByRowsError(f"{self.path_of_module(m)} has hooks")
        if self.is_leaf_module(m, self.path_of_module(m)):
            return super().call_module(m, forward, args, kwargs)
        return m.forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Give a proxy for a parameter, to this thread alone."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def trace(network: nn.Module, channels: int, height: int, width: int) -> RowGraph:
    """See a network as layers that need rows near by alone.

    Parameters
    ----------
    network : torch.nn.Module
        Takes ``(n, channels, height, width)``; in evaluation mode.
    channels, height, width : int
        Of the pictures.

    Returns
    -------
    RowGraph
        For pictures of that size.

    Raises
    ------
    NotByRowsError
        If it cannot be traced, or does something of which that is not known.
    """
    if network._forward_hooks or network._forward_pre_hooks:
        raise NotByRowsError("the network has hooks")
    try:
        with _alone:
            graph = _Tracer().trace(network)
    except NotByRowsError:
        raise
    except Exception as error:  # whatever a network's own code meets with a proxy
        reason = str(error).strip().splitlines() or [""]
        raise NotByRowsError(
            f"torch.fx cannot trace it: {type(error).__name__}: {reason[0]}"
        ) from error
    builder = Builder(network, Layer("input", Rows(height, height), [], channels, width))
    try:
        return builder.build(graph)
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise NotByRowsError(
            f"it is called in an unknown way: {type(error).__name__}: {error}"
        ) from error
