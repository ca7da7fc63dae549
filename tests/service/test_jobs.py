"""A job over HTTP makes what its task makes, tells how far it is, is stopped and resumed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vramx import VideoOptions
from vramx.service.store import Store
from vramx.session.options import SessionOptions
from vramx.tasks import FaceModels, SwapTask, UpscalerSpec, UpscaleTask, run

from . import networks
from .serving import FRAMES, MODELS, SEGMENT, SHARE, VIDEO, Client, serving, settings

CARD = SessionOptions(budget=SHARE, backend="simulated", block="64KiB")

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


@pytest.fixture
def gate() -> Iterator[None]:
    """Held networks wait until the gate is opened."""
    networks.GATE.clear()
    networks.REACHED.clear()
    yield
    networks.GATE.set()


@pytest.fixture(scope="module")
def made(stocked: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], bytes]:
    """Make what tasks make without a service."""

    def make(request: str) -> bytes:
        media, target = stocked / "media", tmp_path_factory.mktemp("made") / "result"
        video = VideoOptions(**VIDEO)
        if request == "swap":
            run(
                SwapTask(
                    source=media / "me.png",
                    target=media / "faces.mp4",
                    out=(target := target.with_suffix(".mp4")),
                    models=FaceModels.from_dict(MODELS["people"]["faces"]),
                    video=video,
                    session=CARD,
                )
            )
        else:
            target = target.with_suffix(Path(request).suffix)
            model = UpscalerSpec("pipelines.networks:enlarger")
            fields = {"model": model, "video": video, "session": CARD}
            run(UpscaleTask(source=media / request, target=target, **fields))
        return target.read_bytes()

    return make


@pytest.fixture(scope="module")
def clip(made: Callable[[Any], bytes]) -> bytes:
    """The enlarged clip, which nothing stopped."""
    return made("clip.mp4")


def in_folder(name: str) -> dict[str, str]:
    return {"folder": "media", "path": name}


# What jobs make


def test_an_uploaded_picture_becomes_what_the_task_makes_of_it(
    client: Client, media: Path, made: Any
) -> None:
    name = "Ünïcode/../pic 1.png"
    content = (media / "small.png").read_bytes()
    told = client("POST", "/api/files", params={"name": name}, content=content).json()
    assert (told["kind"], told["width"], told["height"]) == ("picture", 64, 48)
    assert told["bytes"] == len(content)
    assert "/" not in told["name"]
    assert client("GET", f"/api/files/{told['id']}").json() == told
    job = client.job(kind="upscale", source={"file": told["id"]}, model="tiny")
    assert client.result(job) == made("small.png")


def test_onnx_files_that_enlarge_are_offered_and_do_as_the_task_does(
    tmp_path: Path, portal: Any, stocked: Path
) -> None:
    pytest.importorskip("onnxruntime", minversion="1.28")
    from onnx_networks import write_enhancer, write_swapper, write_upscaler

    (models := tmp_path / "models").mkdir()
    write_upscaler(models / "double.onnx")
    write_upscaler(models / "triple.onnx", (16, 16), scale=3)
    write_swapper(models / "swapper.onnx")
    write_enhancer(models / "enhancer.onnx", 32)
    (models / "damaged.onnx").write_bytes(b"\x08")
    fields = {"model": UpscalerSpec(str(models / "double.onnx")), "session": CARD}
    run(UpscaleTask(source=stocked / "media/small.png", target=tmp_path / "made.png", **fields))
    given = settings(stocked, data=tmp_path / "data", models=models)
    with serving(given, portal) as (_, client):
        listed = client("GET", "/api/models").json()["models"]
        found = {each["name"]: each["scale"] for each in listed if each["origin"] == "onnx"}
        assert found == {"double.onnx": None, "triple.onnx": 3}
        job = client.job(kind="upscale", source=in_folder("small.png"), model="double.onnx")
        assert client.result(job) == (tmp_path / "made.png").read_bytes()


def test_a_video_of_a_folder_becomes_what_the_task_makes_of_it(client: Client, clip: bytes) -> None:
    job = client.job(kind="upscale", source=in_folder("clip.mp4"), model="tiny", video=VIDEO)
    told = client.watch(job)
    assert client.result(job) == clip
    done = [each["progress"]["done"] for each in told if each["progress"]]
    assert done == sorted(done)
    assert (done[-1], told[-1]["progress"]["total"]) == (FRAMES, FRAMES)
    assert told[-1]["report"]["files"][0]["frames"] == FRAMES
    part = client("GET", f"/api/jobs/{job}/result", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, clip[4:8])


def test_faces_are_found_and_swapped_as_by_the_tasks(client: Client, made: Any) -> None:
    found = client.done(client.job(kind="faces", source=in_folder("faces.mp4"), model="people"))
    people = [each["name"] for each in found["report"]["thumbnails"]]
    assert people
    assert sorted(people) == found["files"]
    first = client("GET", f"/api/jobs/{found['id']}/files/{people[0]}")
    assert Image.open(io.BytesIO(first.content)).format == "PNG"
    assert client("GET", f"/api/jobs/{found['id']}/result").status_code == 404
    face = in_folder("me.png")
    request = {"kind": "swap", "source": in_folder("faces.mp4"), "model": "people", "video": VIDEO}
    assert client.result(client.job(**request, faces=[face])) == made("swap")
    references = [{"job": found["id"], "name": people[0]}]
    swapped = client.done(client.job(**request, faces=[face], references=references))
    assert swapped["report"]["swapped"] > 0


def test_a_result_is_the_source_of_another_job(client: Client) -> None:
    first = client.job(kind="upscale", source=in_folder("small.png"), model="tiny", width=30)
    client.done(first)
    source = {"job": first}
    second = client.job(
        kind="upscale", source=source, model="tiny", scale=2, format="jpeg", quality=50
    )
    made = Image.open(io.BytesIO(client.result(second)))
    assert (made.size, made.format) == ((60, 44), "JPEG")


def test_nothing_that_is_told_names_a_path_of_this_machine(client: Client, stocked: Path) -> None:
    for path in ("/api/jobs", "/api/models", "/api/card", "/health", "/metrics", "/openapi.json"):
        text = client("GET", path).text
        assert str(stocked.parent) not in text, path


# Events


def test_events_go_on_from_what_was_seen_last_and_end(client: Client) -> None:
    job = client.job(kind="upscale", source=in_folder("small.png"), model="doubling")
    last = client.watch(job)[-1]
    assert [each["revision"] for each in client.watch(job, last["revision"] - 1)] == [
        last["revision"]
    ]
    path = f"/api/jobs/{job}/events"
    again = client("GET", path, headers={"Last-Event-ID": str(last["revision"])})
    assert (again.status_code, again.content) == (204, b"")


def test_the_list_has_all_jobs_page_by_page(client: Client) -> None:
    jobs = [
        client.job(kind="upscale", source=in_folder("tiny.png"), model="doubling") for _ in "1234"
    ]
    for job in jobs:
        client.done(job)
    seen: list[str] = []
    before: dict[str, Any] = {}
    while before.get("before", 1) is not None:
        page = client("GET", "/api/jobs", params={"limit": 3, "state": "done", **before}).json()
        assert len(page["jobs"]) <= 3
        seen += [each["id"] for each in page["jobs"]]
        before = {"before": page["next"]}
    assert seen[:4] == jobs[::-1]
    assert len(seen) == len({*seen})


# Stopping


@pytest.mark.usefixtures("gate")
def test_a_cancelled_video_keeps_its_segments_and_resumes_to_the_same_bytes(
    shared: Any, clip: bytes
) -> None:
    service, client = shared
    job = client.job(kind="upscale", source=in_folder("clip.mp4"), model="held", video=VIDEO)
    assert networks.REACHED.wait(networks.LIMIT)
    told = client("DELETE", f"/api/jobs/{job}").json()
    assert (told["state"], told["stopping"]) == ("running", True)
    assert client("POST", f"/api/jobs/{job}/resume").status_code == 409
    networks.GATE.set()
    assert client.watch(job)[-1]["state"] == "cancelled"
    assert client("DELETE", f"/api/jobs/{job}").status_code == 409
    assert client("GET", f"/api/jobs/{job}/result").status_code == 409
    kept = [*service.results.folder(job).glob("result.mp4.parts/*.mp4")]
    assert len(kept) >= networks.BEFORE // SEGMENT - 1
    assert client("POST", f"/api/jobs/{job}/resume").json()["state"] == "queued"
    told = client.watch(job)
    first = next(each["progress"]["done"] for each in told if each["progress"])
    assert first >= len(kept) * SEGMENT > 0
    assert client.result(job) == clip


@pytest.mark.usefixtures("gate")
def test_a_job_that_waits_is_cancelled_at_once_and_reads_its_file_no_more(
    client: Client, media: Path
) -> None:
    running = [
        client.job(kind="upscale", source=in_folder("clip.mp4"), model="held", video=VIDEO)
        for _ in "12"
    ]
    assert networks.REACHED.wait(networks.LIMIT)
    file = client.upload(media / "tiny.png")
    waiting = client.job(kind="upscale", source={"file": file}, model="doubling")
    assert client("DELETE", f"/api/files/{file}").status_code == 409
    assert client("DELETE", f"/api/jobs/{waiting}", params={"forget": True}).status_code == 409
    assert client("DELETE", f"/api/jobs/{waiting}").json()["state"] == "cancelled"
    assert client("DELETE", f"/api/files/{file}").status_code == 204
    assert client("GET", f"/api/files/{file}").status_code == 404
    assert client("POST", f"/api/jobs/{waiting}/resume").status_code == 404
    networks.GATE.set()
    for job in running:
        client.done(job)


def test_a_job_that_was_cancelled_while_it_was_taken_does_not_begin(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    for id_ in ("one", "other"):
        store.add_job(id_, {}, set(), 2)
    store.ask_to_stop("one")
    assert store.begin("one") is None
    assert store.begin("other") is not None
    assert store.begin("other") is None
    store.close()


def test_a_forgotten_job_leaves_nothing(shared: Any) -> None:
    service, client = shared
    job = client.job(kind="upscale", source=in_folder("tiny.png"), model="doubling")
    client.done(job)
    assert service.results.folder(job).exists()
    assert client("DELETE", f"/api/jobs/{job}", params={"forget": True}).status_code == 200
    assert not service.results.folder(job).exists()
    assert client("GET", f"/api/jobs/{job}").status_code == 404


def test_a_job_that_fails_says_why_by_its_error(client: Client, stocked: Path) -> None:
    request = {"kind": "swap", "source": in_folder("faces.mp4"), "model": "people"}
    job = client.job(**request, faces=[in_folder("small.png")])  # which shows no face
    last = client.watch(job)[-1]
    assert (last["state"], last["error"]["error"]) == ("failed", "NoFaceError")
    assert str(stocked) not in last["error"]["message"]


# Servers that end


@pytest.mark.usefixtures("gate")
def test_the_next_server_goes_on_with_what_the_last_one_left(
    folder: Path, portal: Any, clip: bytes
) -> None:
    with serving(settings(folder), portal) as (service, client):
        request = {"kind": "upscale", "source": in_folder("clip.mp4"), "video": VIDEO}
        video = client.job(**request, model="held")
        assert networks.REACHED.wait(networks.LIMIT)
        others = [client.job(**request, model="held") for _ in "12"]
        cancelled, waiting = others
        service.store.ask_to_stop(cancelled)  # and then the server ends
        portal.start_task_soon(_open_gate, service)
    assert service.store is not None
    with serving(settings(folder), portal) as (service, client):
        assert client("GET", f"/api/jobs/{cancelled}").json()["state"] == "cancelled"
        assert client.result(video) == clip
        assert client.result(waiting) == clip


async def _open_gate(service: Any) -> None:
    import anyio

    while not any(job.stop.stopped for job in service.work.queue.running):
        await anyio.sleep(0)
    networks.GATE.set()


def test_a_result_that_was_finished_but_not_noted_is_not_made_again(
    folder: Path, portal: Any
) -> None:
    with serving(settings(folder), portal) as (service, client):
        job = client.job(kind="upscale", source=in_folder("small.png"), model="doubling")
        client.done(job)
        path = service.results.path(job, "result.png")
        before = path.stat().st_mtime_ns
        service.store._rows("UPDATE jobs SET state = 'running', report = NULL WHERE id = ?", job)
    with serving(settings(folder), portal) as (_, client):
        assert client.done(job)["report"] is None
    assert path.stat().st_mtime_ns == before
