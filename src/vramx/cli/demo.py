"""``vramx demo``: the example that enlarges a photograph."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

import vramx
from vramx.cli.output import json_option, write_json

_NEEDED = ("torch", "PIL", "skimage", "tqdm")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@json_option
@click.pass_context
def demo(ctx: click.Context, arguments: tuple[str, ...], as_json: bool) -> None:
    """Enlarge a photograph in less memory than the weights, on the simulated card if necessary.

    ARGUMENTS are the demo's; `vramx demo -- --help` lists them. The exit code is the demo's.
    """
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise vramx.ConfigError(f"the demo needs {', '.join(absent)}: pip install 'vramx[demo]'")
    command = [sys.executable, "-m", "vramx.demo.super_resolution"]
    if not as_json:
        ctx.exit(subprocess.run([*command, *arguments], check=False).returncode)
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command += ["--json", str(figures), *arguments]
        done = subprocess.run(command, check=False, stdout=sys.stderr)
        if figures.is_file():
            write_json(json.loads(figures.read_text(encoding="utf-8")))
    ctx.exit(done.returncode)
