"""A service in this process, and a client of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio.from_thread
import httpx
import numpy as np
from PIL import Image

from pipelines.clips import X264, picture, write_clip
from vramx.service import ServiceSettings
from vramx.service.app import build
from vramx.service.service import Service
from vramx.session.options import SessionOptions

FRAMES, SEGMENT = 20, 3
VIDEO = {"segment": SEGMENT, "codec_options": X264}
CARD = SessionOptions(budget="64MiB", backend="simulated", block="64KiB")
#: What `CARD` gives each of two jobs.
SHARE = 32 * 2**20
#: Descriptions of models, by their names.
MODELS: dict[str, Any] = {
    "tiny": {"upscale": {"name": "pipelines.networks:enlarger"}},
    "doubling": {"upscale": {"name": "service.networks:doubling"}},
    "held": {"upscale": {"name": "service.networks:Held"}},
    "held-for-good": {"upscale": {"name": "service.networks:HeldForGood"}},
    "people": {
        "faces": {
            "detector": {"name": "pipelines.face_networks:PatchDetector"},
            "recognizer": {"name": "pipelines.face_networks:MeanColour"},
            "swapper": {"name": "pipelines.face_networks:Painter"},
        }
    },
}


class Client:
    """Sends requests to an application, without a network, from tests that are not asynchronous."""

    def __init__(self, app: Any, portal: Any, address: str = "127.0.0.1", **headers: str) -> None:
        transport = httpx.ASGITransport(app, client=(address, 1))
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8000", headers=headers, timeout=60
        )
        self._portal = portal

    def __call__(self, method: str, path: str, **given: Any) -> httpx.Response:
        answer: httpx.Response = self._portal.call(
            partial(self._client.request, method, path, **given)
        )
        return answer

    def upload(self, path: Path) -> str:
        answer = self("POST", "/api/files", params={"name": path.name}, content=path.read_bytes())
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, **request: Any) -> str:
        answer = self("POST", "/api/jobs", json=request)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def watch(self, job: str, last: int = 0) -> list[dict[str, Any]]:
        """Follow a job to its end, and return all that was told of it."""
        answer = self("GET", f"/api/jobs/{job}/events", headers={"Last-Event-ID": str(last)})
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events(answer.text)

    def done(self, job: str) -> dict[str, Any]:
        """Wait for a job that ends well."""
        last = self.watch(job)[-1]
        assert last["state"] == "done", last["error"]
        return last

    def result(self, job: str) -> bytes:
        self.done(job)
        answer = self("GET", f"/api/jobs/{job}/result")
        assert answer.status_code == 200, answer.text
        return answer.content


def events(text: str) -> list[dict[str, Any]]:
    """Read the jobs in a stream of events, whose numbers are their revisions."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.partition(": ")[::2] for line in block.splitlines())
        if "data" in lines:
            found.append(json.loads(lines["data"]))
            assert lines["event"] == "job"
            assert int(lines["id"]) == found[-1]["revision"]
    return found


def write_models(folder: Path) -> Path:
    """Write the descriptions of models."""
    folder.mkdir()
    for name, content in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_media(folder: Path) -> Path:
    """Write a picture, a clip, and faces in both."""
    from pipelines.face_networks import portrait
    from pipelines.test_face_swap_files import picture as picture_of_faces

    folder.mkdir()
    write_clip(folder / "clip.mp4", FRAMES)
    write_clip(folder / "faces.mp4", FRAMES, draw=picture_of_faces)
    Image.fromarray(picture(0)).save(folder / "small.png")
    Image.fromarray(portrait("blue")).save(folder / "me.png")
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(folder / "tiny.png")
    return folder


def settings(folder: Path, **more: Any) -> ServiceSettings:
    """Set up a service in a folder that has models and media."""
    given = {"data": folder / "data", "models": folder / "models", "session": CARD, **more}
    return ServiceSettings(**{"folders": {"media": folder / "media"}, **given})


@contextlib.contextmanager
def serving(asked: ServiceSettings, portal: Any) -> Iterator[tuple[Service, Client]]:
    """Open a service and a client of it, for a scope."""
    with Service(asked) as service:
        yield service, Client(build(service), portal)


@contextlib.contextmanager
def loop() -> Iterator[Any]:
    """A thread with an event loop, on which clients run."""
    with anyio.from_thread.start_blocking_portal() as portal:
        yield portal
