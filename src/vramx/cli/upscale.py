"""``vramx upscale``: pictures and videos enlarged within a budget."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vramx
from vramx.cli.dtypes import DTYPE_NAMES
from vramx.cli.folders import rest_as_dict, write_failures, write_rest
from vramx.cli.output import json_option, write_json
from vramx.cli.pictures import picture_options
from vramx.cli.session import session_options
from vramx.cli.video import of_preview, stoppable, video_options
from vramx.units import format_size

if TYPE_CHECKING:
    from vramx.pipelines.enlarger import SuperResolution
    from vramx.pipelines.enlarging import Enlarged, FolderResult


def _count(_: click.Context, __: click.Parameter, value: str) -> int | str:
    if value != "auto" and not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a whole number nor auto")
    return value if value == "auto" else int(value)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, exists=True))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    help="A network with trained weights by its name, such as realesrgan-x4plus; a checkpoint "
    "(spandrel finds its network), a TorchScript or torch.export file, or package.module:factory.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Weights for package.module:factory: .safetensors, a torch checkpoint, or an index.",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    help="How much larger than IN; unless given as the model makes it, and resized otherwise.",
)
@click.option("--height", type=click.IntRange(min=1), help="Of OUT in pixels, instead of --scale.")
@click.option("--width", type=click.IntRange(min=1), help="Of OUT in pixels, instead of --scale.")
@click.option(
    "--tile", metavar="N", callback=_count, default="auto", show_default=True, help="Pixels a side."
)
@click.option(
    "--overlap",
    metavar="N",
    callback=_count,
    default="auto",
    show_default=True,
    help="Context that tiles share.",
)
@click.option(
    "--batch",
    metavar="N",
    callback=_count,
    default="auto",
    show_default=True,
    help="Tiles at once.",
)
@picture_options
@click.option(
    "--multiple",
    type=click.IntRange(min=1),
    help="What sides of tiles must be multiples of; measured unless given.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPE_NAMES),
    help="In what the model computes; unless given, in what its weights are.",
)
@video_options
@session_options
@json_option
@click.pass_context
def upscale(
    ctx: click.Context,
    /,
    source: Path,
    target: Path,
    model: str,
    weights: Path | None,
    scale: float | None,
    height: int | None,
    width: int | None,
    tile: int | str,
    overlap: int | str,
    batch: int | str,
    quality: int | None,
    format: str | None,  # noqa: A002 - click's name
    multiple: int | None,
    dtype: str | None,
    video: dict[str, Any],
    preview: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Enlarge the picture, the video or the folder of pictures IN to OUT.

    A video that was stopped goes on where it was when the same command is given again; of a folder
    the pictures that are in OUT already are skipped. The simulated card is used only when
    `--backend simulated` asks for it.
    """
    from vramx.pipelines.enlarging import (
        FolderResult,
        enlarge_file,
        enlarge_folder,
        preview_file,
        require_media_libraries,
    )

    require_media_libraries()
    if preview and source.is_dir():
        raise click.UsageError("--preview is of a video, and IN is a folder")
    if source.is_file() and target.is_file() and not overwrite:
        raise vramx.MediaError(f"{target} exists: name another file, or give --overwrite")
    begun = time.perf_counter()
    files: dict[str, Any] = {"quality": quality, "format": format, "overwrite": overwrite}
    progress = sys.stderr.isatty()
    with stoppable(ctx), vramx.oversubscribe(**options) as session:
        network = _load(session, model, weights, dtype)
        with vramx.super_resolution(
            network,
            scale=scale,
            height=height,
            width=width,
            tile=tile,
            overlap=overlap,
            batch=batch,
            multiple=multiple,
            session=session,
        ) as enlarger:
            if source.is_dir():
                result = enlarge_folder(enlarger, source, target, progress=progress, **files)
            elif preview:
                made = preview_file(
                    enlarger,
                    source,
                    target,
                    overwrite=overwrite,
                    **of_preview(video),
                )
                result = FolderResult([made])
            else:
                made = enlarge_file(
                    enlarger, source, target, progress=progress, video=video, **files
                )
                result = FolderResult([made])
            told = _tell(enlarger, result, time.perf_counter() - begun)
    if as_json:
        write_json(told)
    else:
        _write(told)
    ctx.exit(write_failures(told))


def _load(session: vramx.Session, model: str, weights: Path | None, dtype: str | None) -> Any:
    """Load the model that the command line names."""
    from vramx.checkpoints import is_named_as_weights
    from vramx.integrations import spandrel
    from vramx.integrations.torch.modelspec import load_model, program_kind
    from vramx.integrations.torch.precision import DTYPES, in_dtype
    from vramx.pipelines import pretrained

    path = Path(model)
    is_file = path.is_file() or is_named_as_weights(path)
    if weights is not None and (is_file or ":" not in model):
        raise click.UsageError("--weights are for --model package.module:factory")
    wanted = None if dtype is None else DTYPES[dtype]
    if not is_file and ":" not in model:
        return pretrained.load(session, model, wanted)
    is_checkpoint = is_file and program_kind(path) is None
    network = spandrel.load(path) if is_checkpoint else load_model(model)
    if wanted is not None:
        network = in_dtype(network, wanted)
    return network if weights is None else session.load(network, weights)


def _tell(
    enlarger: SuperResolution, result: FolderResult[Enlarged], seconds: float
) -> dict[str, Any]:
    stats = enlarger.session.stats()
    return {
        "device": enlarger.session.device.name,
        "scale": enlarger.scale,
        "files": [
            {
                "source": str(each.source),
                "target": str(each.target),
                "kind": each.kind,
                "frames": each.frames,
                "width": each.size[0],
                "height": each.size[1],
                "seconds": each.seconds,
                **({} if each.way is None else each.way.figures()),
            }
            for each in result.made
        ],
        **rest_as_dict(result),
        "seconds": seconds,
        "budget": stats.budget,
        "peak_resident": stats.peak_resident,
        "moved_in": stats.moved_in,
        "moved_out": stats.moved_out,
    }


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
    click.echo(
        f"by a network of scale {told['scale']} on {told['device']}: at most "
        f"{format_size(told['peak_resident'])} of {format_size(told['budget'])} on the card, "
        f"{format_size(told['moved_in'])} moved in and {format_size(told['moved_out'])} out"
    )
