"""Where a subcommand's work runs: in this process, or on a Ray cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from vramx.engines.ray import RayOptions

_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="ray makes a video's segments, or pictures, on all machines of a Ray cluster.",
    ),
    click.option("--address", help="The Ray cluster's; by default RAY_ADDRESS, or this machine's."),
    click.option(
        "--gpus",
        type=click.FloatRange(min=0, max=1, min_open=True),
        help="The part of a card that each of Ray's actors has; 1 by default.",
    ),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options to a command, which is given ``ray``: how, or None for this process."""

    @functools.wraps(command)
    def call(*args: Any, engine: str, address: str | None, gpus: float | None, **given: Any) -> Any:
        if engine == "local" and (address is not None or gpus is not None):
            raise click.UsageError("--address and --gpus belong to --engine ray")
        ray = RayOptions(address, 1.0 if gpus is None else gpus) if engine == "ray" else None
        return command(*args, ray=ray, **given)

    added: Callable[..., Any] = call
    for option in reversed(_OPTIONS):
        added = option(added)
    return added


def write_actors(told: dict[str, Any]) -> None:
    """Write who did what as a table."""
    rows = [("made", "seconds", "machine", "card")]
    for each in told["actors"]:
        rows.append((str(each["made"]), f"{each['seconds']:.1f}", each["machine"], each["card"]))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for made, seconds, machine, card in rows:
        line = f"{made:>{widths[0]}}  {seconds:>{widths[1]}}  {machine:<{widths[2]}}  {card}"
        click.echo(line)
