"""What the library says of arguments, in the words of the command."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator

import click

#: Options whose arguments have other names in the library.
_ARGUMENTS = {
    "--reference": "reference",
    "--source": "source",
}
_VALUE = r"'[^']*'|\"[^\"]*\"|[\w.+-]*[\w+-]|…"


def in_options(said: str, command: click.Command | None) -> str:
    """Replace the names of keyword arguments by those of a command's options.

    Parameters
    ----------
    said : str
        An error or a warning of the library's.
    command : click.Command or None
        What was run.

    Returns
    -------
    str
        With ``--tile 64`` for ``tile=64``, ``--overwrite`` for ``overwrite=True``, and where a
        sentence begins with ``tile 60`` with ``--tile 60``.
    """
    for argument, option, is_flag in _options(command):

        def written(match: re.Match[str], option: str = option, is_flag: bool = is_flag) -> str:
            value = (match[1] or "").strip("'\"")
            return option if is_flag or not value else f"{option} {value}"

        said = re.sub(rf"(?<![\w-]){argument}=({_VALUE})?", written, said)
        said = re.sub(rf"(^|: ){argument} (?=['\"\d.-]|None)", rf"\1{option} ", said)
    return said


@contextlib.contextmanager
def warnings_as_lines(worded: Callable[[object], str]) -> Iterator[None]:
    """Show warnings of a scope as lines on the standard error, in the words of the command."""

    def show(message: object, *_: object, **__: object) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more
            click.echo(f"Warning: {worded(message)}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _options(command: click.Command | None) -> Iterator[tuple[str, str, bool]]:
    for each in command.params if command is not None else ():
        if isinstance(each, click.Option) and each.name is not None:
            option = max(each.opts, key=len)
            yield _ARGUMENTS.get(option, each.name), option, each.is_flag
