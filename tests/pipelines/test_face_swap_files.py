"""Faces in files are swapped whole: every frame once, with its sound, also after a stop."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramx

av = pytest.importorskip("av")
PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage.data")

from forkserver import processes  # noqa: E402
from vramx.pipelines import files  # noqa: E402

from .clips import X264, Clip, read_clip, write_clip  # noqa: E402
from .face_networks import (  # noqa: E402
    MeanColour,
    Painter,
    PatchDetector,
    background,
    draw_face,
    portrait,
)

#: How often jobs are stopped at random: twice for each of these, of which `make thorough` has 10.
KILLS = int(os.environ.get("VRAMX_TEST_KILLS", "2"))
COUNT = 20
SEGMENT = 6
#: Frames of the clip: without a face, and with two.
EMPTY, DOUBLE = range(5, 9), range(14, 16)
WANTED = {"frames": 20, "faces": 18, "swapped": 18, "without_face": 4, "unchanged": 4}
WANTED |= {"unfit": 0, "lost": 0}
Usage = namedtuple("Usage", ["total", "used", "free"])
#: What lossy coding changes on average, of 255.
LOSS = 4.0


def picture(number: int) -> np.ndarray[Any, Any]:
    """A red face that moves, at times none, at times a green one too."""
    drawn = background(shift=2 * number)
    if number not in EMPTY:
        draw_face(drawn, "red", 10 + number, 6 + 3 * number, side=36)
    if number in DOUBLE:
        draw_face(drawn, "green", 4, 2, side=32)
    return drawn


@contextmanager
def swapping(swapper: Any = None, **options: Any) -> Iterator[Any]:
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        card = {"budget": "1MiB", "block": 2**16, "backend": "simulated"}
        with vramx.face_swap(
            PatchDetector(), MeanColour(), swapper or Painter(), **card, **options
        ) as fs:
            yield fs


def run(folder: Path, out: str = "out.mp4", swapper: Any = None, **options: Any) -> Any:
    given_ = {key: options.pop(key) for key in ("overwrite", "on_progress") if key in options}
    source = options.pop("source", portrait("blue"))
    with swapping(swapper, **options) as fs:
        return fs.swap_video(
            source,
            folder / "in.mp4",
            folder / out,
            vramx.VideoOptions(segment=SEGMENT, codec_options=X264),
            **given_,
        )


def finished(folder: Path) -> int:
    manifest = json.loads((folder / "out.mp4.parts" / "manifest.json").read_text())
    return sum(segment["frames"] for segment in manifest["segments"])


class Stopping(Painter):
    """Stops as an interrupt does, when it has been called so often."""

    def __init__(self, left: int, error: BaseException) -> None:
        super().__init__()
        self.left = left
        self.error = error

    def forward(self, crops: Any, embeddings: Any) -> Any:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return super().forward(crops, embeddings)


# A model is known by its class's name, so the tests' own must have one name.
Stopping.__qualname__ = Painter.__qualname__


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Small tensors are no faster on more threads."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clip(tmp_path / "in.mp4", COUNT, draw=picture)
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clip]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_clip(folder / "in.mp4", COUNT, draw=picture)
    assert asdict(run(folder)) == WANTED
    return folder, read_clip(folder / "out.mp4")


def same(one: Clip, other: Clip) -> bool:
    return (
        one.times == other.times
        and one.audio == other.audio
        and len(one.frames) == len(other.frames)
        and all(np.array_equal(a, b) for a, b in zip(one.frames, other.frames))
    )


def test_a_clip_comes_out_with_its_size_times_and_sound_and_with_other_faces(
    uninterrupted: tuple[Path, Clip],
) -> None:
    folder, after = uninterrupted
    before = read_clip(folder / "in.mp4")
    assert len(after.frames) == COUNT
    assert after.times == before.times
    assert after.audio == before.audio
    assert after.audio
    for number, (old, new) in enumerate(zip(before.frames, after.frames, strict=True)):
        assert new.shape == old.shape
        off = np.abs(new.astype(int) - old)
        assert off[:, 110:].mean() < LOSS
        if number in EMPTY:
            assert off.mean() < LOSS
        else:
            nose = new[10 + number + 23, 6 + 3 * number + 18].astype(int)
            assert nose[0] < 170
            assert nose[2] > 100
    assert {path.name for path in folder.iterdir()} == {"in.mp4", "out.mp4"}


def test_the_result_counts_just_the_faces_that_are_meant(folder: Path) -> None:
    result = run(folder, reference=portrait("green"))
    assert asdict(result) == {**WANTED, "swapped": 2, "unchanged": COUNT - 2}


@settings(
    max_examples=2 * KILLS,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=st.lists(st.integers(0, 5), min_size=1, max_size=3), batch=st.integers(1, 4))
def test_a_job_that_was_stopped_ends_as_one_that_was_not_in_frames_and_counts(
    tmp_path_factory: pytest.TempPathFactory,
    uninterrupted: tuple[Path, Clip],
    calls: list[int],
    batch: int,
) -> None:
    source, wanted = uninterrupted
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "in.mp4").write_bytes((source / "in.mp4").read_bytes())
    for left in calls:
        try:
            run(folder, swapper=Stopping(left, KeyboardInterrupt()), batch=batch)
        except KeyboardInterrupt:
            assert not (folder / "out.mp4").exists()
            continue
        break
    if not (folder / "out.mp4").exists():
        assert asdict(run(folder, batch=batch)) == WANTED
    assert same(read_clip(folder / "out.mp4"), wanted)


def run_until_killed(folder: Path) -> None:
    """Run in a process that is killed once two segments are there."""

    class Dying(Painter):
        def forward(self, *given: Any) -> Any:
            if len(list((folder / "out.mp4.parts").glob("*.mp4"))) == 2:
                os._exit(9)
            return super().forward(*given)

    Dying.__qualname__ = Painter.__qualname__
    run(folder, swapper=Dying())


def run_on_a_full_disk(folder: Path, told: Connection) -> None:
    """Run in a process that may write no larger files; tell what it ends with."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
    with pytest.raises(vramx.MediaError) as caught:
        run(folder)
    told.send(str(caught.value))


