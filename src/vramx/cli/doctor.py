"""``vramx doctor``: what keeps vramx from working, or from working fast, on this machine."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from vramx.cli.output import json_option, write_json
from vramx.doctor import Finding, Severity, examine, exit_code

_COLOURS = {
    Severity.OK: "green",
    Severity.NOTE: "cyan",
    Severity.WARNING: "yellow",
    Severity.ERROR: "red",
    Severity.UNUSABLE: "red",
}


def _write(finding: Finding) -> None:
    mark = click.style(f"{finding.severity.name.lower():>8}", fg=_COLOURS[finding.severity])
    click.echo(f"{mark}  {finding.check}: {finding.what}")
    for text in (finding.why, finding.advice):
        if text:
            click.echo(textwrap.indent(textwrap.fill(text, 88), " " * 10))


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--device", default=0, show_default=True, help="The card's CUDA number.")
@click.option("--sha256", help="The digest that MODEL should have.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, model: Path | None, device: int, sha256: str | None, as_json: bool
) -> None:
    """Check driver, card, link, memory and packages, and the file MODEL if one is given.

    Exit codes: 0 nothing worse than a note; 3 warnings; 4 errors; 5 no usable GPU, so that only the
    simulated card works.
    """
    if sha256 is not None and model is None:
        raise click.UsageError("--sha256 is of a MODEL; give one")
    findings = examine(model, device=device, sha256=sha256)
    code = exit_code(findings)
    if as_json:
        write_json({"findings": [each.as_dict() for each in findings], "exit_code": code})
    else:
        for finding in findings:
            _write(finding)
    ctx.exit(code)
