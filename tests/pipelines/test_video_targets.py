"""A target has what its source had beside the pictures, in the way that players look for it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import vramx
from vramx import VideoOptions

av = pytest.importorskip("av")
pytest.importorskip("skimage.data")

from av.stream import Disposition  # noqa: E402
from PIL import Image  # noqa: E402

from vramx.pipelines.video import SegmentFrames, transform_video  # noqa: E402

from .clips import picture, write_clip  # noqa: E402

SUBTITLES = "1\n00:00:00,100 --> 00:00:00,300\nGuten Tag\n\n2\n00:00:00,400 --> 00:00:00,500\nJa\n"


def same(frames: SegmentFrames) -> Iterator[Any]:
    yield from frames


def never(frames: SegmentFrames) -> Iterator[Any]:
    raise AssertionError("worked")
    yield from frames


def write_film(path: Path) -> None:
    """Write pictures, sound, subtitles and chapters, all with what is said of them."""
    clip_path, words_path = path.with_name("clip.mp4"), path.with_name("words.srt")
    write_clip(clip_path)
    words_path.write_text(SUBTITLES)
    with (
        av.open(str(clip_path)) as clip,
        av.open(str(words_path)) as words,
        av.open(str(path), "w") as container,
    ):
        added = {
            stream: container.add_stream_from_template(stream)
            for stream in (*clip.streams, *words.streams)
        }
        for stream, copy in added.items():
            copy.metadata.update({"language": "deu", "title": f"my {stream.type}"})
        added[clip.streams.audio[0]].disposition = Disposition.comment
        added[words.streams[0]].disposition = Disposition.forced
        unit = Fraction(1, 1000)
        container.set_chapters(
            [
                {"id": n, "start": n, "end": n + 300, "time_base": unit, "metadata": {"title": t}}
                for n, t in ((0, "one"), (300, "two"))
            ]
        )
        for packet in (*clip.demux(), *words.demux()):
            if packet.dts is not None:
                packet.stream = added[packet.stream]
                container.mux(packet)
    clip_path.unlink()
    words_path.unlink()


def said_beside(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        chapters = [(c["start"] * c["time_base"], c["metadata"]) for c in container.chapters()]
        streams = [*container.streams.audio, *container.streams.subtitles]
        said = [(s.type, s.language, s.metadata.get("title"), s.disposition) for s in streams]
    return [*chapters, *said]


def subtitles(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets]


def test_sound_subtitles_and_chapters_come_with_what_is_said_of_them(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    write_film(source)
    transform_video(source, target, same, identity={})
    assert len(said_beside(source)) == 4
    assert said_beside(target) == said_beside(source)
    assert [text for _, text in subtitles(target)] == [b"Guten Tag", b"Ja"]
    assert subtitles(target) == subtitles(source)


def test_subtitles_that_a_target_has_no_place_for_are_told_before_the_work(tmp_path: Path) -> None:
    write_film(tmp_path / "in.mkv")
    with (
        pytest.warns(RuntimeWarning, match=r"out\.mp4 has no subtitles, .* hold \w+ in \w+: "),
        pytest.raises(AssertionError, match="worked"),
    ):
        transform_video(tmp_path / "in.mkv", tmp_path / "out.mp4", never, identity={})


# Files within a file


def write_with(path: Path, add: Callable[[Any, Any], Any], cover: bytes = b"") -> None:
    """Write a clip to which something was added; a cover as a stream of its own where it is one."""
    clip_path = path.with_name("clip.mp4")
    write_clip(clip_path, 5)
    with av.open(str(clip_path)) as clip, av.open(str(path), "w") as container:
        streams = {each: container.add_stream_from_template(each) for each in clip.streams}
        video = streams[clip.streams.video[0]]
        video.codec_context.framerate = 25
        video.time_base = clip.streams.video[0].time_base
        shown = add(container, video)
        if shown is not None:
            packet = av.Packet(cover)
            packet.pts = packet.dts = 0
            packet.stream = shown
            container.mux(packet)
        for packet in clip.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                container.mux(packet)
    clip_path.unlink()


def add_files(container: Any, _: Any) -> None:
    container.add_attachment("my font.ttf", "application/x-truetype-font", b"a font")
    container.add_attachment("cover.jpg", "image/jpeg", COVER)


def add_cover(container: Any, _: Any) -> Any:
    with av.open(io.BytesIO(COVER), format="mjpeg") as picture:
        stream = container.add_stream_from_template(picture.streams.video[0], opaque=True)
    stream.disposition = Disposition.attached_pic
    return stream


def add_timecode(_: Any, video: Any) -> None:
    video.metadata["timecode"] = "01:02:03:04"


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "JPEG")
    return file.getvalue()


COVER = jpeg()
FONT = ("attachment", "my font.ttf", b"a font")


def files_within(path: Path) -> list[Any]:
    """Tell what is beside pictures and sound: attachments, covers and timecodes."""
    found: list[Any] = []
    with av.open(str(path)) as container:
        attached = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        for packet in container.demux(*attached) if attached else ():
            if packet.size:
                found.append(("cover", bytes(packet)))
        for stream in container.streams:
            if stream.type == "attachment":
                found.append(("attachment", stream.name, bytes(stream.data)))
        said = {key.lower(): text for key, text in container.streams.video[0].metadata.items()}
        if "timecode" in said:
            found.append(("timecode", said["timecode"]))
    return found


@pytest.mark.parametrize(
    ("source", "add", "target", "kept", "told"),
    [
        ("in.mkv", add_files, "o.mkv", [("cover", COVER), FONT], ""),
        ("in.mkv", add_files, "o.mp4", [("cover", COVER)], "the attachment my font.ttf"),
        ("in.mkv", add_files, "o.mov", [], "the attachment my font.ttf, a cover picture"),
        ("in.mp4", add_cover, "o.mp4", [("cover", COVER)], ""),
        ("in.mp4", add_cover, "o.mkv", [("cover", COVER)], ""),
        ("in.mov", add_timecode, "o.mov", [("timecode", "01:02:03:04")], ""),
        ("in.mov", add_timecode, "o.mp4", [("timecode", "01:02:03:04")], ""),
        ("in.mov", add_timecode, "o.mkv", [("timecode", "01:02:03:04")], ""),
    ],
)
def test_what_else_is_in_a_file_is_copied_or_told(
    tmp_path: Path, source: str, add: Any, target: str, kept: list[Any], told: str
) -> None:
    write_with(tmp_path / source, add, COVER)
    assert files_within(tmp_path / source)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        transform_video(tmp_path / source, tmp_path / target, same, identity={})
    texts = [str(each.message) for each in said if each.category is RuntimeWarning]
    assert len(texts) == bool(told)
    assert all(f"{target} is without {told}, which " in text for text in texts)
    assert files_within(tmp_path / target) == kept


def test_time_codes_that_begin_before_a_part_are_told(tmp_path: Path) -> None:
    write_with(tmp_path / "in.mov", add_timecode)
    with pytest.warns(RuntimeWarning, match=r"o\.mov has no time codes, since "):
        transform_video(
            tmp_path / "in.mov",
            tmp_path / "o.mov",
            same,
            identity={},
            options=VideoOptions(start=0.05),
        )
    assert files_within(tmp_path / "o.mov") == []


def test_a_second_camera_in_a_file_is_told(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        cameras = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for camera in cameras:
            camera.width, camera.height, camera.pix_fmt = 64, 48, "yuv420p"
        for number in range(3):
            for camera in cameras:
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts = number
                container.mux(camera.encode(frame))
        for camera in cameras:
            container.mux(camera.encode(None))
    with pytest.warns(RuntimeWarning, match=r"o\.mkv is without stream 1 of video, which "):
        transform_video(tmp_path / "in.mkv", tmp_path / "o.mkv", same, identity={})


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_players_find_the_index_first_and_h265_by_its_tag(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    write_clip(tmp_path / "in.mp4")
    quiet = {"x265-params": "log-level=none"}
    transform_video(
        tmp_path / "in.mp4",
        target,
        same,
        identity={},
        options=VideoOptions(codec="libx265", codec_options=quiet),
    )
    content = target.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(
    ("target", "codec", "options", "error", "message"),
    [
        ("o.mp4", "libx264", {"crff": "1"}, vramx.ConfigError, "has no option crff"),
        ("o.mp4", "libx264", {"crf": "much"}, vramx.ConfigError, "option crf to value much"),
        ("o.mp4", "libx264", {"x264-params": "crff=1"}, vramx.ConfigError, "passes over .*crff"),
        ("o.mp4", "libx265", {"x265-params": "crff=1"}, vramx.ConfigError, "passes over .*crff"),
        ("o.mp4", "libx264", {"bf": "3"}, vramx.ConfigError, "in another order"),
        ("o.mp4", "libx264", {"x264-params": "bframes=3"}, vramx.ConfigError, "in another order"),
        ("o.mkv", "libx264rgb", {}, vramx.ConfigError, "takes no YUV frames"),
        ("o.mp4", "prores_ks", {}, vramx.MediaError, r"cannot hold prores_ks, aac .* try \.mkv"),
    ],
)
def test_what_an_encoder_or_a_container_does_not_take_is_told_before_the_work(
    tmp_path: Path,
    target: str,
    codec: str,
    options: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    write_clip(tmp_path / "in.mp4")
    with pytest.raises(error, match=message):
        transform_video(
            tmp_path / "in.mp4",
            tmp_path / target,
            never,
            identity={},
            options=VideoOptions(codec=codec, codec_options=options),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
