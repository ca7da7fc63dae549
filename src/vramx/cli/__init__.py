"""The command ``vramx``. Each subcommand is thin: what it tells comes from the library."""

from __future__ import annotations

import contextlib
from typing import Any

import click

import vramx
from vramx.cli import bench, demo, doctor, forecast, monitor, run, serve, swap, upscale
from vramx.cli.output import stop_writing
from vramx.cli.words import in_options, warnings_as_lines

#: As of a program that the signal of a pipe without a reader ended.
_UNREAD = 141
_EXITS = """
Exit codes: 0 done; 1 failed, with one line on the standard error; 2 wrong usage. `vramx doctor`
also has 3, 4 and 5, which its help explains; 130 stopped by an interrupt; 141 nobody reads
its output.
"""


class _Commands(click.Group):
    """Subcommands whose errors and warnings are one line, unless all of them is asked for."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a subcommand, and then the program that one may give this process to."""
        try:
            return super().main(*args, **extra)
        except run.Handover as handover:
            then = handover.then
        return then()

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""

        def worded(said: object) -> str:
            command = self.commands.get(ctx.invoked_subcommand or "")
            return in_options(" ".join(str(said).split()), command)

        debug = ctx.params["debug"]
        try:
            with contextlib.nullcontext() if debug else warnings_as_lines(worded):
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            if not stop_writing():
                raise
            ctx.exit(_UNREAD)
        except Exception as error:
            if debug:
                raise
            said = worded(error)
            if not isinstance(error, vramx.Error):
                said = f"{type(error).__name__}: {said} (vramx --debug … shows where)"
            raise click.ClickException(said) from error


@click.group(cls=_Commands, epilog=_EXITS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(vramx.__version__, prog_name="vramx")
@click.option(
    "--debug", is_flag=True, help="Show errors with their traceback, and where warnings are from."
)
def main(debug: bool) -> None:
    """Run models that need more GPU memory than the card has."""


main.add_command(bench.command)
main.add_command(doctor.doctor)
main.add_command(demo.demo)
main.add_command(monitor.monitor)
main.add_command(forecast.forecast)
main.add_command(run.run)
main.add_command(serve.serve)
main.add_command(swap.swap)
main.add_command(upscale.upscale)
