"""What the service refuses: by a typed error, before the work, and without a trace."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import save_file

import vramx
from vramx.service import Limits, ServiceSettings, limits
from vramx.service.app import build
from vramx.service.limits import Rates
from vramx.service.models import Models
from vramx.service.refusals import RefusedError, TooManyError
from vramx.service.service import Service

from .serving import Client, serving, settings

TOKEN = "0123456789abcdef-a-token"
UPLOAD = ("POST", "/api/files")
JSON = "application/json"
PLAIN = {"kind": "upscale", "source": {"folder": "media", "path": "tiny.png"}, "model": "doubling"}

pytestmark = pytest.mark.usefixtures("one_thread", "no_open_session")


def refused(answer: Any, status: int, error: str) -> str:
    """Check that an answer is a typed error; return its message."""
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert set(content) == {"error", "message"}
    assert content["error"] == error
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    return str(content["message"])


def png(width: int, height: int, *extra: bytes) -> bytes:
    """The head of a PNG file that claims a size, with next to no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + pixels + chunk(b"IEND", b"")


# Who may ask


def test_beyond_this_machine_a_token_is_needed_before_the_server_starts(tmp_path: Path) -> None:
    for address in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(vramx.ConfigError, match="give a token"):
            ServiceSettings(data=tmp_path, address=address)
        ServiceSettings(data=tmp_path, address=address, token=TOKEN)
    with pytest.raises(vramx.ConfigError, match="at least 16"):
        ServiceSettings(data=tmp_path, token="short")
    for address in ("127.0.0.1", "::1", "localhost"):
        ServiceSettings(data=tmp_path, address=address)
    assert TOKEN not in repr(ServiceSettings(data=tmp_path, token=TOKEN))


def test_only_the_token_opens_anything_but_the_health(folder: Path, portal: Any) -> None:
    asked = settings(folder, token=TOKEN, address="0.0.0.0")
    with Service(asked) as service:
        app = build(service)
        stranger = Client(app, portal, "10.0.0.1")
        assert stranger("GET", "/health").status_code == 200
        paths = [*app.openapi()["paths"], "/docs", "/openapi.json", "/none"]
        for path in paths:
            for shown in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Basic ="}):
                if path != "/health":
                    answer = stranger("GET", path.format(id="0", name="0"), headers=shown)
                    refused(answer, 401, "UnauthorizedError")
                    assert answer.headers["www-authenticate"].startswith("Bearer")
        for authorization in (f"Bearer {TOKEN}", _basic(TOKEN)):
            known = Client(app, portal, "10.0.0.1", Authorization=authorization)
            assert known("GET", "/api/jobs").status_code == 200


