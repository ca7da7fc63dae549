"""Videos go through whole: every frame once, at its time, with its sound, also after a stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import vramx

av = pytest.importorskip("av")
pytest.importorskip("skimage.data")

from vramx.pipelines.video import transform_video  # noqa: E402
from vramx.pipelines.video.channel import Channel  # noqa: E402
from vramx.pipelines.video.encoding import Encoding  # noqa: E402
from vramx.pipelines.video.source import VideoSource  # noqa: E402

from .clips import X264, Clip, gathered, picture, read_clip, write_clip  # noqa: E402

Frames = Iterable[np.ndarray[Any, Any]]
COUNT = 20
#: What lossy coding changes on average, of 255.
LOSS = 4.0


def double(frames: Frames) -> Iterator[np.ndarray[Any, Any]]:
    for frame in frames:
        yield frame.repeat(2, axis=0).repeat(2, axis=1)


class StopAfter:
    """Doubles frames, and stops as an interrupt does after some."""

    def __init__(self, frames: int, error: BaseException) -> None:
        self.left = frames
        self.error = error

    def __call__(self, frames: Frames) -> Iterator[np.ndarray[Any, Any]]:
        for frame in double(frames):
            if self.left == 0:
                raise self.error
            self.left -= 1
            yield frame


def run(
    folder: Path,
    transform: Any = double,
    source: str = "in.mp4",
    target: str = "out.mp4",
    **kw: Any,
) -> int:
    given_ = {"segment": 6, "codec_options": X264, **kw}
    settings_ = {"identity": {"model": "doubling"}, **gathered(given_)}
    return transform_video(folder / source, folder / target, transform, **settings_).frames


def finished(folder: Path, target: str = "out.mp4") -> int:
    manifest = folder / f"{target}.parts" / "manifest.json"
    if not manifest.exists():  # it is written with the first segment
        return 0
    return sum(segment["frames"] for segment in json.loads(manifest.read_text())["segments"])


def assert_same_pictures(clip: Clip, count: int = COUNT) -> None:
    assert len(clip.frames) == count
    for number, frame in enumerate(clip.frames):
        shrunk = frame.astype(float).reshape(48, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(shrunk - picture(number)).mean() < LOSS
        assert np.abs(shrunk.mean((0, 1)) - picture(number).mean((0, 1))).max() < 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clip(tmp_path / "in.mp4", COUNT)
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clip]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_clip(folder / "in.mp4", COUNT)
    run(folder)
    return folder / "in.mp4", read_clip(folder / "out.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_each_frame_comes_out_once_at_its_time_and_audio_is_the_same_packets(
    folder: Path, suffix: str
) -> None:
    assert run(folder, target=f"out{suffix}") == COUNT
    before, after = read_clip(folder / "in.mp4"), read_clip(folder / f"out{suffix}")
    assert_same_pictures(after)
    # Matroska counts milliseconds and begins at zero, sound and pictures alike.
    exact = Fraction(1, 1000) if suffix == ".mkv" else 0
    shift = after.audio[0][0] - before.audio[0][0] if suffix == ".mkv" else 0
    assert all(abs(b - a - shift) <= exact for a, b in zip(before.times, after.times, strict=True))
    for (a, data), (b, copied) in zip(before.audio, after.audio, strict=True):
        assert abs(b - a - shift) <= exact
        assert copied == data
    assert {path.name for path in folder.iterdir()} == {"in.mp4", f"out{suffix}"}


def test_the_last_frame_is_shown_as_long_as_before(folder: Path) -> None:
    run(folder)
    ends = []
    for name in ("in.mp4", "out.mp4"):
        with av.open(str(folder / name)) as container:
            stream = container.streams.video[0]
            ends.append(stream.duration * stream.time_base)
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("target", "codec", "options"),
    [
        ("out.webm", "libvpx-vp9", {"crf": "10", "deadline": "realtime", "cpu-used": "8"}),
        ("out.mp4", "mpeg4", {"qmin": "1", "qmax": "1"}),
        ("out.mkv", "libx265", {"x265-params": "crf=10:log-level=none"}),
        ("out.mp4", "libsvtav1", {"crf": "10", "preset": "10"}),
        ("out.mov", "prores_ks", {}),
    ],
)
def test_other_codecs_are_written(
    tmp_path: Path, target: str, codec: str, options: dict[str, str]
) -> None:
    write_clip(tmp_path / "in.mp4", COUNT, audio=False)
    run(tmp_path, target=target, codec=codec, codec_options=options)
    before, after = read_clip(tmp_path / "in.mp4"), read_clip(tmp_path / target)
    assert_same_pictures(after)
    assert all(
        abs(a - b) <= Fraction(1, 1000) for a, b in zip(before.times, after.times, strict=True)
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="SVT-AV1 takes priority for root alone")
@pytest.mark.parametrize("passed_by", [False, True])
def test_an_encoder_gives_no_thread_priority_over_others(
    passed_by: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "in.mp4", 1, audio=False)
    encoding = Encoding("libsvtav1", {"preset": "10"}, VideoSource(tmp_path / "in.mp4"))
    threads = {*os.listdir("/proc/self/task")}
    if passed_by:  # as the system may do with any thread while others end
        own, listed = str(threading.get_native_id()), os.listdir
        monkeypatch.setattr(os, "listdir", lambda *path: [x for x in listed(*path) if x != own])
    with av.open(str(tmp_path / "out.mp4"), "w") as container:
        stream = encoding.add_stream(container, 64, 64)
        monkeypatch.undo()
        now = {*os.listdir("/proc/self/task")}
        assert now - threads
        assert {os.sched_getscheduler(int(thread)) for thread in now} == {os.SCHED_OTHER}
        container.mux(stream.encode(None))


@pytest.mark.parametrize("source", ["in.mkv", "in.avi", "in.ts"])
def test_other_containers_are_read(tmp_path: Path, source: str) -> None:
    codec = "mpeg4" if source == "in.avi" else "libx264"
    write_clip(tmp_path / source, COUNT, audio=source != "in.avi", codec=codec)
    before = read_clip(tmp_path / source)
    assert run(tmp_path, source=source) == len(before.frames)
    after = read_clip(tmp_path / "out.mp4")
    gaps = [[b - a for a, b in zip(times, times[1:])] for times in (before.times, after.times)]
    assert gaps[0] == gaps[1]


def test_colours_and_odd_sizes_survive(folder: Path) -> None:
    run(folder, lambda frames: (frame[:-1, :-1] for frame in frames))
    for number, frame in enumerate(read_clip(folder / "out.mp4").frames):
        assert frame.shape == (47, 63, 3)
        assert np.abs(frame.astype(float) - picture(number)[:-1, :-1]).mean() < LOSS


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV is older than 18"
)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_video_comes_out_upright(tmp_path: Path, turns: int) -> None:
    write_clip(tmp_path / "in.mp4", 3, rotation=90 * turns)
    run(tmp_path)
    with av.open(str(tmp_path / "in.mp4")) as container:
        rotation = next(container.decode(video=0)).rotation
    assert rotation % 360 in (90 * turns, 360 - 90 * turns)
    for number, frame in enumerate(read_clip(tmp_path / "out.mp4").frames):
        upright = np.rot90(picture(number), rotation // 90)
        assert frame.shape == (2 * upright.shape[0], 2 * upright.shape[1], 3)
        assert np.abs(frame[::2, ::2].astype(float) - upright).mean() < LOSS


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV is older than 18"
)
@pytest.mark.parametrize("turns", range(4))
def test_oblong_pixels_are_shown_in_the_same_shape_also_when_turned(
    tmp_path: Path, turns: int
) -> None:
    write_clip(tmp_path / "in.mp4", 3, rotation=90 * turns, aspect=Fraction(4, 3))
    run(tmp_path)
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0]
        shown = Fraction(video.width, video.height) * video.sample_aspect_ratio
    source = Fraction(64, 48) * Fraction(4, 3)
    assert shown == (1 / source if turns % 2 else source)


# Times that containers tell, or do not


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "3", "x264-params": "b-adapt=0"}),
        ("libx264", {"bf": "2", "x264-params": "b-adapt=0:b-pyramid=none"}),
        ("mpeg4", {"bf": "2", "qmin": "1", "qmax": "2"}),
    ],
)
def test_frames_that_refer_to_later_ones_come_in_order_from_a_container_without_times(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    steady = [512 * number for number in range(COUNT)]
    write_clip(
        tmp_path / "in.avi", COUNT, codec=codec, options=options, times=steady, units=12800,
        audio=False,
    )  # fmt: skip
    run(tmp_path, source="in.avi")
    after = read_clip(tmp_path / "out.mp4")
    assert_same_pictures(after)
    assert after.times == [Fraction(time, 12800) for time in steady]


@pytest.mark.parametrize("units", [600, 1000, 12800, 90000])
@pytest.mark.parametrize("target", ["out.mkv", "out.mp4"])
def test_a_target_tells_the_sources_frame_rate_whatever_the_clock(
    tmp_path: Path, units: int, target: str
) -> None:
    write_clip(
        tmp_path / "in.mov", COUNT, audio=False, units=units,
        times=[number * units // 25 for number in range(COUNT)],
    )  # fmt: skip
    run(tmp_path, source="in.mov", target=target)
    with av.open(str(tmp_path / target)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == stream.guessed_rate == 25
        assert container.duration == pytest.approx(av.time_base * COUNT / 25, abs=2000)


@pytest.mark.parametrize(
    ("source", "codec", "sound"),
    [
        ("in.mkv", "libx264", "aac"),
        ("in.webm", "libvpx-vp9", "libopus"),
        ("in.mp4", "libx264", "aac"),
    ],
)
@pytest.mark.parametrize("first", [0, 5 * 12800])
def test_sound_that_outlasts_the_picture_and_a_late_start_are_no_truncation(
    tmp_path: Path, source: str, codec: str, sound: str, first: int
) -> None:
    write_clip(tmp_path / source, COUNT, codec=codec, sound_codec=sound, tail=2, first=first)
    assert run(tmp_path, source=source, target="out.mkv") == COUNT
    before, after = read_clip(tmp_path / source), read_clip(tmp_path / "out.mkv")
    assert [data for _, data in after.audio] == [data for _, data in before.audio]


# Interlaced video


def woven(number: int) -> np.ndarray[Any, Any]:
    """A bar that moves, whose odd rows are half a frame later."""
    picture = np.zeros((48, 64, 3), np.uint8)
    for field in range(2):
        left = 3 * (2 * number + field) % 56
        picture[field::2, left : left + 8] = 255
    return picture


def combs(clip: Clip) -> int:
    """Count where rows of one field differ much from their neighbours in the other."""
    frames = [frame[:: frame.shape[0] // 48].astype(int) for frame in clip.frames]
    return sum(int((abs(frame[::2] - frame[1::2]) > 100).sum()) for frame in frames)


@pytest.mark.parametrize(("deinterlace", "left"), [("auto", 0), ("off", 1)])
def test_interlaced_frames_become_one_picture_each_and_it_is_told(
    tmp_path: Path, deinterlace: str, left: int
) -> None:
    options = {"flags": "+ildct+ilme"}
    write_clip(tmp_path / "in.mp4", COUNT, options=options, draw=woven)
    with pytest.warns(RuntimeWarning, match=r"in\.mp4 is interlaced: "):
        assert run(tmp_path, deinterlace=deinterlace) == COUNT
    before, after = read_clip(tmp_path / "in.mp4"), read_clip(tmp_path / "out.mp4")
    assert after.times == before.times
    assert combs(after) / (2 * combs(before)) == pytest.approx(left, abs=0.02)


def test_an_interlaced_job_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", COUNT, options={"flags": "+ildct+ilme"}, draw=woven)
    with pytest.warns(RuntimeWarning, match="is interlaced"):
        run(tmp_path, target="wanted.mp4")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, StopAfter(13, KeyboardInterrupt()))
        assert finished(tmp_path) > 0
        with pytest.raises(vramx.MediaError, match="deinterlace: auto there, off now"):
            run(tmp_path, deinterlace="off")
        run(tmp_path)
    wanted, got = read_clip(tmp_path / "wanted.mp4"), read_clip(tmp_path / "out.mp4")
    assert all(np.array_equal(a, b) for a, b in zip(got.frames, wanted.frames, strict=True))


# Names


@pytest.mark.parametrize(
    "name",
    ["12:30", "data:x", "http:x", "concat:a", "subfile,,start,0,end,0,,:in", "-i", "a\nb", "%04d"],
)
def test_a_name_is_only_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(folder)
    source, target = Path(f"{name}.mp4"), Path(f"{name} out.mp4")
    source.write_bytes((folder / "in.mp4").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        run(Path(), StopAfter(13, KeyboardInterrupt()), source=str(source), target=str(target))
    assert run(Path(), source=str(source), target=str(target)) == COUNT
    assert_same_pictures(read_clip(folder / target))


@pytest.mark.parametrize("name", ["in.mp4", "in.m3u8", "in.txt", "in.mpd"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
        "<MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet "
        "mimeType='video/mp4'><Representation id='1' bandwidth='1'><BaseURL>{}</BaseURL>"
        "</Representation></AdaptationSet></Period></MPD>",
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_list_of_videos_is_not_taken_for_one(
    tmp_path: Path, name: str, text: str, absolute: bool
) -> None:
    named = tmp_path / "other.mp4"
    write_clip(named, 3)
    (tmp_path / name).write_text(text.format(named if absolute else named.name))
    with pytest.raises(vramx.MediaError, match="cannot be read as a video"):
        run(tmp_path, source=name)
    assert {path.name for path in tmp_path.iterdir()} == {"other.mp4", name}


# Stopping and going on


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=3))
def test_a_job_that_was_stopped_ends_as_one_that_was_not(
    uninterrupted: tuple[Path, Clip], stops: list[int]
) -> None:
    source, wanted = uninterrupted
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.mp4").write_bytes(source.read_bytes())
        parts = folder / "out.mp4.parts"
        kept: dict[str, bytes] = {}
        for stop in stops:
            done = finished(folder)
            transform = StopAfter(stop, KeyboardInterrupt())
            if done + stop >= COUNT:
                break
            with pytest.raises(KeyboardInterrupt):
                run(folder, transform)
            # What went through is kept, but for the segment that was not full.
            assert finished(folder) in {
                (done + stop) // 6 * 6,
                max((done + stop) // 6 * 6 - 6, done),
            }
            assert not (folder / "out.mp4").exists()
            assert not [*folder.rglob("*.part")]
            assert all((parts / each).read_bytes() == data for each, data in kept.items())
            kept = {path.name: path.read_bytes() for path in parts.glob("*.mp4")}
        done = finished(folder)
        seen: list[int] = []

        def count(frames: Frames) -> Iterator[np.ndarray[Any, Any]]:
            for frame in double(frames):
                seen.append(1)
                yield frame

        assert run(folder, count) == COUNT
        assert len(seen) == COUNT - done
        got = read_clip(folder / "out.mp4")
    assert got.times == wanted.times
    assert got.audio == wanted.audio
    assert all(np.array_equal(a, b) for a, b in zip(got.frames, wanted.frames, strict=True))


def test_each_segment_goes_through_by_itself_also_after_a_stop(folder: Path) -> None:
    seen: list[list[int]] = []

    def watched(frames: Frames) -> Iterator[np.ndarray[Any, Any]]:
        seen.append([])
        for frame in double(frames):
            seen[-1].append(int(np.argmin([np.abs(frame[::2, ::2] - p).mean() for p in known])))
            if len(seen) == 3 and len(seen[-1]) == 2:
                raise KeyboardInterrupt
            yield frame

    known = [picture(number).astype(float) for number in range(COUNT)]
    with pytest.raises(KeyboardInterrupt):
        run(folder, watched)
    done = finished(folder) // 6
    assert seen == [[*range(6)], [*range(6, 12)], [12, 13]]
    seen.clear()
    seen.extend([[]] * 3)
    run(folder, watched)
    assert seen[3:] == [
        [*range(start, min(start + 6, COUNT))] for start in range(6 * done, COUNT, 6)
    ]


KILLED = """
import os, sys
from pathlib import Path
import vramx
from vramx.pipelines.video import transform_video

