"""Pictures in files are enlarged with what belongs to them, or refused, and never half written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import vramx

Image = pytest.importorskip("PIL.Image")
skimage_data = pytest.importorskip("skimage.data")
from PIL import JpegImagePlugin  # noqa: E402

from vramx.pipelines.enlarging import enlarge_file, enlarge_folder  # noqa: E402
from vramx.pipelines.pictures import Beside, layout_of, picture_target  # noqa: E402


@pytest.fixture
def sr(one_thread: None) -> Any:  # noqa: ARG001
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
        with vramx.super_resolution(nn.Upsample(scale_factor=2), **options) as opened:
            yield opened


def cat() -> Any:
    return Image.fromarray(np.ascontiguousarray(skimage_data.chelsea()[100:140, 120:150]))


def doubled(picture: Any) -> Any:
    return np.asarray(picture).repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_picture_is_enlarged_with_its_profile_and_upright(
    sr: Any, tmp_path: Path, mode: str
) -> None:
    picture = cat().convert(mode)
    exif = picture.getexif()
    exif[0x0112], exif[0x010F] = 3, "a camera"
    picture.save(tmp_path / "in.png", exif=exif, icc_profile=b"a profile")
    sr.enlarge_picture(tmp_path / "in.png", str(tmp_path / "out.png"))
    with Image.open(tmp_path / "out.png") as made:
        assert made.info["icc_profile"] == b"a profile"
        assert dict(made.getexif()) == {0x010F: "a camera"}
        wanted = doubled(picture.convert({"P": "RGB", "1": "L"}.get(mode, mode)))[::-1, ::-1]
        assert np.array_equal(np.asarray(made), wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "out.png"}


def test_grey_of_16_bits_keeps_them(sr: Any, tmp_path: Path) -> None:
    pixels = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30) * 54 + 1
    Image.fromarray(pixels).save(tmp_path / "in.png")
    sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as made:
        assert np.array_equal(np.asarray(made), doubled(pixels))


def write_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_truncated(path: Path) -> None:
    cat().save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-800])


def write_frames(path: Path) -> None:
    cat().save(path, "GIF", save_all=True, append_images=[cat().rotate(90)])


def write_one_frame_fewer(path: Path) -> None:
    write_frames(path)
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_noise, "cannot be read as a picture"),
        (write_nothing, "cannot be read as a picture"),
        (write_truncated, "cannot be read"),
        (write_frames, "GIF of 2 frames, which are kept in a file of the same"),
        (write_one_frame_fewer, "cannot be read"),
        (lambda _: None, "is not a file"),
        (lambda path: path.mkdir(), "is not a file"),
    ],
)
def test_what_is_no_whole_picture_is_refused_and_nothing_is_written(
    sr: Any, tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "in.png")
    with pytest.raises(vramx.MediaError, match=message) as caught:
        sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png")
    assert "in.png" in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", "'.txt' is no picture format"),
        ("out.jpg", "cannot be written as JPEG with mode RGBA"),
        ("absent/out.png", "there is no folder"),
        ("in.png", "is what is read"),
        ("there.png", "exists"),
        ("folder.png", "is a folder"),
        ("link.png", "is a link"),
        (f"{'long' * 80}.png", "File name too long"),
    ],
)
def test_a_target_that_cannot_be_is_refused_and_what_is_there_stays(
    sr: Any, tmp_path: Path, name: str, message: str
) -> None:
    cat().convert("RGBA").save(tmp_path / "in.png")
    (tmp_path / "there.png").write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("there.png")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(vramx.MediaError, match=message):
        sr.enlarge_picture(tmp_path / "in.png", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "there.png").read_bytes() == b"mine"


def test_a_target_may_be_overwritten_if_so_told(sr: Any, tmp_path: Path) -> None:
    cat().save(tmp_path / "in.png")
    (tmp_path / "out.png").write_bytes(b"old")
    sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.png", overwrite=True)
    with Image.open(tmp_path / "out.png") as made:
        assert made.size == (60, 80)


def several(path: Path, kind: str, *more: Any) -> None:
    with path.open("wb") as file:
        cat().save(file, kind, save_all=True, append_images=list(more))


def test_of_a_photograph_with_more_inside_the_first_picture_is_taken(
    sr: Any, tmp_path: Path
) -> None:
    several(tmp_path / "in.jpg", "MPO", cat().resize((9, 7)).convert("L"), cat().rotate(90))
    with Image.open(tmp_path / "in.jpg") as photograph:
        assert (photograph.format, photograph.n_frames) == ("MPO", 3)
        wanted = doubled(photograph)
    sr.enlarge_picture(tmp_path / "in.jpg", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as made:
        assert np.array_equal(np.asarray(made), wanted)


@pytest.mark.filterwarnings("error")
def test_the_limit_of_pixels_holds_for_what_is_read_and_not_for_results(
    sr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, exif = cat(), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "in.png")
    picture.save(tmp_path / "turned.png", exif=exif)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 * 2 // 3)  # twice that is an error
    for name, size in (("in", (60, 80)), ("turned", (80, 60))):
        made = enlarge_file(sr, tmp_path / f"{name}.png", tmp_path / f"{name}-large.png")
        assert made.size == size
    with pytest.raises(vramx.MediaError, match="MAX_IMAGE_PIXELS"):
        sr.enlarge_picture(tmp_path / "in-large.png", tmp_path / "out.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for name, size in (("in", (60, 80)), ("turned", (80, 60))):
        with Image.open(tmp_path / f"{name}-large.png") as image:
            assert image.size == size


def test_whatever_one_file_of_a_folder_brings_the_others_are_made_and_it_is_named(
    sr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source := tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.png", "e.png"):
        cat().save(source / name)
    write_truncated(source / "b.png")
    write_noise(source / "d.jpg")
    write_nothing(source / "empty.png")
    (source / "notes.txt").write_text("no picture")
    (source / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (source / "inner").mkdir()
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    enlarge = sr.enlarge_picture

    def failing_at_c(source: Path, *rest: Any, **options: Any) -> Any:
        if source.name == "c.png":
            raise ZeroDivisionError("nobody expects it")
        return enlarge(source, *rest, **options)

    monkeypatch.setattr(sr, "enlarge_picture", failing_at_c)
    done = enlarge_folder(sr, source, tmp_path / "out")
    assert [each.target.name for each in done.made] == ["a.png", "e.png"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "e.png"}
    failed = {path.name: why for path, why in done.failed}
    assert list(failed) == ["b.png", "c.png", "d.jpg", "empty.png"]
    assert failed["c.png"] == "ZeroDivisionError: nobody expects it"
    assert all("cannot be read" in failed[name] for name in ("b.png", "d.jpg", "empty.png"))
    passed_by = {path.name: why for path, why in done.passed_by}
    assert passed_by == {
        "gone.png": "is no file",
        "inner": "is a folder",
        "notes.txt": "is no picture that Pillow knows",
        "script.eps": "is no picture that Pillow knows",
    }


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><title>a cat</title></x:xmpmeta>'


@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("target", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_xmp_and_resolution_are_kept_from_format_to_format(
    sr: Any, tmp_path: Path, source: str, target: str
) -> None:
    beside = Beside(xmp=XMP, dpi=(300, 300))
    with picture_target(
        tmp_path / f"in.{source}", layout_of(pixels := np.asarray(cat())), beside
    ) as put:
        put(pixels)
    sr.enlarge_picture(tmp_path / f"in.{source}", tmp_path / f"out.{target}")
    with Image.open(tmp_path / f"out.{target}") as made:
        assert made.info["xmp"] == XMP
        if "WEBP" not in (source, target):
            assert [round(float(each)) for each in made.info["dpi"]] == [300, 300]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("quality", [60, 95, 99])
def test_a_jpeg_file_is_coded_no_coarser_than_what_it_is_made_from(
    sr: Any, tmp_path: Path, quality: int, mode: str
) -> None:
    cat().convert(mode).save(tmp_path / "in.jpg", quality=quality, subsampling=0)
    sr.enlarge_picture(tmp_path / "in.jpg", tmp_path / "out.jpg")
    with Image.open(tmp_path / "in.jpg") as read, Image.open(tmp_path / "out.jpg") as made:
        assert (made.mode, made.layers) == (mode, read.layers)
        for place, table in made.quantization.items():
            if place in read.quantization:
                assert all(map(int.__le__, table, read.quantization[place]))
        assert JpegImagePlugin.get_sampling(made) in (0, -1)
        assert np.abs(np.asarray(made).astype(int) - doubled(read)).mean() < 2


def test_a_format_that_loses_something_loses_little(sr: Any, tmp_path: Path) -> None:
    cat().save(tmp_path / "in.png")
    for suffix in (".jpg", ".webp"):
        sr.enlarge_picture(tmp_path / "in.png", path := tmp_path / f"out{suffix}")
        with Image.open(path) as made:
            assert np.abs(np.asarray(made).astype(int) - doubled(cat())).mean() < 2


def test_data_that_have_no_room_beside_the_pixels_are_left_out_and_told(
    sr: Any, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    picture = cat()
    picture.save(tmp_path / "in.png", exif=exif, dpi=(300, 300))
    with pytest.warns(RuntimeWarning, match="EXIF data are .* left out"):
        sr.enlarge_picture(tmp_path / "in.png", tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as made:
        assert made.size == (60, 80)
        assert "exif" not in made.info