def _basic(token: str) -> str:
    import base64

    return f"Basic {base64.b64encode(f'me:{token}'.encode()).decode()}"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_leads_to_this_machine_is_not_its_own(client: Client, host: str) -> None:
    refused(client("GET", "/api/jobs", headers={"Host": host}), 403, "ForbiddenError")
    for own in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client("GET", "/api/jobs", headers={"Host": own}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:3000"])
def test_a_page_of_another_site_can_do_nothing(client: Client, origin: str) -> None:
    answer = client(*UPLOAD, content=b"x", headers={"Origin": origin})
    refused(answer, 403, "ForbiddenError")
    own = client("GET", "/api/jobs", headers={"Origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]


# How much


def test_too_many_requests_of_one_address_are_told_when_to_come_again(
    folder: Path, portal: Any
) -> None:
    with Service(settings(folder, limits=Limits(rate=1, burst=5))) as service:
        app = build(service)
        client, other = Client(app, portal), Client(app, portal, "127.0.0.2")
        answers = [client("GET", "/api/models") for _ in range(12)]
        limited = [each for each in answers if each.status_code == 429]
        assert len(answers) - len(limited) in (5, 6)  # and one more, if a second went by
        refused(limited[0], 429, "TooManyError")
        assert other("GET", "/api/models").status_code == 200
        assert client("GET", "/health").status_code == 200


def test_rates_are_kept_and_memory_of_addresses_is_bounded() -> None:
    rates = Rates(2, 3)
    taken = 0
    for tick in range(100):  # ten seconds
        try:
            rates.take("a", tick / 10)
            taken += 1
        except TooManyError:
            continue
    assert 3 + 19 <= taken <= 3 + 20
    for number in range(10_000):
        rates.take(str(number), 100)
    assert len(rates._left) <= 4096


def test_a_full_queue_says_when_to_come_again(folder: Path, portal: Any) -> None:
    from . import networks

    networks.GATE.clear()
    with serving(settings(folder, limits=Limits(jobs=2)), portal) as (service, client):
        video = {**PLAIN, "source": {"folder": "media", "path": "clip.mp4"}, "model": "held"}
        jobs = [client.job(**video) for _ in "12"]
        refused(client("POST", "/api/jobs", json=PLAIN), 503, "BusyError")
        assert len(client("GET", "/api/jobs").json()["jobs"]) == 2
        networks.GATE.set()
        for job in jobs:
            client.done(job)
        client.done(client.job(**PLAIN))
        assert service.store.counts()["done"] == 3


def test_streams_of_events_are_limited(folder: Path, portal: Any) -> None:
    with serving(settings(folder, limits=Limits(streams=1)), portal) as (service, client):
        job = client.job(**PLAIN)
        client.done(job)
        with service.changes.place():
            for path in (f"/api/jobs/{job}/events", "/api/card/events"):
                refused(client("GET", path), 503, "BusyError")
        client.done(job)


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(1000)


def test_uploads_are_no_larger_than_allowed_alone_and_together(
    folder: Path, portal: Any, media: Path
) -> None:
    picture = (media / "small.png").read_bytes()
    limits = Limits(upload=len(picture), stored=2 * len(picture))
    with serving(settings(folder, limits=limits), portal) as (service, client):
        refused(client(*UPLOAD, content=bytes(len(picture) + 1)), 413, "TooLargeError")
        refused(client(*UPLOAD, content=chunks(1000)), 413, "TooLargeError")
        refused(client(*UPLOAD, content=b""), 400, "BadRequestError")
        refused(client(*UPLOAD, content=b"no picture"), 415, "UnsupportedError")
        first, _ = (client.upload(media / "small.png") for _ in "12")
        refused(client(*UPLOAD, content=picture), 503, "BusyError")
        assert client("DELETE", f"/api/files/{first}").status_code == 204
        client.upload(media / "small.png")
        kept = {path.name for path in (service.settings.data / "files").iterdir()}
        assert kept == service.store.file_ids()
        assert len(kept) == 2


def test_a_full_disk_is_told_and_leaves_nothing(
    folder: Path, portal: Any, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serving(settings(folder), portal) as (service, client):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            refused(client(*UPLOAD, content=b"x"), 503, "BusyError")
        assert not [*(service.settings.data / "files").iterdir()]
        client.upload(media / "tiny.png")


async def stalled() -> AsyncIterator[bytes]:
    yield b"x"
    await anyio.sleep_forever()


def test_who_sends_nothing_any_more_is_not_waited_for(
    shared: tuple[Any, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, client = shared
    monkeypatch.setattr(limits, "_PATIENCE", 0.05)
    for path in ("/api/files", "/api/jobs", "/api/none"):
        answer = client("POST", path, content=stalled(), headers={"Content-Type": JSON})
        assert answer.status_code in (400, 404)
        assert answer.json()["error"] in ("BadRequestError", "NotFoundError")
    kept = {path.name for path in (service.settings.data / "files").iterdir()}
    assert kept == service.store.file_ids()


def test_a_body_that_is_no_upload_is_short(client: Client) -> None:
    long = b'{"kind": "' + bytes([65]) * 2**16 + b'"}'
    json = {"Content-Type": "application/json"}
    refused(client("POST", "/api/jobs", content=long, headers=json), 413, "TooLargeError")
    refused(client("POST", "/api/jobs", content=chunks(100), headers=json), 413, "TooLargeError")
    refused(client("POST", "/api/jobs", content=b"{}"), 415, "UnsupportedError")
    deep = b'{"kind": ' + b"[" * 30_000 + b"}"
    answer = client("POST", "/api/jobs", content=deep, headers=json)
    assert answer.status_code in (400, 422)


# Bombs


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        (png(30_000, 30_000), 413, "TooLargeError"),
        (png(9_000, 9_000), 415, "UnsupportedError"),  # fewer than Pillow's limit, without bytes
        (b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20), 415, None),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 415, "UnsupportedError"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "UnsupportedError"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "UnsupportedError"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", 415, None),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, None),
    ],
)
def test_what_claims_too_much_or_names_other_files_is_refused_before_it_is_decoded(
    client: Client, content: bytes, status: int, error: str | None
) -> None:
    refused(client(*UPLOAD, content=content), status, error or "UnsupportedError")


def test_packed_bodies_are_not_unpacked(client: Client, media: Path) -> None:
    """They would be taken, if nothing said that they are packed."""
    picture = (media / "tiny.png").read_bytes()
    packed = {"Content-Encoding": "deflate"}
    refused(client(*UPLOAD, content=picture, headers=packed), 415, "UnsupportedError")
    refused(client("POST", "/api/jobs", json=PLAIN, headers=packed), 415, "UnsupportedError")


def test_pictures_of_more_pixels_than_allowed_are_refused(
    folder: Path, portal: Any, media: Path
) -> None:
    limits = Limits(pixels=64 * 48 - 1, result_pixels=95)
    with serving(settings(folder, limits=limits), portal) as (service, client):
        for name in ("small.png", "clip.mp4"):
            content = (media / name).read_bytes()
            assert "64x48" in refused(client(*UPLOAD, content=content), 413, "TooLargeError")
            source = {"folder": "media", "path": name}
            answer = client("POST", "/api/jobs", json={**PLAIN, "source": source})
            refused(answer, 413, "TooLargeError")
        answer = client("POST", "/api/jobs", json={**PLAIN, "scale": 50})
        assert "150x100" in refused(answer, 422, "NotAllowedError")
        answer = client("POST", "/api/jobs", json={**PLAIN, "model": "realesrgan-x4plus"})
        assert "12x8" in refused(answer, 422, "NotAllowedError")
        assert service.store.counts()["queued"] == 0


# Ways out


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("../models/tiny.json", 403),
        ("a/../../models/tiny.json", 403),
        ("/etc/passwd", 403),
        ("link-out", 403),
        ("folder-out/tiny.json", 403),
        ("tiny.png\0.json", 403),
        ("..", 403),
        (".", 404),
        ("inside", 404),
        ("no-such.png", 404),
        ("x" * 1000, 404),
        ("loop", 404),
    ],
)
def test_paths_do_not_lead_out_of_their_folder(
    tmp_path: Path, stocked: Path, path: str, status: int
) -> None:
    (inside := tmp_path / "media").mkdir()
    (inside / "inside").mkdir()
    (inside / "link-out").symlink_to(stocked / "media" / "tiny.png")
    (inside / "folder-out").symlink_to(stocked / "models")
    (inside / "loop").symlink_to(inside / "loop")
    from vramx.service.folders import Folders

    with pytest.raises(RefusedError) as error:
        Folders({"media": inside}).find("media", path)
    assert error.value.status == status
    with pytest.raises(RefusedError, match="there is no folder"):
        Folders({"media": inside}).find("other", "tiny.png")


@pytest.mark.parametrize(
    "path",
    [
        "/api/files/..%2f..%2fjobs.sqlite",
        "/api/files/%2e%2e",
        "/api/jobs/..%2f..%2fjobs.sqlite/result",
        "/api/jobs/{job}/files/..%2f..%2f..%2fjobs.sqlite",
        "/api/jobs/{job}/files/%2e%2e%2fresult.png",
        "/api/jobs/{job}/files/.vramx-0.lock",
        "/api/jobs/{job}/files/%00",
        "/docs/../api/files/%00",
    ],
)
def test_no_address_leads_out_of_what_is_there(client: Client, path: str) -> None:
    job = client.job(**PLAIN)
    client.done(job)
    answer = client("GET", path.format(job=job))
    refused(answer, 404, "NotFoundError")


# What is asked for


@pytest.mark.parametrize(
    "change",
    [
        {"model": "no-such"},
        {"model": "../models/tiny"},
        {"model": "pipelines.networks:enlarger"},
        {"model": "/tmp/x.pth"},
        {"model": "people"},
        {"kind": "run"},
        {"kind": "faces"},
        {"kind": "swap", "model": "people", "faces": []},
        {"weights": "x"},
        {"target": "/tmp/x.png"},
        {"source": "tiny.png"},
        {"source": {"folder": "media"}},
        {"source": {"file": "../../jobs.sqlite"}},
        {"scale": 0},
        {"scale": float("nan")},
        {"scale": 2, "width": 3},
        {"scale": "2"},
        {"width": 10**400},
        {"budget": "1TiB"},
        {"budget": "0"},
        {"budget": -1},
        {"dtype": "int8"},
        {"format": "mp4"},
        {"format": "../x"},
        {"format": "docx"},
        {"quality": 50},
        {"preview": True},
        {"video": {"segment": 3}},
        {"video": {"codec_options": {"x264-params": "dump-yuv=/tmp/x"}}},
        {"video": {"codec_options": {"stats": "/tmp/x"}}},
        {"video": {"codec_options": {"preset": "../../x"}}},
        {"video": {"codec": "rawvideo"}},
    ],
)
def test_what_is_not_allowed_is_told_before_any_work(
    shared: tuple[Any, Client], change: dict[str, Any]
) -> None:
    import json

    service, client = shared
    before = service.store.counts()
    text = json.dumps({**PLAIN, **change})
    answer = client("POST", "/api/jobs", content=text, headers={"Content-Type": "application/json"})
    refused(answer, 422, "NotAllowedError")
    after = service.store.counts()
    assert sum(after.values()) == sum(before.values())


def test_programs_are_not_offered_and_checkpoints_do_not_run_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> Any:
            return (Path.touch, (ran,))

    (folder := tmp_path / "models").mkdir()
    (folder / "runs.pth").write_bytes(pickle.dumps(Runs()))
    torch.save({"a": torch.ones(1), "b": Runs()}, folder / "runs-too.pt")
    torch.jit.script(torch.nn.Identity()).save(folder / "program.pt")
    (folder / "text.txt").write_text("x")
    save_file({"a": torch.ones(1)}, folder / "weights.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.warns(RuntimeWarning, match="are not offered.*upscalers"):
            listed = Models(folder).listed()
        assert {each.origin for each in listed} <= {"trained"}
        patch.setattr(importlib.util, "find_spec", lambda _: "it is there")
        listed = [each for each in Models(folder).listed() if each.origin == "checkpoint"]
    assert {each.name for each in listed} == {"runs.pth", "runs-too.pt", "weights.safetensors"}
    for each in listed:
        with contextlib.suppress(vramx.Error):
            each.spec.load(None)  # as a job does
    assert not ran.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "no description"),
        ('{"run": {}}', "neither 'upscale' nor 'faces'"),
        ('{"upscale": {"nme": "x"}}', "has no nme"),
        ('{"faces": {"detector": {"name": "x"}}}', "lacks recognizer"),
        ("{" * 10, "no description"),
    ],
)
def test_a_description_that_is_wrong_is_told_at_the_start(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(vramx.ConfigError, match=message):
        Models(tmp_path)


def test_two_servers_do_not_share_a_folder(folder: Path, portal: Any) -> None:
    with (
        serving(settings(folder), portal),
        pytest.raises(vramx.ConfigError, match="another server"),
    ):
        Service(settings(folder))
    with serving(settings(folder), portal) as (_, client):
        assert client("GET", "/health").status_code == 200


def test_what_is_no_list_of_jobs_is_left_as_it_is(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "jobs.sqlite").write_bytes(b"mine" * 1000)
    with pytest.raises(vramx.ConfigError, match="no list of jobs"):
        Service(settings(folder))
    assert (folder / "data" / "jobs.sqlite").read_bytes() == b"mine" * 1000


# What is told


def test_health_says_what_card_there_is(client: Client) -> None:
    told = client("GET", "/health").json()
    assert told["status"] == "ok"
    assert (told["card"]["simulated"], told["card"]["backend"]) == (True, "simulated")


def test_metrics_are_prometheus_s_and_count_what_was_done(
    folder: Path, portal: Any, media: Path
) -> None:
    def values(client: Client) -> dict[Any, float]:
        families = text_string_to_metric_families(client("GET", "/metrics").text)
        return {
            (each.name, *sorted(each.labels.values())): each.value
            for family in families
            for each in family.samples
        }

    with serving(settings(folder), portal) as (_, client):
        file = client.upload(media / "small.png")
        client.done(client.job(kind="upscale", source={"file": file}, model="tiny"))
        client("GET", "/api/jobs/none")
        client("BREW", "/api/jobs")
        found = values(client)
    assert found["vramx_jobs", "done"] == 1
    assert found["vramx_uploaded_bytes_total",] == (media / "small.png").stat().st_size
    assert found["vramx_moved_bytes_total", "in"] > 0
    assert found["vramx_requests_total", "/api/jobs/{id}", "404", "GET"] == 1
    assert ("vramx_requests_total", "/api/files", "201", "POST") in found


def test_pages_load_nothing_from_other_hosts(client: Client) -> None:
    page = client("GET", "/docs")
    assert page.status_code == 200
    assert "/api/jobs/{id}/events" in page.text
    assert "src=" not in page.text
    assert "http" not in page.text.replace("over HTTP", "")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    schema = client("GET", "/openapi.json").json()
    assert {"/api/files", "/api/jobs", "/api/models", "/health", "/metrics"} <= set(schema["paths"])
