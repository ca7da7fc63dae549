"""Options of subcommands that run models in a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--budget", help="The most on the card at once, such as 4GiB; else what is free."),
    click.option(
        "--backend",
        type=click.Choice(["auto", "managed", "mapped", "simulated"]),
        default="auto",
        show_default=True,
        help="simulated needs no GPU: it computes on the CPU.",
    ),
    click.option(
        "--policy",
        type=click.Choice(["adaptive", "lru", "mru", "clairvoyant"]),
        default="adaptive",
        show_default=True,
        help="What leaves the card first.",
    ),
    click.option("--block", default="32MiB", show_default=True, help="The unit of residency."),
    click.option("--device", type=int, help="The card's CUDA number."),
)


def session_options(command: F) -> F:
    """Add the options that are arguments of `vramx.oversubscribe`, by its names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
