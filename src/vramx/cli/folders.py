"""What subcommands tell of folders."""

from __future__ import annotations

from typing import Any

import click


def write_rest(told: dict[str, Any]) -> None:
    """Write what was not made for people, but for failures."""
    for name in told["skipped"]:
        click.echo(f"{name}: was there already")
    for each in told["passed_by"]:
        click.echo(f"{each['source']} was passed by: it {each['why']}")


def write_failures(told: dict[str, Any]) -> int:
    """Write each failure in one line on the standard error, and return the exit code."""
    for each in told["failed"]:
        click.echo(f"Error: {each['source']}: {' '.join(each['error'].split())}", err=True)
    return 1 if told["failed"] else 0
