"""``vramx run``: an unedited program, within a budget."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Callable

import click

import vramx
from vramx.cli.session import session_options
from vramx.program import run_program
from vramx.session import Session
from vramx.session.installing import serve_process
from vramx.session.options import SessionOptions


class Handover(BaseException):
    """What to do once the command line has been dealt with: nothing of it is around the program."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self.then = then


def _report(session: Session) -> None:
    if sys.stderr is not None:
        print(session.report(), file=sys.stderr)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="PROGRAM is a module, as of python -m.")
@session_options
@click.argument("program")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def run(program: str, arguments: tuple[str, ...], is_module: bool, session: SessionOptions) -> None:
    """Run the Python program PROGRAM as python does, within a budget.

    The program is not edited. The weights of its ONNX Runtime sessions for CUDA are on the card
    while they are used; what they allocate, and torch, is held to the budget too. With `--backend
    simulated` ONNX Runtime's CPU provider plays the card. At the end a report is written to the
    standard error. The exit code is the program's.
    """
    if not is_module and not os.path.exists(program):
        raise vramx.ConfigError(f"there is no file {program}; vramx run -m runs a module")
    opened = vramx.oversubscribe(**vars(session))
    atexit.register(_report, opened)
    serve_process(opened)
    raise Handover(functools.partial(run_program, program, arguments, is_module=is_module))
