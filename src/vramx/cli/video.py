"""Options of subcommands that write videos, and how they end when they are stopped."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import click


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _value in pairs:
        if not (name and equals):
            raise click.BadParameter(f"{name!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


_OPTIONS = (
    click.option("--codec", default="libx264", show_default=True, help="FFmpeg's encoder."),
    click.option(
        "--codec-option",
        "codec_options",
        multiple=True,
        callback=_pairs,
        metavar="NAME=VALUE",
        help="An option of the encoder, such as crf=16; may be repeated.",
    ),
    click.option(
        "--pix-fmt",
        metavar="NAME",
        help="The pixel format, such as yuv420p for 8 bits; else the source's or a finer one.",
    ),
    click.option(
        "--segment",
        type=click.IntRange(min=1),
        default=240,
        show_default=True,
        help="Frames that a stop may lose.",
    ),
    click.option(
        "--deinterlace",
        type=click.Choice(["auto", "off"]),
        default="auto",
        show_default=True,
        help="Whether interlaced frames, of two moments each, become one picture.",
    ),
    click.option(
        "--on-corrupt",
        type=click.Choice(["error", "skip"]),
        default="error",
        show_default=True,
        help="Whether damaged frames of a video end it, or are left out and told.",
    ),
    click.option("--start", metavar="TIME", help="Take a video from there: seconds or HH:MM:SS."),
    click.option("--end", metavar="TIME", help="Take a video up to there."),
    click.option(
        "--preview",
        is_flag=True,
        help="Write one frame of a video as a picture: that at --start, or one from the middle.",
    ),
    click.option("--overwrite", is_flag=True, help="Write OUT anew if it exists."),
)


#: Options that the library takes by the same names.
_SAME = ("codec", "pix_fmt", "segment", "deinterlace", "on_corrupt", "start", "end")


def video_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--codec`` and the others that are about videos, and ``--overwrite``.

    The command is given ``video``, what the library's functions of videos take, and ``preview`` and
    ``overwrite``.
    """

    @functools.wraps(command)
    def gathered(*args: Any, **options: Any) -> Any:
        video = {name: options.pop(name) for name in _SAME}
        video["options"] = options.pop("codec_options")
        if options["preview"] and video["end"] is not None:
            raise click.UsageError("--preview is of one frame, that at --start: leave out --end")
        return command(*args, video=video, **options)

    made: Callable[..., Any] = gathered
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


def of_preview(video: dict[str, Any]) -> dict[str, Any]:
    """Return what of the options a preview takes."""
    return {name: video[name] for name in ("start", "deinterlace")}


@contextlib.contextmanager
def stoppable(ctx: click.Context) -> Iterator[None]:
    """Say how to go on after an interrupt, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Stopped. The same command goes on from what is finished of a video.", err=True)
        ctx.exit(130)
