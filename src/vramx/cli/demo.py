"""``vramx demo``: the example that enlarges a photograph."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

import vramx
from vramx.cli.output import json_option, write_json


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@json_option
@click.pass_context
def demo(ctx: click.Context, arguments: tuple[str, ...], as_json: bool) -> None:
    """Enlarge a photograph in less memory than the weights, on the simulated card if need be.

    ARGUMENTS are the example's; `vramx demo -- --help` lists them. It is part of vramx's sources,
    not of the installed package. The exit code is the example's.
    """
    example = Path(vramx.__file__).resolve().parents[2] / "examples" / "super_resolution.py"
    if not example.is_file():
        raise vramx.Error(
            "the demo comes with vramx's sources, not with the installed package: in a checkout "
            "run `make demo`, or `pip install -e '.[demo]'` and then `vramx demo`"
        )
    command = [sys.executable, str(example)]
    if not as_json:
        ctx.exit(subprocess.run([*command, *arguments], check=False).returncode)
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command += ["--json", str(figures), *arguments]
        done = subprocess.run(command, check=False, stdout=sys.stderr)
        if figures.is_file():
            write_json(json.loads(figures.read_text(encoding="utf-8")))
    ctx.exit(done.returncode)
