"""``vramx upscale``: pictures and videos enlarged within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vramx.cli.engine import engine_options, write_actors
from vramx.cli.folders import write_failures, write_rest
from vramx.cli.gathering import Decorator, gathered
from vramx.cli.output import json_option, write_json
from vramx.cli.pictures import picture_options
from vramx.cli.running import run_task
from vramx.cli.session import session_options
from vramx.cli.video import video_options
from vramx.engines.ray import RayOptions
from vramx.pipelines.options import UpscaleOptions
from vramx.tasks.models import DTYPE_NAMES, UpscalerSpec
from vramx.tasks.upscaling import UpscaleTask
from vramx.units import format_size


def _count(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value != "auto" and not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a whole number nor auto")
    return None if value == "auto" else int(value)


def _counted(name: str, about: str) -> Decorator:
    """Make an option that is a number, or chosen by the program."""
    return click.option(
        name, metavar="N", callback=_count, default="auto", show_default=True, help=about
    )


_OPTIONS = (
    click.option(
        "--scale",
        type=click.FloatRange(min=0, min_open=True),
        help="How much larger than IN; by default the model's, otherwise resized.",
    ),
    click.option(
        "--height", type=click.IntRange(min=1), help="Of OUT in pixels, instead of --scale."
    ),
    click.option(
        "--width", type=click.IntRange(min=1), help="Of OUT in pixels, instead of --scale."
    ),
    _counted("--tile", "Pixels a side."),
    _counted("--overlap", "Context that tiles share."),
    _counted("--batch", "Tiles at once."),
    click.option(
        "--multiple",
        type=click.IntRange(min=1),
        help="What sides of tiles must be multiples of; measured by default.",
    ),
)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, exists=True))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    help="A network with trained weights by its name, such as realesrgan-x4plus; a checkpoint "
    "(spandrel finds its network), an ONNX file, a TorchScript or torch.export file, or "
    "package.module:factory.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Weights for package.module:factory: .safetensors, a torch checkpoint, or an index.",
)
@gathered("upscale", UpscaleOptions, _OPTIONS)
@picture_options
@click.option(
    "--dtype",
    type=click.Choice(DTYPE_NAMES),
    help="The precision that the model computes in; by default that of its weights.",
)
@video_options
@session_options
@engine_options
@json_option
@click.pass_context
def upscale(
    ctx: click.Context,
    /,
    source: Path,
    target: Path,
    model: str,
    weights: Path | None,
    dtype: str | None,
    as_json: bool,
    ray: RayOptions | None,
    **options: Any,
) -> None:
    """Enlarge the picture, the video or the folder of pictures IN to OUT.

    The same command resumes a video that was stopped; in a folder it skips the pictures that are in
    OUT already. The simulated card is used only when `--backend simulated` asks for it.
    """
    task = UpscaleTask(
        source=source, target=target, model=UpscalerSpec(model, dtype, weights), **options
    )
    told = run_task(ctx, task, ray)
    if as_json:
        write_json(told)
    else:
        _write(told)
    ctx.exit(write_failures(told))


def _write(told: dict[str, Any]) -> None:
    for each in told["files"]:
        frames = f", {each['frames']} frames" if each["frames"] != 1 else ""
        way = f", {each['way']}" if "way" in each else ""
        if each.get("share", 1) > 1:
            way += f" that compute {each['share']:.2f} times its pixels"
        click.echo(
            f"{each['target']}: {each['width']}x{each['height']}{frames}{way} "
            f"in {each['seconds']:.1f} s"
        )
    write_rest(told)
    if "actors" in told:
        write_actors(told)
        return
    click.echo(
        f"by a network of scale {told['scale']} on {told['device']}: at most "
        f"{format_size(told['peak_resident'])} of {format_size(told['budget'])} on the card, "
        f"{format_size(told['moved_in'])} moved in and {format_size(told['moved_out'])} out"
    )
