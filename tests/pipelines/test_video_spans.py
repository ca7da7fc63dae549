"""Of a video the part that is asked for comes out, from zero, and what is damaged is told."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vramx

av = pytest.importorskip("av")
pytest.importorskip("skimage.data")

from vramx.pipelines.video import VideoResult, transform_video  # noqa: E402

from .clips import X264, gathered, picture, read_clip, write_clip  # noqa: E402
from .test_video_targets import said_beside, subtitles, write_film  # noqa: E402

COUNT = 20
LOSS = 4.0


def same(frames: Any) -> Iterator[Any]:
    yield from frames


def never(frames: Any) -> Iterator[Any]:
    raise AssertionError("worked")
    yield from frames


def run(folder: Path, source: str, target: str, transform: Any = same, **more: Any) -> VideoResult:
    options = {"identity": {}, **gathered({"codec_options": {"crf": "10"}, "segment": 6, **more})}
    return transform_video(folder / source, folder / target, transform, **options)


def numbers(path: Path) -> list[int]:
    """Tell which pictures of the clip these are."""
    known = [picture(number).astype(float) for number in range(COUNT)]
    frames = read_clip(path).frames
    return [int(np.argmin([np.abs(frame - p).mean() for p in known])) for frame in frames]


# A part


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (0.3, None, 0.3, 9),
        (None, 0.3, 0, 0.3),
        ("0.21", "0.6", 0.21, 0.6),
        ("00:00:00.04", "0:0.52", 0.04, 0.52),
        (Fraction(1, 25), Fraction(2, 25), 0.04, 0.08),
    ],
)
@pytest.mark.parametrize("source", ["in.mp4", "in.mkv", "in.ts"])
def test_a_part_has_the_frames_and_the_sound_from_its_start_to_before_its_end(
    tmp_path: Path, start: Any, end: Any, first: float, last: float, source: str
) -> None:
    write_clip(tmp_path / source, COUNT)
    before = read_clip(tmp_path / source)
    begin = min(before.times[0], before.audio[0][0]) if source == "in.ts" else 0
    low, high = begin + Fraction(str(first)), begin + Fraction(str(last))
    kept = [number for number, time in enumerate(before.times) if low <= time < high]
    assert 0 < len(kept) < COUNT
    assert run(tmp_path, source, "o.mp4", start=start, end=end).frames == len(kept)
    after = read_clip(tmp_path / "o.mp4")
    assert numbers(tmp_path / "o.mp4") == kept
    zero = before.times[kept[0]] if start is not None else before.times[0] - after.times[0]
    assert after.times == [before.times[number] - zero for number in kept]
    headers = 7 if source == "in.ts" else 0
    sound = [(t - zero, data[headers:]) for t, data in before.audio if zero <= t < high]
    if start is None:
        sound = [(t - zero, data[headers:]) for t, data in before.audio if t < high]
    assert [data for _, data in after.audio] == [data for _, data in sound]
    for (a, _), (b, _) in zip(after.audio, sound, strict=True):
        assert abs(a - b) <= Fraction(1, 1000)


def test_subtitles_and_chapters_are_cut_to_a_part(tmp_path: Path) -> None:
    write_film(tmp_path / "in.mkv")
    run(tmp_path, "in.mkv", "o.mkv", start=0.2, end=0.5)
    first = next(t for t in read_clip(tmp_path / "in.mkv").times if t >= Fraction(1, 5))
    before, after = (said_beside(tmp_path / name)[:2] for name in ("in.mkv", "o.mkv"))
    assert [said for _, said in after] == [{"title": "one"}, {"title": "two"}]
    assert [start for start, _ in after] == [0, before[1][0] - first]
    (_, shown), (late, later) = subtitles(tmp_path / "in.mkv")
    assert subtitles(tmp_path / "o.mkv") == [(0, shown), (late - first, later)]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (5, None, r"start 5\.0 s is not in .*in\.mp4, which lasts 0\.8\d+ s"),
        (None, 2, r"end 2\.0 s is not in .*in\.mp4, which lasts"),
        (0.5, 0.5, r"end 0\.5 s is not after start 0\.5 s"),
        ("soon", None, "start 'soon' is no time: give seconds"),
        (None, "1:75", "end '1:75' is no time|is not in"),
        (-1, None, "start -1 is no time"),
        (float("nan"), None, "start nan is no time"),
        (True, None, "start True is no time"),
    ],
)
def test_a_part_that_is_not_there_is_told_before_the_work(
    tmp_path: Path, start: Any, end: Any, message: str
) -> None:
    write_clip(tmp_path / "in.mp4", COUNT)
    with pytest.raises(vramx.ConfigError, match=message):
        run(tmp_path, "in.mp4", "o.mp4", never, start=start, end=end)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_part_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", COUNT)
    part = {"start": 0.1, "codec_options": X264}
    run(tmp_path, "in.mp4", "wanted.mp4", end=0.8, **part)

    def stopped(frames: Any) -> Iterator[Any]:
        if frames.first > 6:
            raise KeyboardInterrupt
        yield from frames

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "in.mp4", "o.mp4", stopped, end=0.8, **part)
    with pytest.raises(vramx.MediaError, match=r"end: 0\.8 s there, 0\.9 s now"):
        run(tmp_path, "in.mp4", "o.mp4", end=0.9, **part)
    run(tmp_path, "in.mp4", "o.mp4", end=0.8, **part)
    assert (tmp_path / "o.mp4").read_bytes() == (tmp_path / "wanted.mp4").read_bytes()


# Damage


def damage(path: Path, number: int) -> Fraction:
    """Damage the bytes of a frame that was coded; tell when it is shown."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        packet = packets[number]
        time, first, size = packet.pts * packet.time_base, packet.pos, packet.size
        time = packet.dts * packet.time_base if path.suffix == ".avi" else time
    content = bytearray(path.read_bytes())
    if path.suffix == ".avi":  # no frame at all, and not a damaged one
        content[first + 8 : first + size] = bytes(size - 8)
    else:
        for place in range(first + size // 3, first + size, 7):
            content[place] ^= 0xFF
    path.write_bytes(content)
    return Fraction(time)


KINDS = [
    ("in.mp4", "libx264", "yuv420p", {"g": "1"}),
    ("in.mkv", "libx264", "yuv420p", {"g": "1"}),
    ("in.avi", "mpeg4", "yuv420p", {"g": "1"}),
    ("in.mov", "prores_ks", "yuv422p10le", {}),
    ("in.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=1"}),
]


