"""Options of subcommands that write pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        help="Of JPEG, WebP, AVIF and HEIC pictures; 95 unless given, and no worse than a JPEG "
        "source.",
    ),
    click.option(
        "--format",
        metavar="NAME",
        help="png, jpeg, webp, tiff, avif or another format of pictures, which OUT must be named "
        "as; pictures of a folder get such names.",
    ),
)


def picture_options(command: F) -> F:
    """Add ``--quality`` and ``--format``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
