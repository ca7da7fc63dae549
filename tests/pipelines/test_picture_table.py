"""Picture files as phones, cameras and programs make them, in and out: the table of docs."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from torch import nn

import vramx

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
from PIL import ImageCms, ImageOps  # noqa: E402

from . import picture_files as files  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / "docs" / "files.md"
ALL = "profile, EXIF, XMP, resolution"
NO_RESOLUTION = "profile, EXIF, XMP"
SRGB = "sRGB profile, EXIF, XMP, resolution"
BARE = "EXIF, XMP, resolution"


class Case(NamedTuple):
    """A file that is made, and what becomes of it."""

    kind: str
    pixels: str
    make: Callable[[Path], None]
    suffix: str
    target: str
    kept: str
    warns: str | None = None

    @property
    def row(self) -> tuple[str, ...]:
        """As the table of docs has it."""
        return (self.kind, self.pixels, self.target, self.kept)


def pillow(
    kind: str, mode: str, suffix: str, target: str, kept: str = "", what: str = "", **options: Any
) -> Case:
    warns = options.pop("warns", None)
    make = partial(files.by_pillow, mode=mode, kind=kind, beside=bool(kept), **options)
    return Case(kind, what or mode, make, suffix, target, kept or "pixels alone", warns)


def deep(kind: str, what: str, make: Callable[[Path], None], target: str, **more: Any) -> Case:
    suffix = ".png" if kind == "PNG" else ".tif"
    return Case(kind, what, make, suffix, target, more.get("kept", ALL), more.get("warns"))


def tiff(channels: int, dtype: str, **options: Any) -> Callable[[Path], None]:
    return partial(files.by_tifffile, channels=channels, dtype=dtype, **options)


def png(channels: int, **options: Any) -> Callable[[Path], None]:
    return partial(files.deep_png, channels=channels, **options)


TABLE = [
    *(pillow("PNG", mode, ".png", ".png", ALL) for mode in ("L", "LA", "RGB", "RGBA", "P", "1")),
    pillow("PNG", "P with one transparent", ".png", ".png", ALL),
    pillow("PNG", "RGB", ".png", ".tif", ALL),
    pillow("PNG", "RGB", ".png", ".jpg", ALL),
    pillow("PNG", "RGBA", ".png", ".webp", NO_RESOLUTION),
    pillow("PNG", "RGB", ".png", ".avif", NO_RESOLUTION),
    deep("PNG", "grey, 16 bits", png(1), ".png"),
    deep("PNG", "RGB, 16 bits", png(3), ".png"),
    deep("PNG", "RGBA, 16 bits", png(4), ".png"),
    deep("PNG", "RGB, 16 bits, lying", png(3, turn=6), ".png"),
    deep("PNG", "RGB, 16 bits", png(3), ".tif"),
    deep("PNG", "RGB, 16 bits", png(3), ".jpg", warns="16 bits a channel, and JPEG keeps 8"),
    *(pillow("TIFF", mode, ".tif", ".tif", ALL) for mode in ("L", "LA", "RGB", "RGBA", "1")),
    pillow("TIFF", "RGB", ".tif", ".tif", ALL, what="RGB, LZW", compression="tiff_lzw"),
    pillow("TIFF", "RGB", ".tif", ".png", ALL),
    deep("TIFF", "grey, 16 bits", tiff(1, "uint16"), ".tif"),
    deep("TIFF", "grey, 16 bits, big-endian", tiff(1, "uint16", byteorder=">"), ".png"),
    deep("TIFF", "grey and alpha, 16 bits", tiff(2, "uint16"), ".tif"),
    deep("TIFF", "grey and alpha, 16 bits", tiff(2, "uint16"), ".png"),
    deep("TIFF", "RGB, 16 bits", tiff(3, "uint16"), ".tif"),
    deep(
        "TIFF", "RGB, 16 bits, big-endian, lying", tiff(3, "uint16", byteorder=">", turn=5), ".tif"
    ),
    deep(
        "TIFF",
        "RGB, 16 bits, Deflate with predictor",
        tiff(3, "uint16", compression="zlib", predictor=True),
        ".png",
    ),
    deep(
        "TIFF",
        "RGB, 16 bits, LZW",
        partial(files.packed_tiff, algorithm="lzw"),
        ".tif",
        kept="pixels alone",
    ),
    deep("TIFF", "RGBA, 16 bits", tiff(4, "uint16"), ".tif"),
    deep("TIFF", "grey, 32 bits floating point", tiff(1, "float32"), ".tif"),
    deep("TIFF", "RGB, 32 bits floating point", tiff(3, "float32"), ".tif"),
    deep("TIFF", "RGBA, 32 bits floating point", tiff(4, "float32"), ".tif"),
    pillow("TIFF", "CMYK", ".tif", ".tif", BARE, icc_profile=None, warns="is in CMYK and has no"),
    pillow("TIFF", "LAB", ".tif", ".png", SRGB, icc_profile=None),
    *(pillow("JPEG", mode, ".jpg", ".jpg", ALL, quality=92) for mode in ("L", "RGB")),
    pillow("JPEG", "RGB", ".jpg", ".jpg", ALL, what="RGB, quality 99", quality=99, subsampling=0),
    *(
        pillow("JPEG", "RGB", ".jpg", ".png", ALL, what=f"RGB, orientation {turn}", turn=turn)
        for turn in range(2, 9)
    ),
    pillow("JPEG", "CMYK", ".jpg", ".jpg", BARE, icc_profile=None, warns="is in CMYK and has no"),
    pillow("WEBP", "RGB", ".webp", ".webp", NO_RESOLUTION, what="RGB, lossless", lossless=True),
    pillow("WEBP", "RGBA", ".webp", ".webp", NO_RESOLUTION, what="RGBA, lossless", lossless=True),
    pillow("WEBP", "RGB", ".webp", ".webp", NO_RESOLUTION, quality=80),
    pillow("AVIF", "RGB", ".avif", ".png", NO_RESOLUTION, quality=80),
    pillow("AVIF", "RGBA", ".avif", ".avif", NO_RESOLUTION, quality=80),
    pillow("HEIF", "RGB", ".heic", ".png", NO_RESOLUTION),
    pillow("HEIF", "RGB", ".heic", ".heic", NO_RESOLUTION),
    Case("HEIF", "RGB, 10 bits", files.deep_heif, ".heic", ".png", NO_RESOLUTION),
    Case(
        "AVIF",
        "RGB, 10 bits, 8 of which are read",
        files.deep_avif,
        ".avif",
        ".png",
        "pixels alone",
        warns="has 10 bits a channel, of which Pillow reads 8",
    ),
    pillow("BMP", "RGB", ".bmp", ".bmp"),
    pillow("GIF", "P", ".gif", ".png"),
    pillow("TGA", "RGBA", ".tga", ".png"),
    pillow("PPM", "RGB", ".ppm", ".png"),
    pillow("JPEG2000", "RGB", ".jp2", ".jp2"),
]


@pytest.fixture(scope="module")
def sr() -> Any:
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
        with vramx.super_resolution(nn.Upsample(scale_factor=1), **options) as opened:
            yield opened


def shown(path: Path) -> Any:
    """What a file shows, as other libraries read it: upright, in RGB or grey."""
    pixels = files.read(path)
    if pixels.dtype not in (np.uint8, np.bool_):
        turn = orientation(path)
        planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
        upright = [upright_plane(planes[:, :, each], turn) for each in range(planes.shape[2])]
        return np.stack(upright, axis=2).reshape(*upright[0].shape, *pixels.shape[2:])
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    with_alpha = "RGBA" if "transparency" in image.info else "RGB"
    wanted = {"CMYK": "RGB", "1": "L", "P": with_alpha}.get(image.mode, image.mode)
    return np.asarray(image.convert(wanted))


def orientation(path: Path) -> int:
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            tag = file.pages[0].tags.get(files.ORIENTATION)
            return 1 if tag is None else int(tag.value)
    with Image.open(path) as image:
        return int(image.getexif().get(files.ORIENTATION, 1))


def upright_plane(plane: Any, turn: int) -> Any:
    image = Image.fromarray(np.ascontiguousarray(plane.astype(plane.dtype.newbyteorder("="))))
    image.getexif()[files.ORIENTATION] = turn
    return np.asarray(ImageOps.exif_transpose(image))


def beside(path: Path) -> dict[str, Any]:
    """What is beside the pixels."""
    if path.suffix != ".tif":
        with Image.open(path) as image:
            dpi = image.info.get("dpi")
            return {
                "profile": image.info.get("icc_profile"),
                "EXIF": dict(image.getexif()).get(files.MAKE),
                "XMP": image.info.get("xmp"),
                "resolution": dpi and round(float(dpi[0])),
                "turn": image.getexif().get(files.ORIENTATION),
            }
    with tifffile.TiffFile(path) as file:
        tags = {tag.code: tag.value for tag in file.pages[0].tags}
    dpi = tags.get(282)
    return {
        "profile": tags.get(files.ICC_TAG),
        "EXIF": tags.get(files.MAKE),
        "XMP": tags.get(files.XMP_TAG),
        "resolution": dpi and round(dpi[0] / dpi[1]),
        "turn": tags.get(files.ORIENTATION),
    }


def loss_of_the_format(pixels: Any, path: Path) -> float:
    """The mean error, in steps of 255, of what the format itself loses at quality 95."""
    options = {"quality": 95, **({"subsampling": 0} if path.suffix == ".jpg" else {})}
    Image.fromarray(pixels).save(path, **options)
    return mean_error(files.read(path), pixels)


def mean_error(made: Any, wanted: Any) -> float:
    white = files.WHITE[str(wanted.dtype)]
    return float(np.abs(made.astype(float) - wanted.astype(float)).mean() / white * 255)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: " ".join(case.row[:3]))
def test_a_file_keeps_its_pixels_and_what_is_beside_them(
    sr: Any, tmp_path: Path, case: Case
) -> None:
    if "HEIF" in case.kind:
        pytest.importorskip("pillow_heif").register_heif_opener()
    source, target = tmp_path / f"in{case.suffix}", tmp_path / f"out{case.target}"
    case.make(source)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sr.enlarge_picture(source, target)
    messages = [str(each.message) for each in told if each.category is RuntimeWarning]
    assert [case.warns in each for each in messages] == [True] if case.warns else not messages

    wanted, made = shown(source), files.read(target)
    assert made.shape == wanted.shape
    if case.target in (".jpg", ".webp", ".avif", ".heic") and "lossless" not in case.pixels:
        if wanted.dtype == np.uint16:
            wanted = (wanted / 257).round().astype(np.uint8)
        loss = loss_of_the_format(wanted, tmp_path / f"loss{case.target}")
        assert mean_error(made, wanted) <= loss + 0.2
    else:
        assert made.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("=")
        # Of three equal floats the mean may differ in the last bit.
        most = 1e-6 if wanted.dtype == np.float32 else 0
        assert np.abs(made.astype(float) - wanted.astype(float)).max() <= most

    everything = {
        "profile": files.SRGB,
        "EXIF": files.CAMERA,
        "XMP": files.XMP,
        "resolution": files.DPI,
    }
    found = beside(target)
    if "sRGB" in case.kept:  # whose date is that of its making
        profile = ImageCms.getOpenProfile(io.BytesIO(found["profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
        del everything["profile"]
    for name, value in everything.items():
        if name in case.kept:
            assert found[name] == value, name
    assert found["turn"] in (None, 1)


def test_the_table_of_docs_is_of_what_is_tried() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| from | pixels |") :].split("\n\n")[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
    assert [tuple(row) for row in rows] == [case.row for case in TABLE]
