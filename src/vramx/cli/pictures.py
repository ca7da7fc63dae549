"""Options of subcommands that write pictures."""

from __future__ import annotations

import click

from vramx.cli.gathering import gathered
from vramx.pipelines.options import PictureOptions

_OPTIONS = (
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        help="Of JPEG, WebP, AVIF and HEIC pictures; by default 95, and no worse than a JPEG "
        "source.",
    ),
    click.option(
        "--format",
        metavar="NAME",
        help="png, jpeg, webp, tiff, avif or another picture format, which the suffix of OUT must "
        "match; the pictures of a folder get it.",
    ),
)


#: Gives a command ``picture``.
picture_options = gathered("picture", PictureOptions, _OPTIONS)