def test_a_job_whose_process_was_killed_goes_on(
    folder: Path, uninterrupted: tuple[Path, Clip]
) -> None:
    process = processes.Process(target=run_until_killed, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert finished(folder) in (6, 12)  # the kill may come before the manifest
    assert asdict(run(folder)) == WANTED
    assert same(read_clip(folder / "out.mp4"), uninterrupted[1])


def test_a_full_disk_is_a_media_error_and_loses_no_finished_frame(
    folder: Path, uninterrupted: tuple[Path, Clip]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, swapper=Stopping(4, KeyboardInterrupt()))
    before = {p.name: p.read_bytes() for p in (folder / "out.mp4.parts").glob("*.mp4")}
    assert before
    heard, told = processes.Pipe(duplex=False)
    process = processes.Process(target=run_on_a_full_disk, args=(folder, told))
    process.start()
    told.close()
    assert "run again to go on" in heard.recv()
    process.join()
    assert process.exitcode == 0
    after = {p.name: p.read_bytes() for p in (folder / "out.mp4.parts").glob("*.mp4")}
    assert after == before
    assert asdict(run(folder)) == WANTED
    assert same(read_clip(folder / "out.mp4"), uninterrupted[1])


def test_an_error_for_no_face_names_the_frame_and_keeps_the_segments_before(folder: Path) -> None:
    with pytest.raises(vramx.NoFaceError, match=r"in\.mp4, frame 5: no face was found"):
        run(folder, on_no_face="error")
    with pytest.raises(vramx.NoFaceError, match=r"frame 0: of 1 faces none resembles"):
        run(folder, "other.mp4", on_no_face="error", reference=portrait("green"))
    draw: Callable[[int], Any] = lambda n: picture(n if n not in EMPTY else 0)  # noqa: E731
    write_clip(folder / "in.mp4", COUNT, draw=lambda n: background() if n == 13 else draw(n))
    # Where no segment was finished there is nothing of another job.
    with pytest.raises(vramx.NoFaceError, match=r"frame 13: no face"):
        run(folder, on_no_face="error", batch=3)
    assert finished(folder) in (6, 12)
    with pytest.raises(vramx.NoFaceError, match=r"frame 13: no face"):  # also when it goes on
        run(folder, on_no_face="error", batch=3)
    result = run(folder, batch=3)
    assert (result.frames, result.without_face) == (COUNT, 1)


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({"source": portrait("green")}, "face: "),
        ({"swapper": Painter(0.5, layers=2)}, "swapper: Painter"),
        ({"swapper": vramx.FaceModel(Painter(), order="BGR")}, "swapper: Painter"),
        ({"reference": portrait("red")}, "faces: all, like none"),
        ({"faces": "largest"}, "faces: all, like"),
        ({"score": 0.6}, "score: 0.5 there, 0.6 now"),
        ({"feather": 0.2}, "feather: 0.1 there, 0.2 now"),
    ],
)
def test_another_jobs_folder_is_refused_and_stays(
    folder: Path, options: dict[str, Any], differs: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, swapper=Stopping(4, KeyboardInterrupt()))
    done = finished(folder)
    with pytest.raises(vramx.MediaError, match=rf"another job \({differs}"):
        run(folder, **options)
    assert finished(folder) == done


