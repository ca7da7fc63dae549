"""Options that scenarios share."""

from collections.abc import Callable
from typing import Any

from vramx.units import parse_size

Add = Callable[..., Any]

BACKENDS = ("mapped", "managed", "simulated")


def size(text: str) -> int:
    """Read bytes."""
    return parse_size(text, "size")


def sessions(add: Add, card: bool, block: str = "1MiB") -> None:
    """Add what sessions are opened with; the block is that of the simulated card."""
    own = ["mapped", "managed"] if card else ["simulated"]
    names = [*BACKENDS, *(f"{backend}-raw" for backend in BACKENDS)]
    add("--backend", nargs="+", choices=names, default=own, help="one or more; raw is unpacked")
    add("--block", type=size, default="32MiB" if card else block)


def pictures(add: Add, card: bool, rounds: int) -> None:
    """Add how pictures are enlarged by `vramx.super_resolution`, and how often."""
    own = ["auto"] if card else ["simulated"]
    add("--backend", nargs="+", choices=[*BACKENDS, "auto"], default=own, help="one or more")
    add("--dtype", default="float16" if card else "float32")
    add("--rounds", type=int, default=rounds)
