"""Depth, chroma and light of a video are kept, chosen, or told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vramx
from vramx import VideoOptions

av = pytest.importorskip("av")
pytest.importorskip("skimage.data")

from vramx.pipelines.video import VideoSource, transform_video  # noqa: E402
from vramx.pipelines.video.light import Light, left_of, light_of  # noqa: E402

from .clip_table import LOSSLESS, TRIED, Tried  # noqa: E402
from .clips import read_clip, write_clip  # noqa: E402
from .face_networks import MeanColour, Painter, PatchDetector, portrait  # noqa: E402

HDR = next(each for each in TRIED if each.metadata == "HDR10")
PRORES = next(each for each in TRIED if each.codec == "prores_ks")
DEEP = Tried(".mp4", "libx264", "yuv420p10le", "", "", "")


def same(frames: Any) -> Iterator[Any]:
    yield from frames


def never(frames: Any) -> Iterator[Any]:
    raise AssertionError("worked")
    yield from frames


def made(path: Path) -> Any:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize(
    ("pixels", "dtype", "white"),
    [("yuv420p", np.uint8, 255), ("yuv420p10le", np.uint16, 65535), ("gray10le", np.uint16, 65535)],
)
@pytest.mark.parametrize("full", [False, True])
def test_white_is_the_largest_value_of_an_array_and_black_is_zero(
    tmp_path: Path, pixels: str, dtype: Any, white: int, full: bool
) -> None:
    tried = replace(DEEP, source=".mkv", codec="ffv1", pixels=pixels, full=full)

    class Card(Tried):
        def _draw(self, number: int) -> np.ndarray[Any, Any]:
            return np.full((48, 64, 3), 65535 * (number % 2), np.uint16)

    path = Card(**vars(tried)).write(tmp_path)
    (_, black), (_, bright), *_ = VideoSource(path).frames()
    assert black.dtype == bright.dtype == dtype
    steps = 3 * white / (255 if white == 255 else 1023)  # what the clip itself is off
    assert black.max() <= steps
    assert bright.min() >= white - steps


@pytest.mark.parametrize(
    ("codec", "asked", "kept"),
    [
        ("libx264", None, "yuv422p10le"),
        ("libx264", "yuv420p", "yuv420p"),
        ("libx264", "nv12", "yuv420p"),
        ("libx265", "yuv444p12le", "yuv444p12le"),
        ("mpeg4", "yuv420p", "yuv420p"),
    ],
)
def test_a_pixel_format_is_kept_unless_another_is_asked_for(
    tmp_path: Path, codec: str, asked: str | None, kept: str
) -> None:
    source = PRORES.write(tmp_path)
    options = {"qmax": "2"} if codec == "mpeg4" else LOSSLESS[codec]
    transform_video(
        source,
        tmp_path / "o.mp4",
        same,
        identity={},
        options=VideoOptions(codec=codec, codec_options=options, pix_fmt=asked),
    )
    assert made(tmp_path / "o.mp4").format.name == kept
    before, after = (read_clip(path).frames[0] for path in (source, tmp_path / "o.mp4"))
    assert np.abs(before.astype(float) - after).mean() < 2


@pytest.mark.parametrize(
    ("codec", "asked", "message"),
    [
        ("libx264", "yuv99", r"pix_fmt 'yuv99' is not one that codec 'libx264' takes: yuv420p, .*"),
        ("mpeg4", "yuv444p", "pix_fmt 'yuv444p' is not one that codec 'mpeg4' takes: yuv420p$"),
        ("mpeg4", None, r"holds .* of yuv422p10le without loss: give pix_fmt= with one of yuv420p"),
        ("libvpx-vp9", None, r"without loss: give pix_fmt= with one of yuv420p, .*yuv444p"),
    ],
)
def test_a_pixel_format_that_an_encoder_lacks_is_told_before_the_work(
    tmp_path: Path, codec: str, asked: str | None, message: str
) -> None:
    source = PRORES.write(tmp_path)
    with pytest.raises(vramx.ConfigError, match=message):
        transform_video(
            source,
            tmp_path / "o.mkv",
            never,
            identity={},
            options=VideoOptions(codec=codec, pix_fmt=asked),
        )
    assert [*tmp_path.iterdir()] == [source]


def times(scale: int) -> Any:
    return lambda width, height: (scale * width, scale * height)


@pytest.mark.parametrize(
    ("scale", "asked", "message"),
    [(1, "yuv420p", r"cannot hold 63x47 pixels, .*: one of .*yuv444p"), (2, "yuv420p", "worked")],
)
def test_a_pixel_format_that_cannot_hold_an_odd_size_is_told_before_the_work(
    tmp_path: Path, scale: int, asked: str, message: str
) -> None:
    source = replace(DEEP, source=".mkv", codec="ffv1", metadata="odd size").write(tmp_path)
    with pytest.raises((vramx.ConfigError, AssertionError), match=message):
        transform_video(
            source,
            tmp_path / "o.mp4",
            never,
            identity={},
            size=times(scale),
            options=VideoOptions(pix_fmt=asked),
        )


def test_frames_of_an_odd_size_in_an_encoder_without_full_chroma_are_told_before_the_work(
    tmp_path: Path,
) -> None:
    tried = replace(DEEP, source=".mkv", codec="ffv1", pixels="yuv420p", metadata="odd size")
    with pytest.raises(vramx.ConfigError, match=r"holds 63x47 pixels .* another codec"):
        transform_video(
            tried.write(tmp_path),
            tmp_path / "o.mp4",
            never,
            identity={},
            size=times(1),
            options=VideoOptions(codec="mpeg4"),
        )


def test_a_job_goes_on_with_its_pixel_format_alone(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", 3, audio=False)

    calls = []

    def stopped(frames: Any) -> Iterator[Any]:
        calls.append(frames)
        if len(calls) == 3:
            raise KeyboardInterrupt
        yield from frames

    asked = VideoOptions(segment=1)
    with pytest.raises(KeyboardInterrupt):
        transform_video(
            tmp_path / "in.mp4", tmp_path / "o.mp4", stopped, identity={}, options=asked
        )
    with pytest.raises(vramx.MediaError, match=r"pix_fmt: .*, yuv444p now"):
        transform_video(
            tmp_path / "in.mp4",
            tmp_path / "o.mp4",
            same,
            identity={},
            options=replace(asked, pix_fmt="yuv444p"),
        )


@pytest.mark.parametrize(
    ("tried", "codec", "told"),
    [
        (HDR, "ffv1", "the display it was mastered on, its brightest pixel and frame"),
        (replace(DEEP, full=True), "prores_ks", "its full range, which becomes limited"),
    ],
)
def test_what_a_target_cannot_say_of_colours_is_told_before_the_work(
    tmp_path: Path, tried: Tried, codec: str, told: str
) -> None:
    source = tried.write(tmp_path)
    with (
        pytest.warns(RuntimeWarning, match=rf"o\.mkv does not say .*: {told}; "),
        pytest.raises(AssertionError, match="worked"),
    ):
        transform_video(
            source, tmp_path / "o.mkv", never, identity={}, options=VideoOptions(codec=codec)
        )


def test_full_range_that_cannot_be_said_becomes_limited_in_the_same_colours(
    tmp_path: Path,
) -> None:
    source = replace(DEEP, full=True).write(tmp_path)
    with pytest.warns(RuntimeWarning, match="full range"):
        transform_video(
            source,
            tmp_path / "o.mov",
            same,
            identity={},
            options=VideoOptions(codec="prores_ks"),
        )
    before, after = (read_clip(path).frames[0] for path in (source, tmp_path / "o.mov"))
    assert made(tmp_path / "o.mov").color_range == 1
    assert np.abs(before.astype(float) - after).mean() < 2


def test_what_a_display_is_said_to_be_can_be_given_to_the_encoder(tmp_path: Path) -> None:
    source = HDR.write(tmp_path)
    options = {"x265-params": "log-level=none:max-cll=700,300"}
    with pytest.warns(RuntimeWarning, match="its brightest pixel and frame"):
        transform_video(
            source,
            tmp_path / "o.mp4",
            same,
            identity={},
            options=VideoOptions(codec="libx265", codec_options=options),
        )
    assert VideoSource(tmp_path / "o.mp4").light.levels == (700, 300)


def test_data_of_a_kind_that_is_not_known_are_told_and_no_end() -> None:
    class Frame:
        @property
        def side_data(self) -> Any:
            raise ValueError("33 is not a valid Type")

    assert light_of(Frame()) == Light()
    assert left_of(Frame()) == ["data of a kind that PyAV does not know"]


def test_faces_are_swapped_in_frames_of_more_than_8_bits(tmp_path: Path) -> None:
    source = replace(DEEP, metadata="BT.709").write(tmp_path)
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        card = {"budget": "1MiB", "block": 2**16, "backend": "simulated"}
        with vramx.face_swap(PatchDetector(), MeanColour(), Painter(), **card) as fs:
            done = fs.swap_video(
                portrait("blue"), source, tmp_path / "o.mp4",
                VideoOptions(codec="libx265", codec_options=LOSSLESS["libx265"]),
            )  # fmt: skip
    assert (done.frames, done.swapped) == (5, 0)
    before = [frame for _, frame in VideoSource(source).frames()]
    after = [frame for _, frame in VideoSource(tmp_path / "o.mp4").frames()]
    assert after[0].dtype == np.uint16
    errors = [np.abs(a.astype(float) - b).mean() for a, b in zip(before, after, strict=True)]
    assert max(errors) < 0.2 * 257
