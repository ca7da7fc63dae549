"""How subcommands run a task."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from vramx.cli.words import in_options
from vramx.engines import ray as ray_engine
from vramx.engines.ray import RayOptions
from vramx.progress import progress_bar
from vramx.tasks import Task, TaskError, run


def run_task(ctx: click.Context, task: Task[Any], ray: RayOptions | None = None) -> dict[str, Any]:
    """Run a task here or on Ray, with a bar at a terminal; return what was made, as JSON has it.

    Options that do not go together are wrong usage. After an interrupt it says how to go on, and
    exits with 130.
    """
    shown = progress_bar() if sys.stderr.isatty() else contextlib.nullcontext()
    try:
        with shown as on_progress:
            if ray is not None:
                return ray_engine.run(task, ray, on_progress=on_progress).to_dict()
            told: dict[str, Any] = run(task, on_progress=on_progress).to_dict()
            return told
    except TaskError as error:
        raise click.UsageError(in_options(str(error), ctx.command)) from error
    except KeyboardInterrupt:
        click.echo("Stopped. The same command goes on from what is finished of a video.", err=True)
        ctx.exit(130)
