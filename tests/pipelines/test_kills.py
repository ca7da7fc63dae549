"""Whatever moment a process is killed at, results are whole, made once, and the same bytes.

``VRAMX_TEST_KILLS`` says at how many moments of each, 2 unless set; `make thorough` tries 10,
and `make kills` 50.
"""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("skimage.data")
from PIL import Image

from forkserver import processes

from . import killed
from .clips import write_clip

KILLS = int(os.environ.get("VRAMX_TEST_KILLS", "2"))
PATIENCE = 60
FRAMES, PICTURES = 22, 8


class Child:
    """A process at work."""

    def __init__(self, work: Callable[[str, Connection], None], folder: Path) -> None:
        self._told, told = processes.Pipe(duplex=False)
        self.process: BaseProcess = processes.Process(target=work, args=(str(folder), told))
        self.process.start()
        told.close()
        assert self._told.poll(PATIENCE)
        assert self._told.recv() == "go"

    def kill_after(self, seconds: float) -> None:
        self.process.join(seconds)
        self.process.kill()
        self.process.join(PATIENCE)

    def end(self) -> float:
        """Wait for its end; tell how long the work took."""
        assert self._told.poll(PATIENCE), "it hangs"
        took: float = self._told.recv()
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0
        return took


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.timeout(60 + 20 * KILLS)
def test_a_video_whose_process_is_killed_becomes_the_same_bytes(tmp_path: Path) -> None:
    moments = random.Random(21)
    calm = tmp_path / "calm"
    calm.mkdir()
    write_clip(calm / "in.mp4", FRAMES)
    took = Child(killed.video, calm).end()
    wanted = (calm / "out.mp4").read_bytes()
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "in.mp4").hardlink_to(calm / "in.mp4")
        target = folder / "out.mp4"
        for _ in range(moments.randint(1, 3)):
            if not target.exists():
                Child(killed.video, folder).kill_after(moments.uniform(0, took))
        if not target.exists():
            Child(killed.video, folder).end()
            assert names(folder) == {"in.mp4", "out.mp4"}
        assert target.read_bytes() == wanted


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder of pictures."""
    (folder := tmp_path / "in").mkdir()
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = generator.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def test_a_process_that_is_killed_when_a_picture_is_there_leaves_nothing_beside_it_for_good(
    sources: Path,
) -> None:
    child = Child(killed.pictures_until_one_is_there, sources.parent)
    child.process.join(PATIENCE)
    assert child.process.exitcode == -signal.SIGKILL
    assert "00.png" in names(made := sources.with_name("out"))
    Child(killed.pictures, sources.parent).end()
    assert names(made) == names(sources)


@pytest.mark.timeout(60 + 20 * KILLS)
def test_a_folder_by_two_processes_of_which_some_are_killed_is_made_once_and_the_same(
    tmp_path: Path, sources: Path
) -> None:
    moments = random.Random(21)

    def folder_of(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "in").symlink_to(sources)
        return tmp_path / name

    def results(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}

    calm = folder_of("calm")
    took = Child(killed.pictures, calm).end()
    wanted = results(calm)
    assert len(wanted) == PICTURES
    for number in range(KILLS):
        folder = folder_of(str(number))
        two = [Child(killed.pictures, folder) for _ in range(2)]
        dead = two[: moments.randint(0, 2)]
        for child in dead:
            child.kill_after(moments.uniform(0, took / 2))
        if len(dead) == 2:
            two.append(Child(killed.pictures, folder))
        for child in two[len(dead) :]:
            child.end()
        assert results(folder) == wanted
        assert_made_once(folder / "log", {child.process.pid for child in dead})


def assert_made_once(log: Path, dead: set[Any]) -> None:
    """Whoever makes a picture again does so since the one before was killed at it."""
    makers: defaultdict[str, list[int]] = defaultdict(list)
    for line in log.read_text().splitlines():
        name, pid = line.split()
        makers[name].append(int(pid))
    assert len(makers) == PICTURES
    assert all(pid in dead for each in makers.values() for pid in each[:-1])
