"""``vramx swap``: a face into a picture or a video."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import vramx
from vramx.cli.output import json_option, write_json
from vramx.cli.pictures import picture_options
from vramx.cli.session import session_options
from vramx.cli.video import check_preview, stoppable, video_options

if TYPE_CHECKING:
    from vramx.pipelines.swapping.frame import SwapResult

_ROLES = ("detector", "recognizer", "swapper", "enhancer")
_ROLE = click.Choice(_ROLES)
_NEEDED = ("PIL", "av", "skimage", "torch", "tqdm")

F = TypeVar("F", bound=Callable[..., Any])
Details = tuple[tuple[Any, ...], ...]


def _detail(name: str, *types: Any, help: str) -> Callable[[F], F]:  # noqa: A002 - click's name
    """Make an option that says something of one of the models."""
    metavar = " ".join(["ROLE", *name.lstrip("-").upper().split("-")])
    return click.option(name, type=(_ROLE, *types), multiple=True, metavar=metavar, help=help)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--detector", required=True, metavar="MODEL", help="Finds faces.")
@click.option("--recognizer", required=True, metavar="MODEL", help="Tells faces apart.")
@click.option("--swapper", required=True, metavar="MODEL", help="Makes the other face.")
@click.option("--enhancer", metavar="MODEL", help="Makes swapped faces look better.")
@_detail("--size", int, help="A model's pictures have sides of that many pixels.")
@_detail("--template", int, help="112, 128 or 512: where landmarks lie in a model's crops.")
@_detail("--black-white", float, float, help="What black and white are to a model; else 0 and 1.")
@_detail("--order", click.Choice(["RGB", "BGR"]), help="A model's order of channels; else RGB.")
@click.option(
    "--faces",
    type=click.Choice(["all", "largest"]),
    default="all",
    show_default=True,
    help="Which faces are swapped.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="A picture: only faces that resemble its largest are swapped.",
)
@click.option(
    "--similarity", default=0.4, show_default=True, help="The least cosine that is a resemblance."
)
@click.option("--score", default=0.5, show_default=True, help="The least score that is a face.")
@click.option(
    "--no-face",
    type=click.Choice(["pass", "error"]),
    default="pass",
    show_default=True,
    help="What becomes of a frame without a face to swap.",
)
@click.option("--feather", default=0.1, show_default=True, help="The soft part of crops' edges.")
@click.option("--batch", default=4, show_default=True, help="Frames, and crops, at once.")
@picture_options
@video_options
@session_options
@json_option
@click.pass_context
def swap(
    ctx: click.Context,
    /,
    source: Path,
    target: Path,
    out: Path,
    as_json: bool,
    overwrite: bool,
    quality: int | None,
    format: str | None,  # noqa: A002 - click's name
    codec: str,
    codec_options: dict[str, str],
    pix_fmt: str | None,
    segment: int,
    deinterlace: str,
    on_corrupt: str,
    start: str | None,
    end: str | None,
    preview: bool,
    reference: Path | None,
    no_face: str,
    size: Details,
    template: Details,
    black_white: Details,
    order: Details,
    **options: Any,
) -> None:
    """Put the face in the picture SOURCE into the picture or video TARGET, and write OUT.

    A MODEL is a TorchScript file, an exported program, or package.module:factory, which is called
    without arguments and returns a torch module, a callable or a vramx.FaceModel. All three
    run code that they bring: use what you trust. `help(vramx.face_swap)` tells what each model
    takes and gives.

    A video's job that is stopped goes on when the same command is given again. Frames without a
    face to swap are passed on unchanged, and counted, unless --no-face error.
    """
    check_preview(preview, end)
    details = {"size": size, "template": template, "value_range": black_white, "order": order}
    try:
        from vramx.pipelines.files import is_video

        if is_video(out) and (quality, format) != (None, None):
            raise click.UsageError("--quality and --format are for pictures")
        models = {role: _model(role, options.pop(role), details) for role in _ROLES}
        options.update(models, reference=reference, on_no_face=no_face)
        with stoppable(ctx), vramx.face_swap(**options) as fs:
            if preview:
                result = fs.preview_video(
                    source, target, out, start=start, deinterlace=deinterlace, overwrite=overwrite
                )
            elif is_video(out):
                result = fs.swap_video(
                    source,
                    target,
                    out,
                    codec=codec,
                    options=codec_options,
                    pix_fmt=pix_fmt,
                    segment=segment,
                    deinterlace=deinterlace,
                    on_corrupt=on_corrupt,
                    start=start,
                    end=end,
                    overwrite=overwrite,
                    progress=sys.stderr.isatty(),
                )
            else:
                result = fs.swap_picture(
                    source, target, out, quality=quality, format=format, overwrite=overwrite
                )
            stats = fs.session.stats()
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        raise vramx.ConfigError(
            f"{error.name} is not installed: pip install 'vramx[torch,video,faces]'"
        ) from error
    if as_json:
        write_json({"out": str(out), **asdict(result), "stats": asdict(stats)})
    else:
        click.echo(_summary(out, result))


def _model(role: str, name: str | None, details: dict[str, Details]) -> Any:
    """Load a model, with what was said of it."""
    from vramx.integrations.torch.modelspec import load_model

    said: dict[str, Any] = {
        detail: values[0] if len(values) == 1 else values
        for detail, given in details.items()
        for whose, *values in given
        if whose == role
    }
    if name is None:
        if said:
            raise click.UsageError(f"{', '.join(said)} was given for the {role}, but no {role}")
        return None
    try:
        model = load_model(name, also=(vramx.FaceModel,))
        if isinstance(model, vramx.FaceModel):
            return replace(model, **said)
        return vramx.FaceModel(model, **said)
    except vramx.ConfigError as error:
        raise vramx.ConfigError(f"{role}: {error}") from error


def _summary(out: Path, result: SwapResult) -> str:
    unfit = f"; {result.unfit} passed by, which are no faces by their landmarks"
    return (
        f"{out}: {result.frames} frames, {result.faces} faces found, {result.swapped} swapped; "
        f"no face in {result.without_face} frames, {result.unchanged} unchanged"
        + (unfit if result.unfit else "")
    )
