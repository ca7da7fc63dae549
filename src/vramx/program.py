"""A Python program, run in this process as ``python`` runs it."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from types import TracebackType


def run_program(program: str, arguments: Sequence[str], *, is_module: bool) -> None:
    """Run a program as the main one, which has this process from now on.

    What it raises leaves this, as does ``SystemExit``; a traceback that nobody catches begins in
    the program.

    Parameters
    ----------
    program : str
        A script, a folder or an archive with a ``__main__.py``; or a module.
    arguments : sequence of str
        ``sys.argv`` after the first.
    is_module : bool
        Whether it is a module, as after ``python -m``.
    """
    sys.excepthook = _Hook(sys.excepthook)
    sys.argv[:] = [program, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.getcwd() if is_module else os.path.dirname(os.path.realpath(program))
    if is_module:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")


class _Hook:
    """Shows a traceback without what ran the program."""

    def __init__(self, show: object) -> None:
        self._show = show

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        begins, each = trace, trace
        while each is not None:
            if os.path.basename(each.tb_frame.f_code.co_filename) in ("runpy.py", "<frozen runpy>"):
                begins = each.tb_next
            elif begins is not trace:
                break
            each = each.tb_next
        if begins is not None:
            error.__traceback__ = trace = begins
        self._show(kind, error, trace)  # type: ignore[operator]
