"""vramx on each of its backends, as ways to run what a benchmark compares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import vramx

Way = TypeVar("Way")

BACKENDS = ("mapped", "managed", "simulated")


def ways_of(kind: Callable[..., Way]) -> dict[str, Callable[..., Way]]:
    """Return a way for each backend, by its name in tables.

    Parameters
    ----------
    kind : callable
        Makes the way, from what ways are made of and ``backend``.
    """
    return {f"vramx-{backend}": partial(kind, backend=backend) for backend in BACKENDS}


def card_for(backend: str, budget: int) -> contextlib.AbstractContextManager[Any]:
    """Return a scope with the card that a backend needs: a simulated one has twice the budget."""
    if backend == "simulated":
        return vramx.simulate(2 * budget, granule="4KiB")
    return contextlib.nullcontext()