def die(frames):
    for number, frame in enumerate(frames):
        yield frame.repeat(2, axis=0).repeat(2, axis=1)
        if len(list(Path(sys.argv[2] + ".parts").glob("*.mp4"))) == 2:
            os._exit(9)

transform_video(sys.argv[1], sys.argv[2], die, identity={"model": "doubling"},
                options=vramx.VideoOptions(segment=6, codec_options=X264))
"""

FULL = """
import resource, signal, sys
import numpy as np
import vramx
from vramx.pipelines.video import transform_video

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))

def double(frames):
    for frame in frames:
        yield frame.repeat(2, axis=0).repeat(2, axis=1)

try:
    transform_video(sys.argv[1], sys.argv[2], double, identity={"model": "doubling"},
                    options=vramx.VideoOptions(segment=6, codec_options=X264))
except vramx.MediaError as error:
    print(error)
    sys.exit(7)
"""


INTERRUPTED = """
import os, signal, sys, threading

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
import vramx
from vramx.pipelines.video import transform_video
from vramx.pipelines.video.source import VideoSource

frames_of = VideoSource.frames

def frames(self):
    for number, frame in enumerate(frames_of(self)):
        if number == 15:
            os.kill(os.getpid(), signal.SIGINT)
        yield frame

def double(frames):
    for frame in frames:
        yield frame.repeat(2, axis=0).repeat(2, axis=1)

