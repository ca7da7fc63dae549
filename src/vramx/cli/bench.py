"""``vramx bench``: how fast this machine is, and how near vramx comes to what it can do."""

from __future__ import annotations

import click

from vramx.bench import Row, bench
from vramx.cli.output import json_option, write_json


def _tell(row: Row) -> None:
    click.echo(f"{row.backend}, weights {row.ratio:g} x budget: done", err=True)


@click.command("bench")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["mapped", "managed", "simulated"]),
    help="What to run; by default both that a card may support.",
)
@click.option("--weights", help="The model's, such as 4GiB; by default what the card allows.")
@click.option(
    "--ratio",
    "ratios",
    multiple=True,
    type=float,
    default=(1.5, 2.0, 4.0),
    show_default=True,
    help="The ratio of weights to budget.",
)
@click.option("--tokens", type=int, help="How much a pass computes; 2048 by default.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    backends: tuple[str, ...],
    weights: str | None,
    ratios: tuple[float, ...],
    tokens: int | None,
    as_json: bool,
) -> None:
    """Measure the link, and a model that needs more than its budget.

    Times are given relative to T_fluid, which nothing that moves uncompressed bytes can beat, to
    T_plan, which leaves room for four blocks in flight, and to T_packed, which is the same with
    packed copies of the weights. On the simulated card they are virtual. The exit code is 1 if an
    output differs from that of the model without vramx, or if a budget was exceeded.
    """
    found = bench(backends, weights=weights, ratios=ratios, tokens=tokens, on_row=_tell)
    if as_json:
        write_json(found.as_dict())
    else:
        click.echo(found.text())
    ctx.exit(0 if found.right else 1)