def test_the_progress_bar_counts_frames(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vramx.progress_bar() as bar:
        run(folder, on_progress=bar)
    assert f"{COUNT}/{COUNT}" in capsys.readouterr().err


# Pictures


def test_a_picture_is_swapped_upright_with_its_profile(tmp_path: Path) -> None:
    image = PIL_Image.fromarray(picture(0)[::-1, ::-1])
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 3, "a camera"
    image.save(tmp_path / "in.png", exif=exif, icc_profile=b"a profile")
    PIL_Image.fromarray(portrait("blue")).save(tmp_path / "me.png")
    with swapping() as fs:
        result = fs.swap_picture(tmp_path / "me.png", tmp_path / "in.png", tmp_path / "out.png")
        wanted = fs(portrait("blue"), picture(0))
    assert (result.frames, result.faces, result.swapped, result.unchanged) == (1, 1, 1, 0)
    with PIL_Image.open(tmp_path / "out.png") as made:
        assert made.info["icc_profile"] == b"a profile"
        assert dict(made.getexif()) == {0x010F: "a camera"}
        assert np.array_equal(np.asarray(made), wanted)


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(20000))


def truncated(path: Path) -> None:
    if path.suffix == ".mp4":
        write_clip(path, COUNT, draw=picture)
    else:
        PIL_Image.fromarray(picture(0)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", [".mp4", ".png"])
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (noise, "cannot be read"),
        (truncated, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda _: None, "is not a file"),
    ],
)
def test_what_is_no_whole_file_is_refused_and_nothing_is_made(
    tmp_path: Path, suffix: str, write: Callable[[Path], None], message: str
) -> None:
    target = tmp_path / f"in{suffix}"
    write(target)
    before = {path.name for path in tmp_path.iterdir()}
    with swapping() as fs:
        swap = fs.swap_video if suffix == ".mp4" else fs.swap_picture
        with pytest.raises(vramx.MediaError, match=message):
            swap(portrait("blue"), target, tmp_path / f"out{suffix}")
        if suffix == ".png":  # as a source too
            PIL_Image.fromarray(picture(0)).save(tmp_path / "there.png")
            with pytest.raises(vramx.MediaError, match=message):
                swap(target, tmp_path / "there.png", tmp_path / "out.png")
            (tmp_path / "there.png").unlink()
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("out", "overwrite", "message"),
    [
        ("in.png", True, "is what is read"),
        ("me.png", False, "exists"),
        ("me.png", True, "is the picture of the face to put in"),
        ("out.txt", False, "is no picture format"),
        ("absent/out.png", False, "no folder"),
    ],
)
def test_an_out_that_cannot_be_is_refused_and_what_is_there_stays(
    tmp_path: Path, out: str, overwrite: bool, message: str
) -> None:
    PIL_Image.fromarray(picture(0)).save(tmp_path / "in.png")
    PIL_Image.fromarray(portrait("blue")).save(tmp_path / "me.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    paths = (tmp_path / "me.png", tmp_path / "in.png", tmp_path / out)
    with swapping() as fs, pytest.raises(vramx.MediaError, match=message):
        fs.swap_picture(*paths, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_picture_is_made_by_one_process_and_where_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL_Image.fromarray(picture(0)).save(tmp_path / "in.png")
    PIL_Image.fromarray(picture(0)).save(
        tmp_path / "in.tif", save_all=True, append_images=[PIL_Image.fromarray(picture(1))]
    )
    with swapping() as fs:
        with (
            files.claimed(out := tmp_path / "out.png"),
            pytest.raises(files.TakenError, match="in use by another process"),
        ):
            fs.swap_picture(portrait("blue"), tmp_path / "in.png", out)
        page = int(0.95 * picture(0).size)
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _: Usage(10**9, 0, 2 * page - 1))
        with pytest.raises(vramx.MediaError, match="takes at least"):
            fs.swap_picture(portrait("blue"), tmp_path / "in.tif", tmp_path / "out.tif")
        assert {each.name for each in tmp_path.iterdir()} == {"in.png", "in.tif"}
        monkeypatch.undo()
        assert fs.swap_picture(portrait("blue"), tmp_path / "in.tif", tmp_path / "out.tif").frames
