"""``vramx monitor``: what all processes of this machine do on its cards, as it happens."""

from __future__ import annotations

import contextlib
import json
import sys
import threading

import click

from vramx.cli.output import write_json
from vramx.monitor import Snapshot, look
from vramx.monitor.screen import draw, require_rich


@click.command()
@click.option(
    "--interval", type=click.FloatRange(min=0, max=1e6), help="Seconds between looks; 1 by default."
)
@click.option(
    "--count", type=click.IntRange(min=1), help="How often to look; without end by default."
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Write one JSON object; with --interval or --count one a line for each look.",
)
def monitor(interval: float | None, count: int | None, as_json: bool) -> None:
    """Watch budgets, residency and the link in all processes that have sessions open.

    Processes of the same user answer when they are asked, unless they run with VRAMX_MONITOR=0.
    Rates are those since the previous look. Without a terminal it looks once.
    """
    lines = interval is not None or count is not None
    if not as_json:
        require_rich()
    if count is None and not (lines if as_json else sys.stdout.isatty()):
        count = 1
    with contextlib.suppress(KeyboardInterrupt):  # that is how one leaves it
        _watch(1.0 if interval is None else interval, count, as_json, lines)


def _watch(interval: float, count: int | None, as_json: bool, lines: bool) -> None:
    screen = None if as_json else _Screen()
    snapshot: Snapshot | None = None
    looks = 0
    try:
        while True:
            snapshot = look(snapshot)
            if screen is not None:
                screen.show(snapshot)
            elif lines:
                click.echo(json.dumps(snapshot.as_dict(), sort_keys=True))
            else:
                write_json(snapshot.as_dict())
            looks += 1
            if looks == count:
                return
            threading.Event().wait(interval)
    finally:
        if screen is not None:
            screen.end()


class _Screen:
    """The terminal: tables that stay where they are; elsewhere, one below the other."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        if self._console.is_terminal:
            self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        """Draw a snapshot."""
        if self._console.is_terminal:
            self._live.update(draw(snapshot), refresh=True)
        else:
            self._console.print(draw(snapshot))

    def end(self) -> None:
        """Leave the last one standing."""
        self._live.stop()
