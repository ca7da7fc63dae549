"""A job goes on only with what it wrote itself, and looks before the work at what it needs."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vramx

pytest.importorskip("av")
pytest.importorskip("skimage.data")

from vramx.pipelines import files
from vramx.pipelines.files import check_room, least_picture_bytes
from vramx.pipelines.video import SegmentFrames, job, transform_video
from vramx.pipelines.video.manifest import parsed

from .clips import gathered, write_clip

COUNT, SEGMENT = 14, 4


def same(frames: SegmentFrames) -> Iterator[Any]:
    yield from frames


def never(frames: SegmentFrames) -> Iterator[Any]:
    raise AssertionError("worked")
    yield from frames


def stopped(frames: SegmentFrames) -> Iterator[Any]:
    """Stops in the last segment."""
    if frames.first >= 3 * SEGMENT:
        raise KeyboardInterrupt
    yield from frames


def run(folder: Path, transform: Any = same, **kw: Any) -> int:
    options = {"identity": {"model": "none"}, **gathered({"segment": SEGMENT, **kw})}
    return transform_video(folder / "in.mp4", folder / "out.mp4", transform, **options).frames


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, and the work folder of a job that was stopped."""
    folder = tmp_path_factory.mktemp("begun")
    write_clip(folder / "in.mp4", COUNT, audio=False)
    with pytest.raises(KeyboardInterrupt):
        run(folder, stopped)
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)
    return tmp_path


def manifest(folder: Path) -> Path:
    return folder / "out.mp4.parts" / "manifest.json"


def test_a_job_that_was_stopped_goes_on_with_its_segments(folder: Path) -> None:
    seen: list[int] = []

    def rest(frames: SegmentFrames) -> Iterator[Any]:
        seen.append(frames.first)
        yield from frames

    assert len(json.loads(manifest(folder).read_text())["segments"]) >= 2
    assert run(folder, rest) == COUNT
    assert seen
    assert min(seen) >= 2 * SEGMENT
    assert {path.name for path in folder.iterdir()} == {"in.mp4", "out.mp4"}


class Killed(BaseException):
    """What a signal does."""


@pytest.mark.parametrize("deleted", [0, 2])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_a_kill_left_beside_its_video_is_deleted_and_nothing_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, deleted: int, overwrite: bool
) -> None:
    def killed(path: Path) -> None:
        for each in sorted(path.glob("*.mp4"))[:deleted]:
            each.unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(job, "delete", killed)
        with pytest.raises(Killed):
            run(folder)
    made = (folder / "out.mp4").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(folder, never, overwrite=overwrite) == COUNT
    assert (folder / "out.mp4").read_bytes() == made
    assert {path.name for path in folder.iterdir()} == {"in.mp4", "out.mp4"}
    with pytest.raises(vramx.MediaError, match=r"out\.mp4 exists"):
        run(folder, never)


@pytest.mark.parametrize("change", ["another job", "another source", "another target", "a link"])
def test_a_folder_that_a_kill_left_is_taken_for_finished_by_its_own_job_and_video_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "delete", lambda _: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder)
    parts = manifest(folder).parent
    asked: dict[str, Any] = {"identity": {"model": "another"}} if change == "another job" else {}
    if change == "another source":
        write_clip(folder / "in.mp4", COUNT + 1, audio=False)
    elif change == "another target":
        shutil.copyfile(folder / "in.mp4", folder / "out.mp4")
    elif change == "a link":
        parts.symlink_to(parts.rename(folder / "elsewhere"))
    with pytest.raises(vramx.MediaError, match=r"out\.mp4 exists"):
        run(folder, never, **asked)
    assert parts.exists() == (change in ("another target", "a link"))


WRONG: dict[str, Any] = {
    "file": [5, None, "../in.mp4", "/etc/hostname", "000001.mp4", "000000.mp4/", "000000.mp4\0"],
    "frames": ["4", -4, 0, 2**63, 1.5, None, True, float("nan")],
    "first": ["0", None, 2**63, -(2**63), 0.5, [0]],
    "last": ["9", None, 2**63, -1, {}],
    "width": ["64", 0, 2**30, None],
    "height": [-48, 0, 2**30, None],
    "digest": [None, 5, "", "0" * 63, "Z" * 64],
    "counts": [None, [1], {"faces": -1}, {"faces": "1"}, {"faces": 2**63}],
}


@pytest.mark.parametrize("key", WRONG)
def test_no_value_of_a_segment_is_believed_that_cannot_be_true(begun: Path, key: str) -> None:
    good = manifest(begun).read_bytes()
    assert parsed(good).as_json() == good
    for value in WRONG[key]:
        content = json.loads(good)
        content["segments"][0][key] = value
        with pytest.raises(ValueError, match="segment 0"):
            parsed(json.dumps(content).encode())
        del content["segments"][0][key]
        with pytest.raises(ValueError, match="segment 0"):
            parsed(json.dumps(content).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"job": []},
        {"job": None},
        {"job": {"model": 5}},
        {"complete": 0},
        {"complete": None},
        {"segments": {}},
        {"segments": [1]},
        {"segments": []},
        {"segments": [], "complete": True},
        {"target": 5},
        {"target": [1]},
        {"target": ["1", 2]},
    ],
)
def test_no_manifest_is_believed_that_cannot_be_true(begun: Path, change: dict[str, Any]) -> None:
    content = {**json.loads(manifest(begun).read_bytes()), **change}
    with pytest.raises(ValueError, match=r"^(it|segment 0) "):
        parsed(json.dumps(content).encode())


