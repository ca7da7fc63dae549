"""Torch's snapshots of its memory pools."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch

#: CPython has one object for each integer up to this one.
_LARGEST_SHARED = 256


def pool_snapshot(pool: Any) -> list[dict[str, Any]]:
    """Take torch's snapshot of a pool.

    Torch lets go of references to the arguments that are not its own (pytorch#196366), which ends
    the process from a pool's number of 257 on, and for smaller ones, which the interpreter shares,
    with time. Of those one reference too many does no harm.

    Parameters
    ----------
    pool : torch.cuda.MemPool
        The pool.

    Returns
    -------
    list of dict
        Its segments, as ``torch.cuda.memory_snapshot`` tells of them.
    """
    number: tuple[int, int] = pool.id
    spare = number * 8  # references to lose
    before = [sys.getrefcount(part) for part in number]
    segments: list[dict[str, Any]] = torch.cuda.memory_snapshot(number)
    after = [sys.getrefcount(part) for part in number]
    for i, part in enumerate(number):
        for _ in range(before[i] - after[i] if part > _LARGEST_SHARED else 1):
            _keep(part)
    _keep(True)  # whether traces are wanted, which torch says itself
    del spare
    return segments


def _keep(what: object) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))
