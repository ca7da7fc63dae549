"""``vramx swap``: a face into a picture or a video."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

import vramx
from vramx.cli.dtypes import DTYPE_NAMES
from vramx.cli.folders import rest_as_dict, write_failures, write_rest
from vramx.cli.output import json_option, write_json
from vramx.cli.pictures import picture_options
from vramx.cli.session import session_options
from vramx.cli.video import of_preview, stoppable, video_options

if TYPE_CHECKING:
    from vramx.pipelines.swapping.swap import FaceSwap

_ROLES = ("detector", "recognizer", "swapper", "enhancer", "mask")
_ROLE = click.Choice(_ROLES)
_NEEDED = ("PIL", "av", "skimage", "torch", "tqdm")


class _Job(NamedTuple):
    """What is put into what, and where that is written."""

    source: Any
    target: Path
    out: Path


F = TypeVar("F", bound=Callable[..., Any])
Details = tuple[tuple[Any, ...], ...]


def _detail(name: str, *types: Any, help: str) -> Callable[[F], F]:  # noqa: A002 - click's name
    """Make an option that says something of one of the models."""
    metavar = " ".join(["ROLE", *name.lstrip("-").upper().split("-")])
    return click.option(name, type=(_ROLE, *types), multiple=True, metavar=metavar, help=help)


@click.command()
@click.argument("paths", nargs=-1, metavar="[SOURCE] TARGET OUT", type=click.Path(path_type=Path))
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture of a face, instead of SOURCE; may be repeated: each goes to the faces like the "
    "--reference in its place, or to those of a picture from left to right.",
)
@click.option(
    "--faces-of",
    type=click.Path(path_type=Path),
    help="Swap nothing; write each person in this picture or video to --thumbnails.",
)
@click.option("--thumbnails", type=click.Path(path_type=Path), help="A folder; see --faces-of.")
@click.option("--detector", required=True, metavar="MODEL", help="Finds faces.")
@click.option("--recognizer", required=True, metavar="MODEL", help="Tells faces apart.")
@click.option("--swapper", metavar="MODEL", help="Makes the other face.")
@click.option("--enhancer", metavar="MODEL", help="Makes swapped faces look better.")
@click.option("--mask", metavar="MODEL", help="Tells a face from what lies before it.")
@_detail("--size", int, help="A model's pictures have sides of that many pixels.")
@_detail("--template", int, help="112, 128 or 512: where landmarks lie in a model's crops.")
@_detail("--black-white", float, float, help="What black and white are to a model; else 0 and 1.")
@_detail("--order", click.Choice(["RGB", "BGR"]), help="A model's order of channels; else RGB.")
@_detail("--classes", str, help="Which of the mask's classes are the face, such as 1,2,10.")
@_detail("--dtype", click.Choice(DTYPE_NAMES), help="In what a model computes.")
@click.option(
    "--faces",
    type=click.Choice(["all", "largest"]),
    default="all",
    show_default=True,
    help="Which faces are swapped.",
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture: only faces that resemble its largest are swapped; may be repeated.",
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
    paths: tuple[Path, ...],
    sources: tuple[Path, ...],
    faces_of: Path | None,
    thumbnails: Path | None,
    as_json: bool,
    overwrite: bool,
    quality: int | None,
    format: str | None,  # noqa: A002 - click's name
    video: dict[str, Any],
    preview: bool,
    references: tuple[Path, ...],
    no_face: str,
    size: Details,
    template: Details,
    black_white: Details,
    order: Details,
    classes: Details,
    dtype: Details,
    **options: Any,
) -> None:
    """Put the face in the picture SOURCE into the picture, video or folder TARGET; write OUT.

    A MODEL is a TorchScript file, an exported program, or package.module:factory, which is called
    without arguments and returns a torch module, a callable or a vramx.FaceModel. All three
    run code that they bring: use what you trust. `help(vramx.face_swap)` tells what each model
    takes and gives.

    A video's job that is stopped goes on when the same command is given again. Frames without a
    face to swap are passed on unchanged, and counted, unless --no-face error.
    """
    details = {
        "size": size,
        "template": template,
        "value_range": black_white,
        "order": order,
        "classes": tuple((role, _numbers(text)) for role, text in classes),
        "dtype": dtype,
    }
    if (faces_of is None) != (thumbnails is None):
        raise click.UsageError("--faces-of and --thumbnails belong together")
    if faces_of is None and options["swapper"] is None:
        raise click.MissingParameter(param_type="option", param_hint="--swapper", ctx=ctx)
    if faces_of is not None and (paths or sources):
        raise click.UsageError("--faces-of swaps nothing: leave out SOURCE, TARGET and OUT")
    job = None if faces_of is not None else _job(paths, sources)
    try:
        from vramx.pipelines.files import is_video

        if job is not None and is_video(job.out) and (quality, format) != (None, None):
            raise click.UsageError("--quality and --format are for pictures")
        models = {role: _model(role, options.pop(role), details) for role in _ROLES}
        options.update(models, reference=[*references] or None, on_no_face=no_face)
        with stoppable(ctx), vramx.face_swap(**options) as fs:
            if job is None:
                told = _write_thumbnails(fs, faces_of, thumbnails)
            else:
                pictures = {"quality": quality, "format": format}
                told = _swap(
                    fs, job, overwrite=overwrite, preview=preview, pictures=pictures, video=video
                )
            stats = fs.session.stats()
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        raise vramx.ConfigError(
            f"{error.name} is not installed: pip install 'vramx[torch,video,faces]'"
        ) from error
    if as_json:
        write_json({**told, "stats": asdict(stats)})
    else:
        _write(told)
    ctx.exit(write_failures(told) if "failed" in told else 0)


def _job(paths: tuple[Path, ...], sources: tuple[Path, ...]) -> _Job:
    wanted = 2 if sources else 3
    if len(paths) != wanted:
        raise click.UsageError(
            f"give {'TARGET and OUT' if sources else 'SOURCE, TARGET and OUT'}, not {len(paths)} "
            "paths; with --source there is no SOURCE before them"
        )
    return _Job([*sources] if sources else paths[0], *paths[-2:])


def _swap(
    fs: FaceSwap,
    job: _Job,
    *,
    overwrite: bool,
    preview: bool,
    pictures: dict[str, Any],
    video: dict[str, Any],
) -> dict[str, Any]:
    """Do what was asked for, and tell of it."""
    from vramx.pipelines.files import is_video

    progress = sys.stderr.isatty()
    if job.target.is_dir():
        done = fs.swap_folder(*job, overwrite=overwrite, progress=progress, **pictures)
        made = [{"out": str(each.out), **asdict(each.result)} for each in done.made]
        return {"files": made, **rest_as_dict(done)}
    if preview:
        result = fs.preview_video(*job, overwrite=overwrite, **of_preview(video))
    elif is_video(job.out):
        result = fs.swap_video(*job, overwrite=overwrite, progress=progress, **video)
    else:
        result = fs.swap_picture(*job, overwrite=overwrite, **pictures)
    return {"out": str(job.out), **asdict(result)}


def _write_thumbnails(fs: FaceSwap, faces_of: Any, thumbnails: Any) -> dict[str, Any]:
    found = fs.write_thumbnails(faces_of, thumbnails)
    return {
        "thumbnails": [
            {"path": str(each.path), "frame": each.frame, "face": each.number} for each in found
        ]
    }


def _write(told: dict[str, Any]) -> None:
    for each in told.get("thumbnails", ()):
        click.echo(f"{each['path']}: face {each['face']} from the left of frame {each['frame']}")
    if "thumbnails" in told:
        return
    for each in told.get("files", [told]):
        click.echo(_summary(each))
    if "files" in told:
        write_rest(told)


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not a list such as 1,2,10", param_hint="--classes")
    return tuple(int(part) for part in parts)


def _model(role: str, name: str | None, details: dict[str, Details]) -> Any:
    """Load a model, with what was said of it."""
    from vramx.integrations.torch.modelspec import load_model
    from vramx.integrations.torch.precision import DTYPES, in_dtype

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
    dtype = said.pop("dtype", None)
    try:
        model = load_model(name, also=(vramx.FaceModel,))
        if isinstance(model, vramx.FaceModel):
            model = replace(model, **said)
        else:
            model = vramx.FaceModel(model, **said)
        parts: list[Any] = [*model.modules] or [model.model]  # which has no weights to change
        for part in parts if dtype is not None else ():
            in_dtype(part, DTYPES[dtype])
        return model
    except vramx.ConfigError as error:
        raise vramx.ConfigError(f"{role}: {error}") from error


def _summary(told: dict[str, Any]) -> str:
    unfit = f"; {told['unfit']} passed by, which are no faces by their landmarks"
    return (
        f"{told['out']}: {told['frames']} frames, {told['faces']} faces found, "
        f"{told['swapped']} swapped; no face in {told['without_face']} frames, "
        f"{told['unchanged']} unchanged" + (unfit if told["unfit"] else "")
    )
