"""A file that is written is whole or not there, whoever else writes beside it or was killed."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from child import run_child
from vramx.writing import written_whole


def left_over(target: Path) -> Path:
    """Where a writer of a target that was killed has left what it wrote."""
    with written_whole(target) as file:
        part = Path(str(file.name))
    target.unlink()
    return part


def test_what_is_there_stays_until_the_new_file_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    with written_whole(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    with pytest.raises(KeyboardInterrupt), written_whole(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"new"
    assert [*tmp_path.iterdir()] == [target]


def test_two_writers_of_a_target_have_a_file_each_and_the_last_to_end_stays(
    tmp_path: Path,
) -> None:
    target = tmp_path / "a.txt"
    with written_whole(target) as first:
        with written_whole(target) as second:
            assert first.name != second.name
            first.write(b"first, and longer")
            second.write(b"second")
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first, and longer"
    assert [*tmp_path.iterdir()] == [target]


def test_what_a_killed_writer_left_is_taken_away_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    target = tmp_path / "a.txt"
    part = left_over(target)
    part.write_bytes(b"left over")
    with written_whole(target) as file:
        assert Path(str(file.name)) == part
        assert part.read_bytes() == b""
    part.write_bytes(b"written now")
    with part.open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        with written_whole(target):
            pass
    assert part.read_bytes() == b"written now"


@pytest.mark.parametrize("kind", ["a link", "a dangling link", "a second name", "a pipe"])
def test_nothing_that_lies_in_the_place_of_an_unready_file_is_written_to(
    tmp_path: Path, kind: str
) -> None:
    target, mine = tmp_path / "a.txt", tmp_path / "mine"
    part = left_over(target)
    mine.write_bytes(b"mine")
    if kind == "a pipe":
        os.mkfifo(part)
    elif kind == "a second name":
        part.hardlink_to(mine)
    else:
        part.symlink_to(mine if kind == "a link" else tmp_path / "absent")
    with written_whole(target) as file:
        file.write(b"whole")
    assert (target.read_bytes(), mine.read_bytes()) == (b"whole", b"mine")
    assert not target.is_symlink()
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_mode_that_the_umask_says(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with written_whole(tmp_path / "a.txt"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


def test_the_longest_name_that_a_file_may_have_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127)
    with written_whole(target) as file:
        file.write(b"whole")
    assert target.read_bytes() == b"whole"


CUT_SHORT = """
import resource, signal, sys
from pathlib import Path

import numpy as np

import vramx
from vramx.pipelines.pictures import Beside, layout_of, picture_target

def save(pixels, path):
    with picture_target(path, layout_of(pixels), Beside()) as put:
        put(pixels)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
picture = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
folder = Path(sys.argv[1])
for suffix in sys.argv[2:]:
    whole, cut = folder / f"whole{suffix}", folder / f"cut{suffix}"
    save(picture, whole)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size - 1, resource.RLIM_INFINITY))
    try:
        save(picture, cut)
    except vramx.MediaError as error:
        assert "File too large" in str(error), error
    else:
        print(f"{suffix} was believed to be written")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not cut.exists()
"""


def test_a_write_that_is_cut_short_is_seen_whatever_the_format(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    suffixes = (".bmp", ".ppm", ".tga", ".tif", ".png", ".jpg", ".webp", ".gif", ".sgi")
    assert run_child(CUT_SHORT, str(tmp_path), *suffixes) == ""
