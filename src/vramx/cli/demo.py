"""``vramx demo``: the example that enlarges a photograph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

import vramx


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def demo(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Enlarge a photograph in less memory than the models need, on the simulated card if need be.

    ARGUMENTS are the example's; `vramx demo -- --help` lists them. It is part of vramx's sources,
    not of the installed package. The exit code is the example's.
    """
    example = Path(vramx.__file__).resolve().parents[2] / "examples" / "super_resolution.py"
    if not example.is_file():
        raise vramx.Error(
            "the demo comes with vramx's sources, not with the installed package: in a checkout "
            "run `make demo`, or `pip install -e '.[demo]'` and then `vramx demo`"
        )
    ctx.exit(subprocess.run([sys.executable, example, *arguments], check=False).returncode)
