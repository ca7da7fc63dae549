"""A video's segments, made one by one in any order, are those of one go to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av")
pytest.importorskip("skimage.data")

from vramx import ConfigError, MediaError, Stop, VideoOptions
from vramx.pipelines.span import Span
from vramx.pipelines.video import VideoSource, transform_video
from vramx.pipelines.video.index import Stored, indexed, read_index
from vramx.pipelines.video.job import make_video
from vramx.pipelines.video.pieces import make_piece, pieces_of

from .clips import X264, write_clip

FRAMES, SEGMENT = 44, 6
OPTIONS = VideoOptions(segment=SEGMENT, codec_options=X264)


def negative(frames: Any) -> Iterator[Any]:
    for frame in frames:
        yield 255 - frame


def compute(work: Any) -> None:
    work(negative)


def piecewise(order: int) -> Any:
    """Make pieces in a shuffled order."""

    def make(work: Any, encoding: Any, meter: Any, stop: Stop) -> None:
        pieces = pieces_of(work, encoding, OPTIONS)
        for number in np.random.default_rng(order).permutation(len(pieces)):
            segment = make_piece(pieces[number], compute, stop)
            work.add(segment)
            meter.add(segment.frames)

    return make


def in_pieces(source: Path, target: Path, order: int = 0, **more: Any) -> Any:
    given: dict[str, Any] = {
        "identity": {"model": "negative"},
        "options": OPTIONS,
        "size": None,
        "overwrite": False,
        "on_progress": None,
        "stop": None,
    }
    return make_video(source, target, piecewise(order), **{**given, **more})


def in_one_go(source: Path, target: Path, **more: Any) -> Any:
    given = {"identity": {"model": "negative"}, "options": OPTIONS, **more}
    return transform_video(source, target, negative, **given)


@pytest.mark.parametrize(
    ("suffix", "codec", "encoder"),
    [
        (".mp4", "libx264", {"bf": "3", "g": "9"}),
        (".mkv", "libx264", {"bf": "3", "g": "9"}),
        (".mov", "libx264", {"bf": "3", "g": "9", "x264-params": "open-gop=1:keyint=9"}),
        (".ts", "libx264", {"bf": "3", "g": "9"}),
        (".mp4", "libx265", {"x265-params": "open-gop=1:keyint=9:bframes=4:log-level=none"}),
        (".mkv", "libx265", {"x265-params": "open-gop=1:keyint=9:bframes=4:log-level=none"}),
        (".mp4", "libx264", {"g": "250"}),
        (".mp4", "libx264", {"g": "9", "flags": "+ilme+ildct"}),
    ],
)
def test_pieces_in_any_order_make_the_same_file(
    tmp_path: Path, suffix: str, codec: str, encoder: dict[str, str]
) -> None:
    source = tmp_path / f"in{suffix}"
    write_clip(source, FRAMES, codec=codec, options=encoder)
    in_one_go(source, tmp_path / "wanted.mp4")
    for order in range(2):
        made = in_pieces(source, tmp_path / f"{order}.mp4", order)
        assert made.frames == FRAMES
        assert (tmp_path / f"{order}.mp4").read_bytes() == (tmp_path / "wanted.mp4").read_bytes()


def test_a_part_of_a_video_is_cut_into_the_same_pieces(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", FRAMES, options={"bf": "3", "g": "9"})
    options = VideoOptions(segment=SEGMENT, codec_options=X264, start="0.4", end="1.5")
    in_one_go(tmp_path / "in.mp4", tmp_path / "wanted.mp4", options=options)
    made = make_video(
        tmp_path / "in.mp4",
        tmp_path / "out.mp4",
        lambda work, encoding, _, stop: [
            work.add(make_piece(each, compute, stop))
            for each in pieces_of(work, encoding, options)[::-1]
        ],
        identity={"model": "negative"},
        options=options,
        size=None,
        overwrite=False,
        on_progress=None,
        stop=None,
    )
    assert 2 * SEGMENT < made.frames < FRAMES
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "wanted.mp4").read_bytes()


def test_only_frames_from_the_key_frame_on_are_decoded(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", FRAMES, options={"bf": "0", "g": "9", "keyint_min": "9"})
    source = VideoSource(tmp_path / "in.mp4")
    frames = read_index(source)
    assert [each.pts for each in frames] == [time.pts for time, _ in source.frames()]
    assert {each.key for each in frames[27:36]} == {frames[27].pts}


@pytest.mark.parametrize("resumed", [in_one_go, in_pieces])
def test_what_was_made_out_of_order_before_a_stop_is_gone_on_from(
    tmp_path: Path, resumed: Any
) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(source, FRAMES, options={"g": "9"})
    in_one_go(source, tmp_path / "wanted.mp4")

    class KilledError(Exception):
        pass

    def some(work: Any, encoding: Any, _: Any, stop: Stop) -> None:
        pieces = pieces_of(work, encoding, OPTIONS)
        for number in (4, 0, 2):
            work.add(make_piece(pieces[number], compute, stop))
        raise KilledError

    more = {"identity": {"model": "negative"}, "options": OPTIONS, "size": None}
    more |= {"overwrite": False, "on_progress": None, "stop": None}
    with pytest.raises(KilledError):
        make_video(source, target, some, **more)
    begun: list[int] = []
    told = resumed(source, target, on_progress=lambda progress: begun.append(progress.done))
    assert told.frames == begun[-1] == FRAMES
    assert begun[0] == 3 * SEGMENT or resumed is in_one_go
    assert target.read_bytes() == (tmp_path / "wanted.mp4").read_bytes()


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.avi", 8, codec="mpeg4", sound_codec="mp3", audio=False)
    with pytest.raises(MediaError, match=r"remux it to \.mkv"):
        in_pieces(tmp_path / "in.avi", tmp_path / "out.mp4")
    write_clip(tmp_path / "in.mp4", 8)
    options = VideoOptions(on_corrupt="skip")
    with pytest.raises(ConfigError, match="takes one machine"):
        make_video(
            tmp_path / "in.mp4",
            tmp_path / "out.mp4",
            lambda work, encoding, *_: pieces_of(work, encoding, options),
            identity={},
            options=options,
            size=None,
            overwrite=False,
            on_progress=None,
            stop=None,
        )


@given(st.data())
def test_a_frame_is_decoded_from_a_key_frame_before_all_that_it_takes(data: Any) -> None:
    count = data.draw(st.integers(1, 30))
    pts = data.draw(st.permutations(range(count)))
    keys = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    stored = [Stored(*each) for each in zip(pts, range(count), keys)]
    found = indexed(stored)
    assert [each.pts for each in found] == sorted(each.pts for each in found)
    for each in found:
        key = stored[each.key]
        assert key.is_key
        assert key.pts <= each.pts
        assert all(other.place >= key.place for other in stored if other.pts >= each.pts)
    if not any(key and number == 0 for number, (key, _) in enumerate(zip(keys, pts))):
        return
    if pts[0] == 0:  # as in files that can be decoded from their start
        assert len(found) == count


def test_a_source_that_says_other_frames_than_it_has_is_an_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", FRAMES, options={"g": "9"})

    def make(work: Any, encoding: Any, _: Any, stop: Stop) -> None:
        piece = pieces_of(work, encoding, OPTIONS)[3]
        wrong = tuple(time + (number == 2) for number, time in enumerate(piece.times))
        make_piece(piece.__class__(**{**vars(piece), "times": wrong}), compute, stop)

    with pytest.raises(MediaError, match="from frame 20 on"):
        make_video(
            tmp_path / "in.mp4",
            tmp_path / "out.mp4",
            make,
            identity={},
            options=OPTIONS,
            size=None,
            overwrite=False,
            on_progress=None,
            stop=None,
        )
    assert VideoSource(tmp_path / "in.mp4").part(Span(Fraction(1))).span.start == 1