def test_segments_out_of_order_or_of_several_sizes_are_not_believed(begun: Path) -> None:
    good = json.loads(manifest(begun).read_bytes())
    swapped, sizes = json.loads(json.dumps(good)), json.loads(json.dumps(good))
    first, second = swapped["segments"][:2]
    first["first"], second["first"] = second["first"], first["first"]
    first["last"], second["last"] = second["last"], first["last"]
    sizes["segments"][1]["width"] += 2
    for content, said in ((swapped, "order"), (sizes, "several sizes")):
        with pytest.raises(ValueError, match=said):
            parsed(json.dumps(content).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"job"'])
def test_a_manifest_that_is_none_is_refused_by_name_before_the_work(
    folder: Path, content: bytes
) -> None:
    manifest(folder).write_bytes(content)
    with pytest.raises(vramx.MediaError, match=r"manifest\.json is damaged \(.* begin anew"):
        run(folder, never)
    assert manifest(folder).read_bytes() == content


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, r"000000\.mp4 is not what was written there"),
        (lambda path: os.truncate(path, 700), r"000000\.mp4 is not what was written there"),
        (lambda path: path.write_bytes(b""), r"000000\.mp4 is not what was written there"),
        (
            lambda path: shutil.copy(path.with_name("000001.mp4"), path),
            r"000000\.mp4 is not what was written there",
        ),
        (lambda path: path.unlink(), r"lacks 000000\.mp4"),
        (link, "cannot be used as a work folder: .*000000"),
    ],
)
def test_a_segment_that_is_not_what_was_written_is_refused_before_the_work(
    folder: Path, change: Callable[[Path], Any], said: str
) -> None:
    change(folder / "out.mp4.parts" / "000000.mp4")
    with pytest.raises(vramx.MediaError, match=said):
        run(folder, never)


def test_a_change_anywhere_in_the_source_is_seen_before_the_work(folder: Path) -> None:
    flip(folder / "in.mp4")
    with pytest.raises(vramx.MediaError, match=r"holds part of another job \(source: "):
        run(folder, never)


def test_of_a_source_that_changes_meanwhile_nothing_is_kept(folder: Path) -> None:
    def growing(frames: SegmentFrames) -> Iterator[Any]:
        for frame in frames:
            with (folder / "in.mp4").open("ab") as file:
                file.write(b"more")
            yield frame

    with pytest.raises(vramx.MediaError, match="was changed while it was read"):
        run(folder, growing)
    assert {path.name for path in folder.iterdir()} == {"in.mp4"}


# What is in the way of a target


def lead(place: Path, to: Path) -> None:
    to.mkdir()
    place.symlink_to(to)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.symlink_to("elsewhere.mp4"), "is a link"),
        (lambda path: path.symlink_to("absent.mp4"), "is a link"),
        (lambda path: path.mkdir(), "is a folder"),
        (os.mkfifo, "is a device, a pipe or a socket"),
        (lambda path: lead(path.with_name("out.mp4.parts"), path.with_name("to")), "is a link"),
        (lambda path: path.with_name("out.mp4.parts").write_bytes(b""), "as a work folder"),
    ],
)
def test_what_is_in_the_way_of_a_target_is_named_before_the_work_and_stays(
    tmp_path: Path, begun: Path, make: Callable[[Path], Any], said: str
) -> None:
    shutil.copy(begun / "in.mp4", tmp_path)
    (tmp_path / "elsewhere.mp4").write_bytes(b"mine")
    make(tmp_path / "out.mp4")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(vramx.MediaError, match=said):
        run(tmp_path, never, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "elsewhere.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["", "out.mp4.parts"])
def test_a_folder_that_may_not_be_written_is_told_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != folder / place and allowed(path, mode)
    )
    with pytest.raises(vramx.MediaError, match=r"read-only for this user|by this user"):
        run(folder, never)


Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_is_told_before_the_work_with_what_is_needed_and_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (folder / "in.mp4").stat().st_size
    done = sum(path.stat().st_size for path in (folder / "out.mp4.parts").glob("*.mp4"))
    least = 2 * (size * 16 // 4) - done
    free = [least - 1]
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: Usage(10**9, 0, free[0]))
    with pytest.raises(vramx.MediaError, match=r"takes at least .*KiB, and .*KiB are free"):
        run(folder, never, size=lambda width, height: (4 * width, 4 * height))
    free[0] = least
    assert run(folder, size=lambda width, height: (4 * width, 4 * height)) == COUNT


@pytest.mark.parametrize("name", ["BMP", "PPM", "TGA", "TIFF", "PNG", "GIF", "JPEG", "WEBP"])
def test_a_picture_is_never_said_to_take_more_than_it_does(tmp_path: Path, name: str) -> None:
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(data.astronaut()[:200, :200]).resize((800, 800), Image.BICUBIC)
    picture.save(path := tmp_path / "a", name)
    samples = picture.width * picture.height * (1 if name == "GIF" else 3)
    least = least_picture_bytes(samples, name)
    assert 0 < least <= path.stat().st_size
    check_room(path, least)
