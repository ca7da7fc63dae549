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
    add("--backend", nargs="+", choices=BACKENDS, default=own, help="one or more")
    add("--block", type=size, default="32MiB" if card else block)
