"""What a format has no room for is refused before the work, and what is read is named."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vramx
from vramx import PictureOptions

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
from PIL import ImageCms  # noqa: E402

from vramx.pipelines.pictures import formats  # noqa: E402

from . import picture_files as files  # noqa: E402


class Counting(nn.Module):
    """Doubles pictures, and counts how many."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture
def network() -> Counting:
    return Counting()


@pytest.fixture
def sr(one_thread: None, network: Counting) -> Any:  # noqa: ARG001
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
        with vramx.super_resolution(network, **options) as opened:
            network.calls = 0
            yield opened


def long(mode: str, length: int) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (length, 1)).save(path)


def tiff(pixels: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **{"photometric": "rgb", **options})


DEEP = np.zeros((8, 8, 3), np.uint16)
FLOATS = np.zeros((8, 8, 3), np.float32)


@pytest.mark.parametrize(
    ("source", "make", "target", "message"),
    [
        ("in.png", long("L", 32_751), "out.jpg", "at most 65500 a side; PNG and TIFF have more"),
        ("in.png", long("L", 8_192), "out.webp", "at most 16383 a side"),
        ("in.png", long("L", 32_768), "out.gif", "at most 65535 a side"),
        ("in.png", long("L", 16_385), "out.avif", "at most 32768 a side"),
        ("in.png", lambda path: Image.new("1", (8_193, 8_193)).save(path), "out.avif", "together"),
        ("in.png", long("RGBA", 8), "out.jpg", "JPEG with mode RGBA.*PNG, TIFF, WebP and AVIF"),
        ("in.png", long("LA", 8), "out.jpg", "JPEG with mode LA.*PNG, TIFF, WebP and AVIF"),
        ("in.png", long("RGB", 8), "out.mp4", "named as a video"),
        ("in.tif", tiff(DEEP), "out.bmp", "16 bits a channel, which PNG and TIFF keep"),
        ("in.tif", tiff(FLOATS), "out.png", "floating point values, which only TIFF keeps"),
        ("in.tif", tiff(FLOATS + 2), "out.tif", "values from 2 to 2, .*divide them"),
        ("in.tif", tiff(FLOATS * np.nan), "out.tif", "values from nan to nan"),
        ("in.tif", tiff(FLOATS[:, :, 0] - 1, photometric="minisblack"), "out.tif", "from -1 to -1"),
        ("in.tif", tiff(FLOATS.astype(np.float16)), "out.tif", "16 bits, floating point: save it"),
        ("in.tif", tiff(DEEP.astype(np.int16)), "out.tif", "16 bits, signed: save it"),
        ("in.tif", tiff(DEEP.astype(np.uint32)), "out.tif", "32 bits, unsigned: save it"),
        ("in.tif", tiff(DEEP, bigtiff=True), "out.tif", "BigTIFF"),
        (
            "in.tif",
            tiff(DEEP.transpose(2, 0, 1), planarconfig="separate"),
            "out.tif",
            "in planes.*channels interleaved",
        ),
        (
            "in.tif",
            tiff(np.zeros((8, 8, 4), np.uint16), photometric="separated"),
            "out.tif",
            "other colours than grey and RGB",
        ),
        ("in.tif", tiff(np.zeros((2, 8, 8, 3), np.uint16)), "out.tif", "several pages"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_work(
    sr: Any,
    network: Counting,
    tmp_path: Path,
    source: str,
    make: Callable[[Path], None],
    target: str,
    message: str,
) -> None:
    make(tmp_path / source)
    with pytest.raises(vramx.MediaError, match=message) as caught:
        sr.enlarge_picture(tmp_path / source, tmp_path / target)
    assert str(tmp_path) in str(caught.value)
    assert network.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == [source]


def test_the_limit_of_pixels_holds_for_deep_pictures_too(
    sr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiff(DEEP)(tmp_path / "in.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    with pytest.raises(vramx.MediaError, match="MAX_IMAGE_PIXELS"):
        sr.enlarge_picture(tmp_path / "in.tif", tmp_path / "out.tif")


@pytest.mark.parametrize(("kind", "colour"), [("unassalpha", 300), ("assocalpha", 600)])
def test_colours_that_alpha_is_multiplied_into_are_as_they_were_before(
    sr: Any, tmp_path: Path, kind: str, colour: int
) -> None:
    pixels = np.full((8, 8, 4), 300, np.uint16)
    pixels[:, :, 3] = 32768
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb", extrasamples=[kind])
    sr.enlarge_picture(tmp_path / "in.tif", tmp_path / "out.tif")
    made = tifffile.imread(tmp_path / "out.tif")
    assert (made[:, :, :3] == colour).all()
    assert (made[:, :, 3] == 32768).all()


def cmyk_profile() -> bytes:
    """A printer's profile of the smallest table: black takes light away, inks their colours."""
    colours = bytearray()
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = (1 - k) * (1 - 0.4 * c - 0.4 * m - 0.1 * y)
        a, b = 60 * (m - 0.5 * c) * (1 - k), 60 * (y - 0.7 * c) * (1 - k)
        colours += bytes([round(255 * light), round(128 + a), round(128 + b)])
    identity = struct.pack(">9i", *(65536 * (each % 4 == 0) for each in range(9)))
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + colours + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    parts = {b"A2B0": table, b"wtpt": white, b"desc": text}
    offset = 128 + 4 + 12 * len(parts)
    places, body = b"", b""
    for name, data in parts.items():
        places += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(parts)) + places + body


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_shown_as_its_profile_says(sr: Any, tmp_path: Path, suffix: str) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    picture.save(tmp_path / f"in{suffix}", icc_profile=cmyk_profile(), dpi=(300, 300))
    sr.enlarge_picture(tmp_path / f"in{suffix}", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as made:
        lab = ImageCms.profileToProfile(
            made,
            ImageCms.ImageCmsProfile(io.BytesIO(made.info["icc_profile"])),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )
        assert round(made.info["dpi"][0]) == 300
    lightness, a, b = np.asarray(lab).astype(np.uint8)[0, 0].view(np.int8)
    assert abs(int(np.uint8(lightness)) - 128) < 6
    assert abs(int(a) - 60) < 6
    assert abs(int(b) - 60) < 6


@pytest.mark.parametrize("profile", [b"no profile", files.SRGB])
def test_a_profile_that_cannot_be_used_is_told(sr: Any, tmp_path: Path, profile: bytes) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "in.jpg", icc_profile=profile)
    with pytest.warns(RuntimeWarning, match="ICC profile that cannot be used"):
        sr.enlarge_picture(tmp_path / "in.jpg", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as made:
        assert "icc_profile" not in made.info
        assert np.abs(np.asarray(made)[0, 0].astype(int) - (255, 0, 0)).max() < 3


@pytest.mark.parametrize(
    ("suffix", "brand", "needed"),
    [
        (".heic", b"heic", r"pip install 'vramx\[heic\]'"),
        (".avif", b"avif", "Pillow 11.3 or newer"),
    ],
)
def test_a_format_without_its_package_is_named_with_what_installs_it(
    sr: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    brand: bytes,
    needed: str,
) -> None:
    monkeypatch.setattr(formats, "_formats", Image.registered_extensions)
    Image.init()
    kind = {".heic": "HEIF", ".avif": "AVIF"}[suffix]
    monkeypatch.setattr(Image, "ID", [each for each in Image.ID if each != kind])
    for registry in (Image.OPEN, Image.SAVE, Image.EXTENSION):
        monkeypatch.delitem(registry, suffix if registry is Image.EXTENSION else kind, False)
    (source := tmp_path / f"in{suffix}").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    for one, other in ((source.name, "out.png"), ("in.png", f"out{suffix}")):
        with pytest.raises(vramx.MediaError, match=needed):
            sr.enlarge_picture(tmp_path / one, tmp_path / other)
    with pytest.raises(vramx.ConfigError, match=needed):
        sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png", PictureOptions(format=suffix))
    assert formats.is_picture_file(source)
    assert formats.is_named_as_picture(source)


def test_nothing_is_told_of_what_is_kept(sr: Any, tmp_path: Path) -> None:
    tiff(DEEP)(tmp_path / "in.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sr.enlarge_picture(tmp_path / "in.tif", tmp_path / "out.png")
