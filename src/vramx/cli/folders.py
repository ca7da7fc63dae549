"""What subcommands tell of folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vramx.pipelines.enlarging import FolderResult


def rest_as_dict(result: FolderResult[Any]) -> dict[str, Any]:
    """Return what was not made, for programs."""
    return {
        "skipped": [str(path) for path in result.skipped],
        "failed": [{"source": str(path), "error": why} for path, why in result.failed],
        "passed_by": [{"source": str(path), "why": why} for path, why in result.passed_by],
    }


def write_rest(told: dict[str, Any]) -> None:
    """Write it for people, but for failures."""
    for name in told["skipped"]:
        click.echo(f"{name}: was there already")
    for each in told["passed_by"]:
        click.echo(f"{each['source']} was passed by: it {each['why']}")


def write_failures(told: dict[str, Any]) -> int:
    """Write each failure in one line on the standard error, and return the exit code."""
    for each in told["failed"]:
        click.echo(f"Error: {each['source']}: {' '.join(each['error'].split())}", err=True)
    return 1 if told["failed"] else 0
