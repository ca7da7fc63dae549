"""Options of a command that are fields of one value of the library's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from vramx.settings import Settings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def gathered(name: str, settings: type[Settings], options: Sequence[Decorator]) -> Decorator:
    """Add options to a command, which is given them as one value.

    Parameters
    ----------
    name : str
        The command's parameter.
    settings : type
        Whose fields they are, by their names. What is none of its fields is passed on.
    options : sequence of callable
        What `click.option` returns.

    Returns
    -------
    callable
        A decorator of commands.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*args: Any, **given: Any) -> Any:
            names = [each.name for each in fields(settings) if each.name in given]
            made = settings(**{each: given.pop(each) for each in names})
            return command(*args, **{name: made}, **given)

        added: Callable[..., Any] = call
        for option in reversed(options):
            added = option(added)
        return added

    return decorate
