"""What a picture's file claims is held against its bytes before it is decoded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

import vramx

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

from vramx.pipelines.pictures import load_picture, upright_size  # noqa: E402
from vramx.pipelines.pictures import reading as reading_module  # noqa: E402
from vramx.pipelines.pictures.clips import load_clip  # noqa: E402

LARGE = (2_100, 2_000)
#: Formats with what packs a picture of one colour best.
BEST: list[tuple[str, str, dict[str, Any]]] = [
    ("AVIF", "RGB", {"quality": 1}),
    ("BMP", "1", {}),
    ("GIF", "L", {}),
    ("JPEG", "L", {"progressive": True, "optimize": True, "quality": 1}),
    ("JPEG", "RGB", {"progressive": True, "optimize": True, "quality": 1}),
    ("JPEG2000", "L", {"quality_layers": [1000]}),
    ("PCX", "1", {}),
    ("PNG", "1", {"compress_level": 9}),
    ("PPM", "1", {}),
    ("QOI", "RGB", {}),
    ("SGI", "L", {}),
    ("TGA", "L", {"compression": "tga_rle"}),
    ("TIFF", "1", {"compression": "group4"}),
    ("WEBP", "RGB", {"lossless": True}),
]


@pytest.mark.parametrize(("name", "mode", "options"), BEST)
def test_an_empty_large_picture_opens_however_small_its_file(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any]
) -> None:
    Image.new(mode, LARGE).save(path := tmp_path / "a", name, **options)
    assert upright_size(path) == LARGE


def damaged_png(path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", (48, 40)).save(path, "PNG")
    head = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    content = path.read_bytes()
    path.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])


def damaged_qoi(path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", (48, 40)).save(path, "QOI")
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack(">II", *size) + content[12:])


def damaged_tiff(path: Path, size: tuple[int, int], page: int = 0) -> None:
    """Claim another height for a page."""
    pages = [Image.new("RGB", (48, 40)), Image.new("RGB", (48, 40))]
    pages[0].save(path, "TIFF", save_all=page > 0, append_images=pages[:page])
    content = bytearray(path.read_bytes())
    place = 0
    for _ in range(page + 1):
        place = content.index(struct.pack("<H", 257), place + 1)
    assert int.from_bytes(content[place + 8 : place + 12], "little") == 40
    struct.pack_into("<HHII", content, place, 257, 4, 1, size[1])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "size", "message"),
    [
        (damaged_png, (10_000, 10_000), r"claims 10000x10000 pixels, but the \d+ bytes of a PNG"),
        (damaged_png, (1, 2**27), "claims 1x134217728 pixels, and pictures of at most 1048576"),
        (damaged_qoi, (10_000, 10_000), r"claims 10000x10000 pixels, but the \d+ bytes of a QOI"),
        (damaged_qoi, (1, 100_000_000), "claims 1x100000000 pixels, and pictures of at most"),
        (damaged_tiff, (48, 1_000_000), "claims 48x1000000 pixels, but has 1920: it is damaged"),
        (damaged_png, (100_000, 100_000), "exceeds limit"),
    ],
)  # fmt: skip
def test_a_head_that_claims_more_than_the_file_has_is_refused_before_it_is_decoded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Any,
    size: tuple[int, int],
    message: str,
) -> None:
    damage(path := tmp_path / "a", size)
    monkeypatch.setattr(reading_module, "as_rgb", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(vramx.MediaError, match=message):
        load_picture(path)


def test_a_later_page_is_looked_at_like_the_first(tmp_path: Path) -> None:
    damaged_tiff(path := tmp_path / "a", (48, 500_000), page=1)
    with pytest.raises(vramx.MediaError, match="claims 48x500000 pixels, but has 1920"):
        load_clip(path)
