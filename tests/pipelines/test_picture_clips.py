"""Pictures that move and pages keep their frames, times, repetition and what is beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import vramx

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
from PIL import GifImagePlugin, ImageDraw, ImageSequence  # noqa: E402

from vramx.pipelines.enlarging import enlarge_file  # noqa: E402

from . import picture_files as files  # noqa: E402

DURATIONS = [100, 250, 70, 400]


@contextlib.contextmanager
def enlarging(scale: int) -> Iterator[Any]:
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
        with vramx.super_resolution(nn.Upsample(scale_factor=scale), **options) as opened:
            yield opened


@pytest.fixture
def sr() -> Any:
    with enlarging(2) as opened:
        yield opened


@pytest.fixture
def same_size() -> Any:
    with enlarging(1) as opened:
        yield opened


def frames(mode: str) -> list[Any]:
    """A disc that goes across few colours, or across nothing."""
    made = []
    for step in range(len(DURATIONS)):
        frame = Image.new("RGBA", (24, 16), (0, 0, 0, 0) if mode == "RGBA" else (20, 60, 90, 255))
        ImageDraw.Draw(frame).rectangle((5 * step, 3, 5 * step + 6, 12), fill=(250, 40 * step, 9))
        made.append(frame.convert(mode))
    return made


def write(path: Path, kind: str, mode: str, **options: Any) -> None:
    first, *others = frames(mode)
    everything = {"duration": DURATIONS, "loop": 3, **options}
    first.save(path, kind, save_all=True, append_images=others, **everything)


def composed(path: Path) -> tuple[list[Any], list[int], Any]:
    """The frames as they are shown, their durations, and how often all are."""
    with Image.open(path) as image:
        shown, durations = [], []
        for frame in ImageSequence.Iterator(image):
            shown.append(np.asarray(frame.convert("RGBA")).copy())
            durations.append(round(frame.info.get("duration", 0)))
        return shown, durations, image.info.get("loop")


def doubled(pixels: Any) -> Any:
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def same(made: Any, wanted: Any) -> bool:
    """Whether what shows is the same: colours behind no alpha do not."""
    seen = wanted[:, :, 3:] > 0
    return np.array_equal(made[:, :, 3], wanted[:, :, 3]) and not ((made != wanted) & seen).any()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {"disposal": 1}),
        ("GIF", {"disposal": 2}),
        ("GIF", {"disposal": 3}),
        ("PNG", {"disposal": 0, "blend": 1}),
        ("PNG", {"disposal": 1}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_what_moves_is_enlarged_frame_by_frame(
    tmp_path: Path, kind: str, mode: str, options: dict[str, Any]
) -> None:
    scale = 1 if mode == "RGBA" else 2  # alpha that is enlarged is between what it was
    suffix = f".{kind.lower()}"
    write(source := tmp_path / f"in{suffix}", kind, mode, **options)
    wanted, durations, loop = composed(source)
    assert len(wanted) == len(DURATIONS)
    with enlarging(scale) as sr:
        done = enlarge_file(sr, source, target := tmp_path / f"out{suffix}")
    size = (24 * scale, 16 * scale)
    assert (done.kind, done.frames, done.size) == ("picture", len(DURATIONS), size)
    made = composed(target)
    assert made[1:] == (durations, loop)
    enlarged = [each.repeat(scale, axis=0).repeat(scale, axis=1) for each in wanted]
    assert all(same(one, other) for one, other in zip(made[0], enlarged, strict=True))


@pytest.mark.parametrize("disposal", [1, 2])
def test_a_gif_keeps_how_frames_go(sr: Any, tmp_path: Path, disposal: int) -> None:
    write(tmp_path / "in.gif", "GIF", "RGB", disposal=disposal)
    sr.enlarge_picture(tmp_path / "in.gif", tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as image:
        assert isinstance(image, GifImagePlugin.GifImageFile)
        found = [image.disposal_method for _ in ImageSequence.Iterator(image)]
    assert found == [disposal] * len(DURATIONS)


def test_a_gif_that_is_shown_once_is_shown_once(sr: Any, tmp_path: Path) -> None:
    write(tmp_path / "in.gif", "GIF", "RGB", loop=None)
    assert composed(tmp_path / "in.gif")[2] is None
    sr.enlarge_picture(tmp_path / "in.gif", tmp_path / "out.gif")
    assert composed(tmp_path / "out.gif")[2] is None


def test_a_png_that_moves_keeps_the_picture_for_what_shows_no_motion(
    sr: Any, tmp_path: Path
) -> None:
    write(tmp_path / "in.png", "PNG", "RGB", default_image=True, duration=DURATIONS[1:])
    sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png")
    for name, scale in (("in", 1), ("out", 2)):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert (image.size, image.n_frames) == ((24 * scale, 16 * scale), 4)
            assert image.info["default_image"]
    made, durations, _ = composed(tmp_path / "out.png")
    assert durations[1:] == DURATIONS[1:]
    wanted = composed(tmp_path / "in.png")[0]
    assert all(same(one, doubled(other)) for one, other in zip(made, wanted, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_beside_the_frames_is_kept(sr: Any, tmp_path: Path, kind: str) -> None:
    suffix = f".{kind.lower()}"
    files_beside = {"icc_profile": files.SRGB, "exif": exif(), "xmp": files.XMP}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        files_beside["pnginfo"] = PngInfo()
        files_beside["pnginfo"].add_itxt("XML:com.adobe.xmp", files.XMP.decode())
    write(tmp_path / f"in{suffix}", kind, "RGB", **files_beside)
    sr.enlarge_picture(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        image.load()
        assert image.info["icc_profile"] == files.SRGB
        assert image.info["xmp"] == files.XMP
        assert image.getexif()[files.MAKE] == files.CAMERA


def exif() -> Any:
    made = Image.Exif()
    made[files.MAKE] = files.CAMERA
    return made


def test_pages_keep_their_sizes_kinds_and_what_is_beside_each(
    same_size: Any, tmp_path: Path
) -> None:
    sizes, modes = [(24, 16), (9, 30), (15, 15), (24, 16)], ["RGB", "L", "RGBA", "I;16"]
    first, *others = (
        Image.fromarray(files.scene(1, "uint16")[: size[1], : size[0]])
        if mode == "I;16"
        else files.scene_in(mode).resize(size)
        for size, mode in zip(sizes, modes)
    )
    first.save(
        tmp_path / "in.tif", save_all=True, append_images=others, dpi=(72, 72), icc_profile=b"them"
    )
    done = enlarge_file(same_size, tmp_path / "in.tif", tmp_path / "out.tif")
    assert done.frames == 4
    with (
        tifffile.TiffFile(tmp_path / "in.tif") as one,
        tifffile.TiffFile(tmp_path / "out.tif") as other,
    ):
        assert len(other.pages) == 4
        for given, made in zip(one.pages, other.pages):
            assert np.array_equal(made.asarray(), given.asarray())
            assert made.tags["XResolution"].value == (72, 1)
            assert made.tags["InterColorProfile"].value == b"them"
    with Image.open(tmp_path / "out.tif") as image:
        assert image.n_frames == 4
        for number, (width, height) in enumerate(sizes):
            image.seek(number)
            assert image.size == (width, height)


@pytest.mark.parametrize("target", ["out.png", "out.webp", "out.tif", "out.mp4"])
def test_frames_are_not_lost_in_another_format(sr: Any, tmp_path: Path, target: str) -> None:
    write(tmp_path / "in.gif", "GIF", "RGB")
    with pytest.raises(vramx.MediaError, match=r"GIF of 4 frames|named as a video"):
        sr.enlarge_picture(tmp_path / "in.gif", tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gif"]


def test_several_frames_of_16_bits_are_refused(sr: Any, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "in.tif", files.scene(3, "uint8"), photometric="rgb")
    deep = files.scene(3, "uint16")
    tifffile.imwrite(tmp_path / "in.tif", deep, photometric="rgb", append=True)
    with pytest.raises(vramx.MediaError, match="several frames of more than 8 bits"):
        sr.enlarge_picture(tmp_path / "in.tif", tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()
