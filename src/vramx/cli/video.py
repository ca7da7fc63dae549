"""Options of subcommands that write videos."""

from __future__ import annotations

import click

from vramx.cli.gathering import gathered
from vramx.pipelines.options import VideoOptions


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
        help="Whether damaged frames of a video are an error, or are left out and reported.",
    ),
    click.option("--start", metavar="TIME", help="Where to begin in a video: seconds or HH:MM:SS."),
    click.option("--end", metavar="TIME", help="Where to end in a video."),
    click.option(
        "--preview",
        is_flag=True,
        help="Write one frame of a video as a picture: that at --start, or one from the middle.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace OUT if it exists."),
)


#: Gives a command ``video``, and ``preview`` and ``overwrite``.
video_options = gathered("video", VideoOptions, _OPTIONS)
