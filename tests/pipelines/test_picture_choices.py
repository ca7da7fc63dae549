"""Quality and format of pictures are what is asked for, and otherwise no worse than the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import vramx
from vramx import PictureOptions

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tifffile")
from vramx.pipelines.enlarging import enlarge_file, enlarge_folder  # noqa: E402

from . import picture_files as files  # noqa: E402


@pytest.fixture(scope="module")
def sr() -> Any:
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
        with vramx.super_resolution(nn.Upsample(scale_factor=2), **options) as opened:
            yield opened


@pytest.mark.parametrize("source", ["in.png", "in.jpg"])
def test_a_jpeg_file_has_the_quality_that_is_asked_for(
    sr: Any, tmp_path: Path, source: str
) -> None:
    files.scene_in("RGB").save(tmp_path / source, **({"quality": 99} if "j" in source else {}))
    files.scene_in("RGB").save(tmp_path / "wanted.jpg", quality=40)
    sr.enlarge_picture(tmp_path / source, tmp_path / "out.jpg", PictureOptions(quality=40))
    with Image.open(tmp_path / "out.jpg") as made, Image.open(tmp_path / "wanted.jpg") as wanted:
        assert made.quantization == wanted.quantization


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_a_lower_quality_takes_less(sr: Any, tmp_path: Path, suffix: str) -> None:
    files.scene_in("RGB").save(tmp_path / "in.png")
    sizes = []
    for quality in (None, 95, 30):
        target = tmp_path / f"{quality}{suffix}"
        sr.enlarge_picture(tmp_path / "in.png", target, PictureOptions(quality=quality))
        sizes.append(target.stat().st_size)
    assert sizes[0] == sizes[1] > 2 * sizes[2]


def test_what_lost_nothing_may_be_asked_to_lose(sr: Any, tmp_path: Path) -> None:
    files.scene_in("RGB").save(tmp_path / "in.webp", lossless=True)
    sr.enlarge_picture(tmp_path / "in.webp", tmp_path / "same.webp")
    sr.enlarge_picture(tmp_path / "in.webp", tmp_path / "less.webp", PictureOptions(quality=80))
    assert b"VP8L" in (tmp_path / "same.webp").read_bytes()[:64]
    assert b"VP8L" not in (tmp_path / "less.webp").read_bytes()[:64]


@pytest.mark.parametrize(
    ("target", "options", "kind", "message"),
    [
        ("out.jpg", {"quality": 0}, vramx.ConfigError, "from 1 to 100, not 0"),
        ("out.jpg", {"quality": 101}, vramx.ConfigError, "from 1 to 100, not 101"),
        ("out.jpg", {"quality": "high"}, vramx.ConfigError, "from 1 to 100, not 'high'"),
        ("out.jpg", {"quality": True}, vramx.ConfigError, "from 1 to 100, not True"),
        ("out.png", {"quality": 90}, vramx.ConfigError, "PNG files have no quality.*JPEG, WEBP"),
        ("out.png", {"format": "jpeg"}, vramx.MediaError, "JPEG was asked for: name it out.jpeg"),
        ("out.png", {"format": "docx"}, vramx.ConfigError, "'docx' is no picture format"),
        ("out.png", {"format": ""}, vramx.ConfigError, "'' is no picture format"),
    ],
)
def test_a_choice_that_is_none_is_refused(
    sr: Any, tmp_path: Path, target: str, options: Any, kind: type[Exception], message: str
) -> None:
    files.scene_in("RGB").save(tmp_path / "in.png")
    paths = (tmp_path / "in.png", tmp_path / target)
    for enlarge in (
        lambda how: sr.enlarge_picture(*paths, how),
        lambda how: enlarge_file(sr, *paths, picture=how),
    ):
        with pytest.raises(kind, match=message):
            enlarge(PictureOptions(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize("name", ["jpg", "JPEG", ".jpeg"])
def test_a_format_goes_by_any_of_its_suffixes(sr: Any, tmp_path: Path, name: str) -> None:
    files.scene_in("RGB").save(tmp_path / "in.png")
    sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.jpg", PictureOptions(format=name))
    with Image.open(tmp_path / "out.jpg") as made:
        assert made.format == "JPEG"


def test_pictures_of_a_folder_become_one_format_and_none_the_other(sr: Any, tmp_path: Path) -> None:
    (source := tmp_path / "in").mkdir()
    for name in ("a.png", "a.tif", "b.jpg"):
        files.scene_in("RGB").save(source / name)
    done = enlarge_folder(sr, source, tmp_path / "out", PictureOptions(format="webp", quality=50))
    assert not done.failed
    names = {each.source.name: each.target.name for each in done.made}
    assert names == {"a.png": "a.png.webp", "a.tif": "a.tif.webp", "b.jpg": "b.webp"}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as made:
            assert made.format == "WEBP"
    again = enlarge_folder(sr, source, tmp_path / "out", PictureOptions(format="webp", quality=50))
    assert (len(again.made), len(again.skipped)) == (0, 3)


def test_a_quality_is_for_those_of_a_folder_that_have_one(sr: Any, tmp_path: Path) -> None:
    (source := tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg"):
        files.scene_in("RGB").save(source / name)
    done = enlarge_folder(sr, source, tmp_path / "out", PictureOptions(quality=40))
    assert not done.failed
    files.scene_in("RGB").save(tmp_path / "wanted.jpg", quality=40)
    with (
        Image.open(tmp_path / "out" / "b.jpg") as made,
        Image.open(tmp_path / "wanted.jpg") as wanted,
    ):
        assert made.quantization == wanted.quantization


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0}, "from 1 to 100"),
        ({"format": "tiff", "quality": 50}, "TIFF files have no quality"),
        ({"format": "docx"}, "no picture format"),
    ],
)
def test_a_choice_for_a_folder_that_is_none_is_refused_before_the_first(
    sr: Any, tmp_path: Path, options: Any, message: str
) -> None:
    (source := tmp_path / "in").mkdir()
    files.scene_in("RGB").save(source / "a.png")
    with pytest.raises(vramx.ConfigError, match=message):
        enlarge_folder(sr, source, tmp_path / "out", PictureOptions(**options))
    assert not (tmp_path / "out").exists()


def test_what_is_no_picture_has_none_of_its_choices(sr: Any, tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(vramx.ConfigError, match="is no picture"):
        enlarge_file(
            sr, tmp_path / "in.mp4", tmp_path / "out.mp4", picture=PictureOptions(quality=50)
        )
    with pytest.raises(vramx.MediaError, match=r"named as a picture, but .*in\.mp4 cannot be read"):
        enlarge_file(sr, tmp_path / "in.mp4", tmp_path / "out.png")
