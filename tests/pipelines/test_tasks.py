"""Tasks do what the pipelines do, tell how far they are, and stop so that they can go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vramx
from vramx import Progress, Stop, StoppedError, VideoOptions
from vramx.pipelines.options import PictureOptions, SwapOptions, UpscaleOptions
from vramx.tasks import (
    FaceModels,
    FaceModelSpec,
    FacesTask,
    SessionOptions,
    SwapTask,
    Task,
    TaskError,
    UpscalerSpec,
    UpscaleTask,
    run,
)

torch = pytest.importorskip("torch")
pytest.importorskip("av")
pytest.importorskip("skimage.data")
Image = pytest.importorskip("PIL.Image")

from vramx.pipelines.video import transform_video  # noqa: E402

from . import clips  # noqa: E402
from .face_networks import portrait  # noqa: E402
from .test_face_swap_files import picture as picture_of_faces  # noqa: E402

FRAMES, SEGMENT = 20, 4
LIMIT = 60
MIB = 2**20
NETWORK = UpscalerSpec("pipelines.networks:enlarger")
FACES = FaceModels(
    *(
        FaceModelSpec(f"pipelines.face_networks:{name}")
        for name in ("PatchDetector", "MeanColour", "Painter")
    )
)
CARD = SessionOptions(budget=8 * MIB, backend="simulated", block="64KiB")
VIDEO = VideoOptions(segment=SEGMENT, codec_options=clips.X264)

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, a moving one, two clips, a folder of pictures and a face; read only."""
    folder = tmp_path_factory.mktemp("media")
    clips.write_clip(folder / "in.mp4", FRAMES)
    clips.write_clip(folder / "in.mkv", FRAMES)  # which seems to have 22, by its length and rate
    clips.write_clip(folder / "faces.mp4", FRAMES, draw=picture_of_faces)
    pictures = [Image.fromarray(clips.picture(number)) for number in range(3)]
    pictures[0].save(folder / "in.png")
    pictures[0].save(folder / "in.gif", save_all=True, append_images=pictures[1:])
    Image.fromarray(portrait("blue")).save(folder / "me.png")
    Image.fromarray(picture_of_faces(0)).save(folder / "face.png")
    (folder / "in").mkdir()
    for number, each in enumerate(pictures):
        each.save(folder / "in" / f"{number}.png")
    return folder


def upscale(source: Path, target: Path, **fields: Any) -> UpscaleTask:
    given = {"model": NETWORK, "session": CARD, "video": VIDEO, **fields}
    return UpscaleTask(source=source, target=target, **given)


def swap(target: Path, out: Path, **fields: Any) -> SwapTask:
    given = {"models": FACES, "session": CARD, "video": VIDEO, **fields}
    return SwapTask(source=target.with_name("me.png"), target=target, out=out, **given)


Make = Callable[[Path, Path], Task[Any]]


def upscale_video(media: Path, folder: Path) -> UpscaleTask:
    return upscale(media / "in.mp4", folder / "out.mp4")


def swap_video(media: Path, folder: Path) -> SwapTask:
    return swap(media / "faces.mp4", folder / "out.mp4")