VideoSource.frames = frames
try:
    transform_video(sys.argv[1], sys.argv[2], double, identity={"model": "doubling"},
                    options=vramx.VideoOptions(segment=6, codec_options=X264))
except KeyboardInterrupt:
    sys.exit(8 if threading.active_count() == 1 else 9)
"""


def in_a_process(code: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [str(folder / "in.mp4"), str(folder / "out.mp4")]
    return subprocess.run(
        [sys.executable, "-c", f"X264 = {X264}\n{code}", *paths, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_goes_on(folder: Path, wanted: Clip) -> None:
    assert run(folder) == COUNT
    got = read_clip(folder / "out.mp4")
    assert got.times == wanted.times
    assert all(np.array_equal(a, b) for a, b in zip(got.frames, wanted.frames, strict=True))


def test_a_job_whose_process_was_killed_goes_on(
    folder: Path, uninterrupted: tuple[Path, Clip]
) -> None:
    assert in_a_process(KILLED, folder).returncode == 9
    assert finished(folder) in (6, 12)  # the kill may come before the manifest
    assert_goes_on(folder, uninterrupted[1])


def test_an_interrupt_ends_all_threads_and_leaves_what_the_next_call_goes_on_with(
    folder: Path, uninterrupted: tuple[Path, Clip]
) -> None:
    done = in_a_process(INTERRUPTED, folder)
    assert done.returncode == 8, done.stderr
    assert finished(folder) % 6 == 0
    assert not [*folder.rglob("*.part")]
    assert_goes_on(folder, uninterrupted[1])


def test_a_full_disk_is_a_media_error_and_loses_no_finished_segment(
    folder: Path, uninterrupted: tuple[Path, Clip]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, StopAfter(13, KeyboardInterrupt()))
    before = {p.name: p.read_bytes() for p in (folder / "out.mp4.parts").glob("*.mp4")}
    assert before
    done = in_a_process(FULL, folder, 4000)
    assert done.returncode == 7, done.stderr
    assert "cannot be written" in done.stdout
    assert "run again to go on" in done.stdout
    after = {p.name: p.read_bytes() for p in (folder / "out.mp4.parts").glob("*.mp4")}
    assert after == before
    assert not [*folder.rglob("*.part")]
    assert_goes_on(folder, uninterrupted[1])


def test_a_disk_that_is_full_at_the_join_loses_no_frame(
    folder: Path, uninterrupted: tuple[Path, Clip]
) -> None:
    largest = 0
    with pytest.raises(KeyboardInterrupt):
        run(folder, StopAfter(19, KeyboardInterrupt()))
    largest = max(p.stat().st_size for p in (folder / "out.mp4.parts").glob("*.mp4"))
    done = in_a_process(FULL, folder, largest + 2000)
    assert done.returncode == 7, done.stderr
    assert "run again to join them" in done.stdout
    assert finished(folder) == COUNT
    assert not (folder / "out.mp4").exists()
    assert_goes_on(folder, uninterrupted[1])


def test_another_jobs_folder_is_refused_and_stays(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, StopAfter(13, KeyboardInterrupt()))
    done = finished(folder)
    with pytest.raises(vramx.MediaError, match=r"model: doubling there, other now"):
        run(folder, identity={"model": "other"})
    with pytest.raises(vramx.MediaError, match=r"segment: 6 there, 7 now"):
        run(folder, segment=7)
    write_clip(folder / "in.mp4", COUNT - 1)
    with pytest.raises(vramx.MediaError, match=r"another job .*source: "):
        run(folder)
    assert finished(folder) == done


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"job": {}, "complete": 0, "segments": [1]}'])
def test_a_damaged_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "out.mp4.parts").mkdir()
    (folder / "out.mp4.parts" / "manifest.json").write_text(content)
    with pytest.raises(vramx.MediaError, match=r"manifest.json is damaged .* begin anew"):
        run(folder)


def test_a_lost_segment_is_refused(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, StopAfter(19, KeyboardInterrupt()))
    (folder / "out.mp4.parts" / "000000.mp4").unlink()
    with pytest.raises(vramx.MediaError, match=r"lacks 000000\.mp4"):
        run(folder)


def test_a_folder_serves_one_job_at_a_time(folder: Path) -> None:
    def second(frames: Frames) -> Iterator[np.ndarray[Any, Any]]:
        with pytest.raises(vramx.MediaError, match="in use by another process"):
            run(folder)
        yield from double(frames)

    assert run(folder, second) == COUNT


# Memory and threads


def test_decoding_is_ahead_by_a_bounded_number_of_frames_and_on_another_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    frames_of = VideoSource.frames

    def watched(self: VideoSource) -> Iterator[Any]:
        for frame in frames_of(self):
            decoded.append(threading.get_ident())
            yield frame

    monkeypatch.setattr(VideoSource, "frames", watched)
    computed: list[int] = []

    def double_slowly(frames: Frames) -> Iterator[np.ndarray[Any, Any]]:
        for frame in double(frames):
            computed.append(threading.get_ident())
            assert len(decoded) <= len(computed) + 6
            yield frame

    run(folder, double_slowly)
    assert set(computed) == {threading.get_ident()}
    assert threading.get_ident() not in decoded


def test_no_thread_is_left_after_a_stop(folder: Path) -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run(folder, StopAfter(8, KeyboardInterrupt()))
    assert threading.active_count() == before


def test_a_channel_gives_what_was_put_before_the_error() -> None:
    channel: Channel[int] = Channel(3)
    assert channel.put(1)
    assert channel.put(2)
    channel.end(ValueError("late"))
    taken = []
    with pytest.raises(ValueError, match="late"):
        for item in channel:
            taken.append(item)
    assert taken == [1, 2]
    channel.leave()
    assert not channel.put(3)


def test_a_full_channel_lets_its_writer_go_when_the_taker_leaves() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    results: list[bool] = []
    writer = threading.Thread(target=lambda: results.append(channel.put(2)))
    writer.start()
    channel.leave()
    writer.join(30)
    assert results == [False]


def test_the_progress_bar_counts_frames(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vramx.progress_bar() as bar:
        run(folder, on_progress=bar)
    assert f"{COUNT}/{COUNT}" in capsys.readouterr().err
    run(folder, overwrite=True)
    assert capsys.readouterr().err == ""


# What is refused


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(20000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def sound_alone(path: Path) -> None:
    write_clip(path.with_suffix(".all.mp4"), 10)
    with av.open(str(path.with_suffix(".all.mp4"))) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    path.with_suffix(".all.mp4").unlink()


def alpha(path: Path) -> None:
    write_clip(path.with_suffix(".mkv"), 3, format="yuva420p", codec="ffv1", audio=False)
    path.with_suffix(".mkv").rename(path)


def half(path: Path) -> None:
    write_clip(path, COUNT)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (random_bytes, "cannot be read as a video"),
        (empty, "cannot be read as a video"),
        (sound_alone, "has no video stream, but audio"),
        (alpha, "is in yuva420p, with alpha or a palette: convert it"),
        (half, "cannot be read as a video"),
        (lambda _: None, "is not a file"),
    ],
)
def test_a_source_that_is_no_video_is_refused_and_nothing_is_made(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "in.mp4")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(vramx.MediaError, match=message):
        run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("audio", [False, True])
def test_a_truncated_video_is_told_and_what_was_there_is_kept(tmp_path: Path, audio: bool) -> None:
    path = tmp_path / "in.mkv"
    write_clip(path, 40, audio=audio, tail=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(vramx.MediaError, match=r"truncated|cannot be decoded"):
        run(tmp_path, source="in.mkv")
    assert finished(tmp_path) >= 12
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("target", "settings_", "error", "message"),
    [
        ("out.txt", {}, vramx.MediaError, "'.txt' is not one of .mp4"),
        ("out.webm", {}, vramx.MediaError, "cannot hold libx264, aac"),
        ("in.mp4", {}, vramx.MediaError, "is what is read"),
        ("there.mp4", {}, vramx.MediaError, "exists"),
        ("absent/out.mp4", {}, vramx.MediaError, "no folder"),
        ("out.mp4", {"codec": "no_codec"}, vramx.ConfigError, "codec 'no_codec'"),
        ("out.mp4", {"segment": 0}, vramx.ConfigError, "segment 0"),
        ("out.mp4", {"deinterlace": "yes"}, vramx.ConfigError, "'yes' is not one of 'auto', 'off'"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_any_work(
    folder: Path, target: str, settings_: dict[str, Any], error: type[Exception], message: str
) -> None:
    (folder / "there.mp4").write_bytes(b"mine")
    with pytest.raises(error, match=message):
        run(folder, lambda _: pytest.fail("worked"), target=target, **settings_)
    assert {path.name for path in folder.iterdir()} == {"in.mp4", "there.mp4"}
    assert (folder / "there.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda frames: [*double(frames)][:-1], "1 frames fewer came back"),
        (lambda frames: [*double(frames), picture(0)], "more frames came back"),
        (lambda frames: (f[: 40 + 2 * n] for n, f in enumerate(frames)), "a frame became uint8"),
        (lambda frames: (f / 255 for f in frames), "a frame became float64"),
    ],
)
def test_a_function_that_does_not_give_a_frame_for_each_is_refused(
    folder: Path, transform: Any, message: str
) -> None:
    with pytest.raises(vramx.MediaError, match=message):
        run(folder, transform)
    assert not (folder / "out.mp4").exists()


# Super resolution


def test_a_video_is_enlarged_within_the_budget(
    folder: Path,
    one_thread: None,  # noqa: ARG001
) -> None:
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
        with vramx.super_resolution(nn.Upsample(scale_factor=2), tile=32, **options) as sr:
            arguments = (folder / "in.mp4", str(folder / "out.mp4"))
            video = vramx.VideoOptions(segment=7, codec_options={"crf": "10"})
            made = sr.enlarge_video(*arguments, video)
            assert (made.frames, made.size) == (COUNT, (128, 96))
            assert sr.session.stats().peak_resident <= 32 * 2**20
            with pytest.raises(vramx.MediaError, match="exists"):
                sr.enlarge_video(*arguments)
    assert_same_pictures(read_clip(folder / "out.mp4"))


class Stopping(nn.Conv2d):
    """Is interrupted after so many calls."""

    left = 10**9

    def forward(self, x: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(x)


def enlarge_clip(folder: Path, model: nn.Module, budget: str = "32MiB", **sizes: Any) -> None:
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        options = {"budget": budget, "block": 2**16, "backend": "simulated"}
        with vramx.super_resolution(model, **sizes, **options) as sr:
            video = vramx.VideoOptions(segment=6)
            sr.enlarge_video(folder / "in.mp4", folder / "out.mp4", video)


def test_other_weights_or_tiles_do_not_go_on_with_a_job(
    folder: Path,
    one_thread: None,  # noqa: ARG001
) -> None:
    sizes = {"tile": 32, "overlap": 0, "batch": 1}
    model = Stopping(3, 3, 1)
    model.left = 10 * 4
    with pytest.raises(KeyboardInterrupt):
        enlarge_clip(folder, model, **sizes)
    model.left = 10**9
    with pytest.raises(vramx.MediaError, match="model: Stopping"):
        enlarge_clip(folder, Stopping(3, 3, 1), **sizes)
    with pytest.raises(vramx.MediaError, match="tile: 32 there, 24"):
        enlarge_clip(folder, model, **{**sizes, "tile": 24})
    enlarge_clip(folder, model, **sizes)
    assert len(read_clip(folder / "out.mp4").frames) == COUNT


def test_a_job_goes_on_in_another_budget_with_sizes_of_its_own(
    folder: Path,
    one_thread: None,  # noqa: ARG001
) -> None:
    model = Stopping(3, 3, 1)
    model.left = 8
    with pytest.raises(KeyboardInterrupt):
        enlarge_clip(folder, model, "32MiB")
    assert len([*(folder / "out.mp4.parts").glob("*.mp4")]) > 0
    model.left = 10**9
    enlarge_clip(folder, model, "128KiB")
    assert len(read_clip(folder / "out.mp4").frames) == COUNT
