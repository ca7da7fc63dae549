"""``vramx swap``: a face into a picture or a video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vramx.cli.engine import engine_options, write_actors
from vramx.cli.folders import write_failures, write_rest
from vramx.cli.gathering import gathered
from vramx.cli.output import json_option, write_json
from vramx.cli.pictures import picture_options
from vramx.cli.running import run_task
from vramx.cli.session import session_options
from vramx.cli.video import video_options
from vramx.engines.ray import RayOptions
from vramx.pipelines.options import PictureOptions, SwapOptions, VideoOptions
from vramx.tasks import (
    FaceModels,
    FaceModelSpec,
    FacesTask,
    SessionOptions,
    SwapTask,
    Task,
)
from vramx.tasks.models import DTYPE_NAMES

_ROLES = ("detector", "recognizer", "swapper", "enhancer", "mask")
_ROLE = click.Choice(_ROLES)

F = TypeVar("F", bound=Callable[..., Any])
Details = tuple[tuple[Any, ...], ...]


def _detail(
    option: str,
    *types: Any,
    name: str | None = None,
    help: str,  # noqa: A002 - click's name
) -> Callable[[F], F]:
    """Make an option that says something of one of the models."""
    words = option.lstrip("-").split("-")
    return click.option(
        option,
        name or "_".join(words),
        type=(_ROLE, *types),
        multiple=True,
        metavar=" ".join(["ROLE", *words]).upper(),
        help=help,
    )


_OPTIONS = (
    click.option(
        "--faces",
        type=click.Choice(["all", "largest"]),
        default="all",
        show_default=True,
        help="Which faces are swapped.",
    ),
    click.option(
        "--similarity",
        default=0.4,
        show_default=True,
        help="The least cosine that counts as a resemblance.",
    ),
    click.option(
        "--score", default=0.5, show_default=True, help="The least score that counts as a face."
    ),
    click.option(
        "--no-face",
        "on_no_face",
        type=click.Choice(["pass", "error"]),
        default="pass",
        show_default=True,
        help="What happens to a frame without a face to swap.",
    ),
    click.option(
        "--feather", default=0.1, show_default=True, help="The soft part of crops' edges."
    ),
    click.option("--batch", default=4, show_default=True, help="Frames, and crops, at once."),
)


@click.command()
@click.argument("paths", nargs=-1, metavar="[SOURCE] TARGET OUT", type=click.Path(path_type=Path))
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture of a face, instead of SOURCE; may be repeated: each goes to the faces that "
    "resemble its --reference, or to those of a picture from left to right.",
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
@click.option("--mask", metavar="MODEL", help="Tells a face from what covers it.")
@_detail("--size", int, help="The side of a model's pictures in pixels.")
@_detail("--template", int, help="112, 128 or 512: where landmarks lie in a model's crops.")
@_detail(
    "--black-white",
    float,
    float,
    name="value_range",
    help="A model's values of black and white; by default 0 and 1, of an ONNX file its kind's.",
)
@_detail(
    "--order",
    click.Choice(["RGB", "BGR"]),
    help="A model's order of channels; by default RGB, of an ONNX file its kind's.",
)
@_detail("--classes", str, help="Which of the mask's classes are the face, such as 1,2,10.")
@_detail("--dtype", click.Choice(DTYPE_NAMES), help="The precision that a model computes in.")
@click.option(
    "--reference",
    "references",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture: only faces that resemble its largest are swapped; may be repeated.",
)
@gathered("swap", SwapOptions, _OPTIONS)
@picture_options
@video_options
@session_options
@engine_options
@json_option
@click.pass_context
def swap(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    sources: tuple[Path, ...],
    faces_of: Path | None,
    thumbnails: Path | None,
    references: tuple[Path, ...],
    as_json: bool,
    ray: RayOptions | None,
    swap: SwapOptions,
    picture: PictureOptions,
    video: VideoOptions,
    session: SessionOptions,
    preview: bool,
    overwrite: bool,
    **models: Any,
) -> None:
    """Put the face in the picture SOURCE into the picture, video or folder TARGET; write OUT.

    A MODEL is an ONNX file of a usual kind, which is recognised; a TorchScript file, an exported
    program, or package.module:factory, which is called without arguments and returns a torch
    module, a callable or a vramx.FaceModel. The last three run code that they contain: use what you
    trust. `help(vramx.face_swap)` says what each of these takes and returns.

    The same command resumes a video that was stopped. Frames without a face to swap are left
    unchanged, and counted, unless --no-face error is given.
    """
    chain = _models(**models)
    if (faces_of is None) != (thumbnails is None):
        raise click.UsageError("--faces-of and --thumbnails belong together")
    if faces_of is None and chain.swapper is None:
        raise click.MissingParameter(param_type="option", param_hint="--swapper", ctx=ctx)
    if faces_of is not None and (paths or sources):
        raise click.UsageError("--faces-of swaps nothing: leave out SOURCE, TARGET and OUT")
    task: Task[Any]
    if faces_of is not None and thumbnails is not None:
        task = FacesTask(
            target=faces_of, folder=thumbnails, models=chain, swap=swap, session=session
        )
    else:
        source, target, out = _paths(paths, sources)
        task = SwapTask(
            source=source,
            target=target,
            out=out,
            models=chain,
            references=references,
            swap=swap,
            picture=picture,
            video=video,
            preview=preview,
            overwrite=overwrite,
            session=session,
        )
    told = run_task(ctx, task, ray)
    if as_json:
        write_json(told)
    else:
        _write(told)
    ctx.exit(write_failures(told) if "failed" in told else 0)


def _paths(
    paths: tuple[Path, ...], sources: tuple[Path, ...]
) -> tuple[Path | tuple[Path, ...], Path, Path]:
    wanted = 2 if sources else 3
    if len(paths) != wanted:
        raise click.UsageError(
            f"give {'TARGET and OUT' if sources else 'SOURCE, TARGET and OUT'}, not {len(paths)} "
            "paths; with --source there is no SOURCE before them"
        )
    return sources or paths[0], paths[-2], paths[-1]


def _models(*, classes: tuple[tuple[str, str], ...], **given: Any) -> FaceModels:
    """Gather the models, each with what was said of it."""
    said: dict[str, dict[str, Any]] = {role: {} for role in _ROLES}
    for role, text in classes:
        said[role]["classes"] = _numbers(text)
    names = {role: given.pop(role) for role in _ROLES}
    for detail, each in given.items():
        for role, *values in each:
            said[role][detail] = values[0] if len(values) == 1 else values
    for role, name in names.items():
        if name is None and said[role]:
            raise click.UsageError(
                f"{', '.join(said[role])} was given for the {role}, but no {role}"
            )
    made: dict[str, Any] = {
        role: FaceModelSpec(name, **said[role]) for role, name in names.items() if name is not None
    }
    return FaceModels(**made)


def _write(told: dict[str, Any]) -> None:
    for each in told.get("thumbnails", ()):
        click.echo(f"{each['path']}: face {each['face']} from the left of frame {each['frame']}")
    if "thumbnails" in told:
        return
    for each in told.get("files", [told]):
        click.echo(_summary(each))
    if "files" in told:
        write_rest(told)
    if "actors" in told:
        write_actors(told)


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not a list such as 1,2,10", param_hint="--classes")
    return tuple(int(part) for part in parts)


def _summary(told: dict[str, Any]) -> str:
    unfit = f"; {told['unfit']} passed by, which are no faces by their landmarks"
    return (
        f"{told['out']}: {told['frames']} frames, {told['faces']} faces found, "
        f"{told['swapped']} swapped; no face in {told['without_face']} frames, "
        f"{told['unchanged']} unchanged" + (unfit if told["unfit"] else "")
    )
