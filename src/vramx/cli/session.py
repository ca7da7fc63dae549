"""Options of subcommands that run models in a session."""

from __future__ import annotations

import click

from vramx.cli.gathering import gathered
from vramx.session.options import SessionOptions

_OPTIONS = (
    click.option(
        "--budget", help="The most on the card at once, such as 4GiB; by default what is free."
    ),
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
        help="What to evict first.",
    ),
    click.option("--block", default="32MiB", show_default=True, help="The unit of residency."),
    click.option("--device", type=int, help="The card's CUDA number."),
)


#: Gives a command ``session``.
session_options = gathered("session", SessionOptions, _OPTIONS)
