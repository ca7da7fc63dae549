"""How subcommands write."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Add ``--json`` to a subcommand."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Write one JSON object instead of text."
    )(command)


def stop_writing() -> bool:
    """Write to nowhere from now on, if nobody reads the standard output any more."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # it is no file
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)  # what is buffered still is written as the interpreter ends
    os.close(nowhere)
    return True


def write_json(content: Any) -> None:
    """Write an object for programs."""
    click.echo(json.dumps(content, indent=2, sort_keys=True))
