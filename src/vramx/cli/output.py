"""How subcommands write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Add ``--json`` to a subcommand."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Write one JSON object instead of text."
    )(command)


def write_json(content: Any) -> None:
    """Write an object for programs."""
    click.echo(json.dumps(content, indent=2, sort_keys=True))
