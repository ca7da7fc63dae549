"""Pictures that move, and pages: files of several frames, into others of the same kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vramx.errors import MediaError
from vramx.pipelines.files import TargetSize
from vramx.pipelines.pictures.deep import is_deep_png, is_deep_tiff
from vramx.pipelines.pictures.formats import check_fits
from vramx.pipelines.pictures.reading import frame_count, from_pil, opened, tell_lost_bits
from vramx.pipelines.pictures.tiff import TiffWriter
from vramx.pipelines.pictures.types import FilePicture, Pixels
from vramx.pipelines.pictures.writing import (
    PutRows,
    coding_of,
    layout_of,
    pillow_arguments,
    typed_errors,
)
from vramx.writing import written_whole

#: Formats of which all frames are taken; of others with several it is refused.
_KINDS = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
_CLEAR, _RESTORE = 2, 3  # what becomes of a GIF's frame after its time
_OPAQUE = 128  # from here on a GIF's pixel is shown


@dataclass(frozen=True)
class Clip:
    """Frames of a file, each as it is shown.

    Attributes
    ----------
    kind : str
        Pillow's name of the format.
    frames : list of FilePicture
        All of one size and kind but for pages.
    timing : dict
        Pillow's arguments for durations, repetition and the like, as far as the file says them.
    """

    kind: str
    frames: Sequence[FilePicture]
    timing: dict[str, Any]


def load_clip(path: Path) -> Clip | None:
    """Read all frames of a file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Clip or None
        None where it holds a single picture.

    Raises
    ------
    MediaError
        If it cannot be read, or is of a kind that is not taken.
    """
    with opened(path) as image:
        if not isinstance(image, Image.Image) or (count := frame_count(image)) == 1:
            return None
        if image.format not in _KINDS:
            raise MediaError(
                f"{path} has {count} frames; of {image.format} only single ones can be read"
            )
        tell_lost_bits(image, path)
        timing: dict[str, Any] = {}
        if "loop" in image.info:
            timing["loop"] = image.info["loop"]
        if image.info.get("default_image"):
            timing["default_image"] = True
        frames, durations, disposals = [], [], []
        for number in range(count):
            image.seek(number)
            _check_bits(image, path)
            frames.append(from_pil(image, path))
            durations.append(image.info.get("duration"))
            disposals.append(getattr(image, "disposal_method", 0))
        timing["duration"] = durations[1:] if "default_image" in timing else durations
        if image.format == "TIFF":
            return Clip("TIFF", frames, {})
        frames = _alike(frames)
        if image.format == "GIF":
            clears = frames[0].pixels.shape[2] == 4 or _RESTORE in disposals
            timing["disposal"] = [_CLEAR] * count if clears else disposals
        if None in timing["duration"]:
            del timing["duration"]
        return Clip(str(image.format), frames, timing)


def _check_bits(image: Image.Image, path: Path) -> None:
    tags = getattr(image, "tag_v2", None)
    if is_deep_png(image) or (tags is not None and is_deep_tiff(tags)):
        raise MediaError(
            f"{path} has several frames of more than 8 bits a channel: save each as a file"
        )


def _alike(frames: Sequence[FilePicture]) -> list[FilePicture]:
    """Return frames in RGB, with alpha if one of them has some that shows."""
    images = [Image.fromarray(each.pixels) for each in frames]
    clear = any(
        "A" in each.mode and each.getchannel("A").getextrema() != (255, 255) for each in images
    )
    mode = "RGBA" if clear else "RGB"
    return [
        replace(each, pixels=np.asarray(image.convert(mode))) for each, image in zip(frames, images)
    ]


@contextlib.contextmanager
def clip_target(
    path: Path, clip: Clip, *, size: TargetSize, quality: int | None
) -> Iterator[Callable[[int], PutRows]]:
    """Write a clip, whole or not at all.

    Parameters
    ----------
    path : Path
        The file, of the clip's format.
    clip : Clip
        What was read.
    size : callable
        Tells what size frames become.
    quality : int, optional
        As `picture_target` has it.

    Yields
    ------
    callable
        Takes the number of a frame, in order, and returns what takes its rows.

    Raises
    ------
    MediaError
        If the format does not take such frames, or the file cannot be written.
    """
    name = clip.kind
    coding = coding_of(name, clip.frames[0].beside, quality)
    for each in clip.frames:
        check_fits(path, name, layout_of(each.pixels, size), coding)
    with contextlib.ExitStack() as scope:
        with typed_errors(path, name):
            file = scope.enter_context(written_whole(path))
            frames: _Pages | _Moving
            if name == "TIFF":
                frames = _Pages(file, clip, size)
            else:
                frames = _Moving(file, clip, size, coding)

        def frame(number: int) -> PutRows:
            with typed_errors(path, name):
                frames.begin(number)

            def put(rows: Pixels) -> None:
                with typed_errors(path, name):
                    frames.put(rows)

            return put

        yield frame
        with typed_errors(path, name):
            frames.finish()
            scope.close()


class _Pages:
    """Pages one after another, each with what is beside it."""

    def __init__(self, file: BinaryIO, clip: Clip, size: TargetSize) -> None:
        self._clip, self._size = clip, size
        nbytes = sum(layout_of(each.pixels, size).nbytes for each in clip.frames)
        self._writer = TiffWriter(file, nbytes)
        self.put = self._writer.put
        self.finish = self._writer.finish

    def begin(self, number: int) -> None:
        page = self._clip.frames[number]
        self._writer.page(layout_of(page.pixels, self._size), page.beside)


class _Moving:
    """Frames that are gathered, since Pillow writes them together."""

    def __init__(
        self, file: BinaryIO, clip: Clip, size: TargetSize, coding: dict[str, Any]
    ) -> None:
        self._file, self._kind = file, clip.kind
        self._layout = layout_of(clip.frames[0].pixels, size)
        beside = clip.frames[0].beside
        self._arguments = {**coding, **clip.timing, **pillow_arguments(beside)}
        if clip.kind == "PNG":
            # Each frame is whole and takes the place of the one before it.
            self._arguments.update(disposal=0, blend=0)
            if beside.xmp is not None:
                self._arguments["pnginfo"] = chunks = PngInfo()
                chunks.add_itxt("XML:com.adobe.xmp", beside.xmp.decode("utf-8", "replace"))
        self._frames: list[Image.Image] = []
        self._low = 0

    def begin(self, _: int) -> None:
        if self._frames:
            self._shrink()
        self._frames.append(Image.new(self._layout.mode, (self._layout.width, self._layout.height)))
        self._low = 0

    def put(self, rows: Pixels) -> None:
        self._frames[-1].paste(Image.fromarray(rows), (0, self._low))
        self._low += len(rows)

    def finish(self) -> None:
        self._shrink()
        first, *others = self._frames
        first.save(self._file, self._kind, save_all=True, append_images=others, **self._arguments)

    def _shrink(self) -> None:
        if self._kind == "GIF":
            self._frames[-1] = _with_palette(self._frames[-1])


def _with_palette(frame: Image.Image) -> Image.Image:
    """Return a frame in as many colours as a GIF's have, and one for what is clear."""
    if frame.mode != "RGBA":
        return frame.quantize(256, Image.Quantize.MEDIANCUT)
    made = frame.convert("RGB").quantize(255, Image.Quantize.MEDIANCUT)
    clear = frame.getchannel("A").point([255 * (each < _OPAQUE) for each in range(256)])
    made.paste(255, mask=clear)
    made.info["transparency"] = 255
    return made