@pytest.mark.parametrize(("source", "codec", "pixels", "options"), KINDS)
def test_a_damaged_frame_ends_a_video_unless_it_may_be_left_out(
    tmp_path: Path, source: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    steady = [512 * number for number in range(COUNT)]
    write_clip(
        tmp_path / source, COUNT, codec=codec, format=pixels, options=options, times=steady,
        audio=False,
    )  # fmt: skip
    time = damage(tmp_path / source, 7)
    with pytest.raises(vramx.MediaError, match="on_corrupt='skip' leaves"):
        run(tmp_path, source, "o.mkv")
    work = {path.name for path in tmp_path.iterdir()}
    assert work == {source, "o.mkv.parts"}
    with pytest.raises(vramx.MediaError, match="on_corrupt: error there, skip now"):
        run(tmp_path, source, "o.mkv", on_corrupt="skip")
    with pytest.warns(
        RuntimeWarning, match=rf"lacks 1 frames of .*, the first at {float(time):.3f}"
    ):
        done = run(tmp_path, source, "skipped.mkv", on_corrupt="skip")
    assert (done.frames, done.lost) == (COUNT - 1, (float(time),))
    kept = [number for number in range(COUNT) if number != round(time * 25)]
    assert numbers(tmp_path / "skipped.mkv") == kept
    times = read_clip(tmp_path / "skipped.mkv").times
    assert [round(each * 25) for each in times] == kept


def test_a_clip_that_breaks_off_goes_as_far_as_it_can(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", COUNT, audio=False)
    content = (tmp_path / "in.mkv").read_bytes()
    (tmp_path / "in.mkv").write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(vramx.MediaError, match="it is truncated"):
        run(tmp_path, "in.mkv", "o.mkv")
    with pytest.warns(RuntimeWarning, match=r"lacks \d+ frames"):
        done = run(tmp_path, "in.mkv", "skipped.mkv", on_corrupt="skip")
    assert 0 < done.frames < COUNT
    assert numbers(tmp_path / "skipped.mkv") == [*range(done.frames)]
    assert done.frames + len(done.lost) == pytest.approx(COUNT, abs=4)  # by the average rate


def test_what_was_lost_is_known_after_a_stop_at_the_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "in.mp4", COUNT, audio=False, options={"g": "1"})
    damage(tmp_path / "in.mp4", 7)

    def full(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vramx.pipelines.video.job.join", full)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "in.mp4", "o.mp4", on_corrupt="skip")
    with pytest.warns(RuntimeWarning, match="lacks 1 frames"):
        assert len(run(tmp_path, "in.mp4", "o.mp4", never, on_corrupt="skip").lost) == 1


def test_what_becomes_of_damage_is_one_of_two(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", 3)
    with pytest.raises(vramx.ConfigError, match="on_corrupt 'hide' is not one of"):
        run(tmp_path, "in.mp4", "o.mp4", never, on_corrupt="hide")