@pytest.fixture(scope="module", params=[upscale_video, swap_video])
def video(
    request: pytest.FixtureRequest, media: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Make, bytes]:
    """What makes a task of a video, and the bytes of its target when nothing stops it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(request.param(media, folder))
    return request.param, (folder / "out.mp4").read_bytes()


# Stops


class StopAt:
    """Stops when so much is done."""

    def __init__(self, done: int) -> None:
        self.stop = Stop()
        self._done = done

    def __call__(self, progress: Progress) -> None:
        if progress.done >= self._done:
            self.stop.stop()


def test_a_stopped_video_keeps_its_segments_and_ends_with_the_same_bytes(
    media: Path, tmp_path: Path, video: tuple[Make, bytes]
) -> None:
    make, uninterrupted = video
    task = make(media, tmp_path)
    stopping = StopAt(SEGMENT + 1)
    with pytest.raises(StoppedError, match="goes on") as stopped:
        run(task, on_progress=stopping, stop=stopping.stop)
    assert stopped.value.done in (SEGMENT, 2 * SEGMENT)
    assert stopped.value.kept == tmp_path / "out.mp4.parts"
    assert len([*stopped.value.kept.glob("*.mp4")]) * SEGMENT == stopped.value.done
    assert not (tmp_path / "out.mp4").exists()
    told: list[Progress] = []
    run(task, on_progress=told.append)
    assert told[0].done == stopped.value.done
    assert (tmp_path / "out.mp4").read_bytes() == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_video_that_is_stopped_again_before_its_first_new_frame_loses_none(
    media: Path, tmp_path: Path
) -> None:
    task = upscale_video(media, tmp_path)
    kept = []
    for done in (SEGMENT + 1, 0):
        stopping = StopAt(done)
        with pytest.raises(StoppedError) as stopped:
            run(task, on_progress=stopping, stop=stopping.stop)
        kept.append(stopped.value.done)
    assert kept[0] == kept[1] > 0


def test_what_is_stopped_while_finished_frames_are_passed_by_computes_nothing(
    media: Path, tmp_path: Path
) -> None:
    def work(*, transform: Any, **more: Any) -> None:
        target = tmp_path / "out.mp4"
        transform_video(media / "in.mp4", target, transform, identity={}, options=VIDEO, **more)

    def never(_: Any) -> Any:
        raise AssertionError("computed")

    for done, transform in ((SEGMENT + 1, iter), (0, never)):
        stopping = StopAt(done)
        with pytest.raises(StoppedError):
            work(transform=transform, on_progress=stopping, stop=stopping.stop)


def test_a_video_that_is_stopped_before_a_segment_is_finished_keeps_nothing(
    media: Path, tmp_path: Path
) -> None:
    stopping = StopAt(0)
    with pytest.raises(StoppedError, match="no segment was finished") as stopped:
        run(upscale_video(media, tmp_path), on_progress=stopping, stop=stopping.stop)
    assert (stopped.value.done, stopped.value.kept) == (0, None)


@pytest.mark.parametrize("kind", [upscale, swap])
def test_a_stopped_folder_keeps_its_pictures_and_goes_on(
    media: Path, tmp_path: Path, kind: Any
) -> None:
    task = kind(media / "in", tmp_path / "out")
    stopping = StopAt(1)
    with pytest.raises(StoppedError, match="1 of its 3 pictures") as stopped:
        run(task, on_progress=stopping, stop=stopping.stop)
    assert (stopped.value.done, stopped.value.kept) == (1, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.png"]
    done = run(task).to_dict()
    assert [Path(each).name for each in done["skipped"]] == ["0.png"]
    assert len(done["files"]) == 2


def test_faces_are_looked_for_until_it_is_stopped(media: Path, tmp_path: Path) -> None:
    task = FacesTask(
        target=media / "faces.mp4", folder=tmp_path / "who", models=FACES, session=CARD
    )
    stopping = StopAt(5)
    with pytest.raises(StoppedError, match="after 5 frames") as stopped:
        run(task, on_progress=stopping, stop=stopping.stop)
    assert (stopped.value.done, stopped.value.kept) == (5, tmp_path / "who")


def test_a_task_that_is_stopped_before_it_begins_makes_nothing(media: Path, tmp_path: Path) -> None:
    stop = Stop()
    stop.stop()
    with pytest.raises(StoppedError):
        run(upscale(media / "in.png", tmp_path / "out.png"), stop=stop)
    assert not [*tmp_path.iterdir()]


# Progress


def kinds(media: Path, folder: Path) -> Iterator[tuple[Task[Any], str, int]]:
    """Tasks of all kinds, what they count, and how much that is."""
    yield upscale(media / "in.png", folder / "a.png"), "px", 64 * 48
    yield upscale(media / "in.gif", folder / "b.gif"), "frame", 3
    yield upscale(media / "in.mkv", folder / "c.mp4"), "frame", FRAMES
    yield upscale(media / "in", folder / "d"), "picture", 3
    yield upscale(media / "in.mp4", folder / "e.png", preview=True), "frame", 1
    yield swap(media / "face.png", folder / "f.png"), "frame", 1
    yield swap(media / "faces.mp4", folder / "g.mp4"), "frame", FRAMES
    yield swap(media / "in", folder / "h"), "picture", 3
    yield swap(media / "faces.mp4", folder / "i.png", preview=True), "frame", 1
    models, target = FACES, media / "faces.mp4"
    yield FacesTask(target=target, folder=folder / "j", models=models, session=CARD), "frame", 20


@pytest.mark.parametrize("number", range(10))
def test_progress_never_goes_back_and_ends_at_its_total(
    media: Path, tmp_path: Path, number: int
) -> None:
    task, unit, total = [*kinds(media, tmp_path)][number]
    told: list[Progress] = []
    run(task, on_progress=told.append)
    done = [each.done for each in told]
    assert done == sorted(done)
    assert {each.unit for each in told} == {unit}
    assert (told[0].done, told[-1].done, told[-1].total) == (0, total, total)
    assert told[-1].seconds_left in (0, None)
    assert all(each.total is None or each.done <= each.total for each in told)


def test_what_progress_raises_ends_the_work(media: Path, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        if progress.done:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(upscale_video(media, tmp_path), on_progress=fail)
    assert not (tmp_path / "out.mp4").exists()


# As JSON


@pytest.mark.parametrize("number", range(10))
def test_a_task_from_json_is_the_same_and_makes_the_same_file(
    media: Path, tmp_path: Path, number: int
) -> None:
    made: list[dict[Path, bytes]] = []
    for name in ("one", "other"):
        (folder := tmp_path / name).mkdir()
        task, *_ = [*kinds(media, folder)][number]
        if name == "other":
            again = type(task).from_dict(json.loads(json.dumps(task.to_dict())))
            assert again == task
            task = again
        run(task)
        files = (path for path in folder.rglob("*") if path.is_file())
        made.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert made[0]
    assert made[0] == made[1]


# Queues


class Held:
    """Holds a video where so many frames are done."""

    def __init__(self, done: int) -> None:
        self.reached, self.gate = threading.Event(), threading.Event()
        self._done = done

    def __call__(self, progress: Progress) -> None:
        if progress.done == self._done:
            self.reached.set()
            assert self.gate.wait(LIMIT)


def test_a_queued_video_that_runs_is_cancelled_and_goes_on_in_another_job(
    media: Path, tmp_path: Path, video: tuple[Make, bytes], open_queue: Any
) -> None:
    make, uninterrupted = video
    task, held = make(media, tmp_path), Held(SEGMENT + 1)
    queue = open_queue(16 * MIB)
    job = queue.submit(run, task, on_progress=held, footprint=8 * MIB)
    assert held.reached.wait(LIMIT)
    assert not job.cancel()  # it runs
    held.gate.set()
    with pytest.raises(StoppedError, match="goes on"):
        job.result(LIMIT)
    assert job.cancelled()
    assert not (tmp_path / "out.mp4").exists()
    again = queue.submit(run, task, footprint=8 * MIB)
    stats = again.result(LIMIT).stats
    assert 0 < stats.peak_resident <= stats.budget == 8 * MIB
    assert (tmp_path / "out.mp4").read_bytes() == uninterrupted


def test_a_task_keeps_within_the_share_of_its_job_unless_it_asks_for_less(
    media: Path, tmp_path: Path, open_queue: Any
) -> None:
    queue = open_queue(16 * MIB)
    for number, (asked, given) in enumerate(((None, 4 * MIB), ("2MiB", 2 * MIB))):
        session = SessionOptions(budget=asked, block="64KiB")
        task = upscale(media / "in.png", tmp_path / f"{number}.png", session=session)
        done = queue.submit(run, task, footprint=4 * MIB).result(LIMIT)
        assert done.stats.budget == given


def test_a_stop_of_ones_own_ends_a_queued_video_too(
    media: Path, tmp_path: Path, open_queue: Any
) -> None:
    stopping = StopAt(SEGMENT + 1)
    job = open_queue(16 * MIB).submit(
        run, upscale_video(media, tmp_path), on_progress=stopping, stop=stopping.stop
    )
    assert isinstance(job.exception(LIMIT), StoppedError)
    assert not job.cancelled()


# What is refused


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"preview": True, "video": VideoOptions(end=1)}, TaskError, "leave out end="),
        ({"source": "in", "preview": True}, TaskError, "preview=True is of a video"),
        (
            {"model": UpscalerSpec("realesrgan-x4plus", weights=Path("w"))},
            TaskError,
            "weights= are for",
        ),
        ({"model": UpscalerSpec("no_such_module:x")}, vramx.ConfigError, "no_such_module"),
        ({"target": "there.png"}, vramx.MediaError, "give overwrite=True"),
        ({"picture": PictureOptions(format="docx")}, vramx.ConfigError, "'docx' is no picture"),
    ],
)
def test_a_task_that_cannot_be_is_refused_by_its_fields_and_writes_nothing(
    media: Path, tmp_path: Path, fields: Any, error: type[Exception], message: str
) -> None:
    (tmp_path / "there.png").write_bytes(b"mine")
    given = {"source": "in.png", "target": "out.png", **fields}
    source, target = media / given.pop("source"), tmp_path / given.pop("target")
    with pytest.raises(error, match=message):
        run(upscale(source, target, **given))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models": FaceModels(FACES.detector, FACES.recognizer)}, "there is no swapper"),
        ({"picture": PictureOptions(quality=3)}, "quality= and format= are for pictures"),
    ],
)
def test_a_swap_that_cannot_be_is_refused_by_its_fields(
    media: Path, tmp_path: Path, fields: Any, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        run(swap(media / "faces.mp4", tmp_path / "out.mp4", **fields))
    assert not [*tmp_path.iterdir()]


def test_options_reach_the_library(media: Path, tmp_path: Path) -> None:
    run(upscale(media / "in.png", tmp_path / "a.png", upscale=UpscaleOptions(width=50, tile=32)))
    with Image.open(tmp_path / "a.png") as made:
        assert made.size == (50, 38)
    nobody = SwapOptions(score=1.0, on_no_face="error")
    with pytest.raises(vramx.NoFaceError):
        run(swap(media / "in.png", tmp_path / "b.png", swap=nobody))
