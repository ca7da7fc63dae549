"""``vramx forecast``: how a model would do in little memory."""

from __future__ import annotations

from pathlib import Path

import click

from vramx.cli.output import json_option, write_json
from vramx.forecast import for_file


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--budget", help="The most on the card at once, such as 8GiB; what it has if absent.")
@click.option("--card", default="auto", show_default=True, help='Such as "RTX 3060".')
@click.option("--memory", help="What the card has, such as 8GiB, if not what its name says.")
@click.option("--link", help="What a copy to the card reaches, such as 12GB/s, likewise.")
@click.option(
    "--positions",
    default=1,
    show_default=True,
    help="Tokens, pixels or patches that a pass applies each weight to.",
)
@click.option("--compute", type=float, help="Seconds of a pass with all resident, if measured.")
@click.option("--reserve", default="512MiB", show_default=True, help="What CUDA takes itself.")
@click.option("--block", default="32MiB", show_default=True, help="The unit of residency.")
@click.option(
    "--backend",
    type=click.Choice(["managed", "mapped"]),
    default="mapped",
    show_default=True,
    help="Where weights are kept.",
)
@json_option
def forecast(
    model: Path,
    budget: str | None,
    card: str,
    memory: str | None,
    link: str | None,
    positions: int,
    compute: float | None,
    reserve: str,
    block: str,
    backend: str,
    as_json: bool,
) -> None:
    """Forecast a model's passes from the file MODEL, of which only headers are read.

    MODEL is a .safetensors file, the index of several, a torch checkpoint, a GGUF or an ONNX file,
    or a folder as transformers and diffusers write them.
    """
    found = for_file(
        model,
        budget=budget,
        card=card,
        memory=memory,
        link=link,
        positions=positions,
        compute=compute,
        reserve=reserve,
        block=block,
        backend=backend,
    )
    if as_json:
        write_json(found.as_dict())
    else:
        click.echo(found.text())
