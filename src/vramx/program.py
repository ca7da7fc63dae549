"""A Python program, run in this process as ``python`` runs it."""

from __future__ import annotations

import builtins
import os
import runpy
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType

#: Modules between what runs a program and the program.
_RUNS = (__name__, "runpy", "importlib._bootstrap", "importlib._bootstrap_external")


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
    elif os.path.isdir(program) or zipfile.is_zipfile(program) or program.endswith(".pyc"):
        runpy.run_path(program, run_name="__main__")
    else:
        _run_script(program)


def _run_script(path: str) -> None:
    """Run a script as `__main__`, which it stays: runpy would put another in its place after it."""
    loader = SourceFileLoader("__main__", os.path.abspath(path))
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = loader.path
    main.__loader__ = loader
    main.__dict__["__builtins__"] = builtins
    exec(loader.source_to_code(loader.get_data(loader.path), loader.path), main.__dict__)


class _Hook:
    """Shows a traceback without what ran the program."""

    def __init__(self, show: Callable[..., object]) -> None:
        self._show = show

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        each = trace
        while each is not None and each.tb_frame.f_code is not run_program.__code__:
            each = each.tb_next
        if each is not None:
            each = each.tb_next
            while each is not None and each.tb_frame.f_globals.get("__name__") in _RUNS:
                each = each.tb_next
            error.__traceback__ = trace = each
        self._show(kind, error, trace)
