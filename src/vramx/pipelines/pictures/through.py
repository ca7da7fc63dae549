"""A picture's file through what changes its pixels, into another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vramx.errors import MediaError
from vramx.pipelines.files import (
    TargetSize,
    check_paths,
    check_room,
    claimed,
    least_picture_bytes,
    same_size,
)
from vramx.pipelines.options import PictureOptions
from vramx.pipelines.pictures.clips import clip_target, load_clip
from vramx.pipelines.pictures.formats import check_quality, writable_format
from vramx.pipelines.pictures.reading import load_picture
from vramx.pipelines.pictures.types import Pixels
from vramx.pipelines.pictures.writing import PutRows, layout_of, picture_target

#: Takes a picture and what takes the rows of what it becomes, from the top on.
Change = Callable[[Pixels, PutRows], None]


def change_picture(
    source: Path,
    target: Path,
    change: Change,
    *,
    options: PictureOptions = PictureOptions(),
    size: TargetSize = same_size,
    overwrite: bool = False,
) -> int:
    """Read a picture, or all frames of one that moves, and write what becomes of it.

    Other processes are kept from making the same meanwhile.

    Parameters
    ----------
    source, target : Path
        What to read and to write.
    change : callable
        Changes pixels.
    options : PictureOptions
        How the target is written.
    size : callable
        Tells what size that makes them.
    overwrite : bool
        Whether the target may exist.

    Returns
    -------
    int
        How many frames there are.

    Raises
    ------
    TakenError
        If another process makes the target.
    MediaError
        If a file cannot be read or written, the disk has no room, or the format has no place for
        what the picture has.
        What can be told before the work is.
    ConfigError
        If the format is none, or has no quality.
    """
    name, quality = writable_format(target, options.format), options.quality
    check_quality(quality, name)
    with claimed(target):
        check_paths(source, target, overwrite=overwrite)
        return _change(source, target, name, change, size, quality)


def _change(
    source: Path, target: Path, name: str, change: Change, size: TargetSize, quality: int | None
) -> int:
    clip = load_clip(source)
    if clip is None:
        picture = load_picture(source)
        layout = layout_of(picture.pixels, size)
        check_room(target, least_picture_bytes(layout.samples, name))
        with picture_target(target, layout, picture.beside, quality=quality) as put:
            change(picture.pixels, put)
        return 1
    if name != clip.kind:
        raise MediaError(
            f"{source} is {clip.kind} of {len(clip.frames)} frames, which are kept in a file of "
            f"the same format alone, and {target} is named as {name}"
        )
    # Frames that are like others take next to nothing; pages are stored whole.
    stored = [layout_of(each.pixels, size) for each in clip.frames[: None if name == "TIFF" else 1]]
    check_room(target, sum(least_picture_bytes(each.samples, name) for each in stored))
    with clip_target(target, clip, size=size, quality=quality) as frame:
        for number, each in enumerate(clip.frames):
            change(each.pixels, frame(number))
    return len(clip.frames)
