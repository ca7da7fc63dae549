"""A real server: killed in the midst of a video, and under many clients at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from vramx.cli import main

from .networks import BEFORE
from .serving import FRAMES, SEGMENT, VIDEO, events

PATIENCE = 60
ROOT = Path(__file__).resolve().parents[2]
UNUSED = ssl.create_default_context()  # which each client would take its time to make
CLIENTS = int(os.environ.get("VRAMX_TEST_CLIENTS", "50"))
#: What a server may take more for many requests than for some: pages of allocators, not of clients.
GROWTH = 32 * 2**20
SERVE = (
    "--port", "0", "--backend", "simulated", "--budget", "64MiB", "--block", "64KiB",
    "--limit", "burst=100",
)  # fmt: skip


class Server:
    """``vramx serve`` in a process of its own."""

    def __init__(self, folder: Path, *more: str) -> None:
        tests = str(Path(__file__).resolve().parents[1])
        options = ("--data", "data", "--models", "models", "--folder", "media=media", *SERVE)
        self.log = folder / "log"
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vramx", "serve", *options, *more],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.fullmatch(r"vramx serves at (http://127\.0\.0\.1:(\d+))\n", said)
        assert found, said + self.log.read_text()
        self.url, self.port = found[1], int(found[2])
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)

    def end(self, how: signal.Signals) -> int:
        self.client.close()
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    def job(self, **request: Any) -> str:
        answer = self.client.post("/api/jobs", json=request)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def watch(self, job: str) -> list[dict[str, Any]]:
        return events(self.client.get(f"/api/jobs/{job}/events").text)

    def result(self, job: str) -> bytes:
        return self.client.get(f"/api/jobs/{job}/result").content

    def resident(self) -> int:
        """Tell how much memory it has, after what the last requests left is given back."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


@contextlib.contextmanager
def server(folder: Path, *more: str) -> Iterator[Server]:
    """Run a server for a scope."""
    running = Server(folder, *more)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(PATIENCE)
        running.client.close()


def until(path: Path, running: Server) -> None:
    """Wait for a file that the server writes."""
    while not path.exists():
        assert running.process.poll() is None
        os.sched_yield()


def test_a_server_that_is_killed_in_a_video_makes_the_same_bytes_when_it_starts_again(
    folder: Path,
) -> None:
    video = {"kind": "upscale", "source": {"folder": "media", "path": "clip.mp4"}, "video": VIDEO}
    (folder / "hold").touch()
    with server(folder) as first:
        killed = first.job(**video, model="held-for-good")
        until(folder / "reached", first)
        waiting = first.job(**video, model="held-for-good")
        cancelled = first.job(**video, model="held-for-good")
        told = first.client.delete(f"/api/jobs/{cancelled}").json()
        assert told["state"] == "cancelled"
        assert first.client.get(f"/api/jobs/{killed}").json()["state"] == "running"
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    parts = [*(folder / "data" / "jobs" / killed).glob("result.mp4.parts/*.mp4")]
    assert len(parts) >= BEFORE // SEGMENT - 1
    assert not (folder / "data" / "jobs" / killed / "result.mp4").exists()
    (folder / "hold").unlink()
    with server(folder) as second:
        told = second.watch(killed)
        assert told[-1]["state"] == "done", told[-1]["error"]
        done = [each["progress"]["done"] for each in told if each["progress"]]
        assert done[-1] == FRAMES
        calm = second.job(**video, model="held-for-good")
        assert second.watch(calm)[-1]["state"] == "done"
        assert second.watch(waiting)[-1]["state"] == "done"
        assert second.result(killed) == second.result(calm) == second.result(waiting)
        assert second.client.get(f"/api/jobs/{cancelled}").json()["state"] == "cancelled"
        walk(second, folder / "media")
        heads(second)
        with second.client.stream("GET", "/api/card/events") as stream:
            lines = stream.iter_lines()
            seen = json.loads(next(each for each in lines if each.startswith("data: "))[6:])
            assert seen["budget"] == 64 * 2**20
            second.process.send_signal(signal.SIGTERM)
            *_, last = lines  # the stream ends when the server does
            assert last == ""
        assert second.process.wait(PATIENCE) in (0, -signal.SIGTERM)


def walk(running: Server, media: Path) -> None:
    """What the page shows does what it says."""
    text = (ROOT / "docs" / "service.md").read_text("utf-8")
    block = re.findall(r"<!-- what follows is run by .*? -->\n\n```sh\n(.*?)```", text, re.DOTALL)[
        0
    ]
    assert "server=http://127.0.0.1:8000\n" in block
    block = block.replace("server=http://127.0.0.1:8000\n", f"server={running.url}\n")
    folder = media.parent / "walk"
    folder.mkdir()
    (folder / "small.png").symlink_to(media / "tiny.png")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert '"state": "done"' in done.stdout
    with Image.open(folder / "large.png") as made:
        assert made.size == (6, 4)


def heads(running: Server) -> None:
    """A head that is too long is refused, and one that never ends is none."""
    for sent in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0\1\2\3\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as raw:
            with contextlib.suppress(ConnectionError):
                raw.sendall(sent)
            answer = b""
            with contextlib.suppress(ConnectionError):
                answer = raw.recv(2**16)
            assert not answer or re.match(rb"HTTP/1\.1 40[04] ", answer), answer
    assert running.client.get("/health").status_code == 200


async def one_client(client: httpx.AsyncClient, content: bytes) -> bytes:
    """Upload a picture, have it enlarged, and fetch it, coming again when told to."""

    async def ask(method: str, path: str, **given: Any) -> httpx.Response:
        while True:
            answer = await client.request(method, path, **given)
            if answer.status_code not in (429, 503):
                assert answer.status_code < 400, answer.text
                return answer
            await asyncio.sleep(int(answer.headers["Retry-After"]))

    file = (await ask("POST", "/api/files?name=tiny.png", content=content)).json()["id"]
    request = {"kind": "upscale", "source": {"file": file}, "model": "doubling"}
    job = (await ask("POST", "/api/jobs", json=request)).json()["id"]
    told = events((await ask("GET", f"/api/jobs/{job}/events")).text)
    assert told[-1]["state"] == "done", told[-1]["error"]
    return (await ask("GET", f"/api/jobs/{job}/result")).content


async def many_clients(running: Server, count: int, content: bytes) -> set[bytes]:
    """Run clients at once; what they got. Whoever waits for good is told of with the server's log.

    An alarm's exception would be lost in a callback of the loop.
    """

    async def one() -> bytes:
        given = {"base_url": running.url, "timeout": PATIENCE, "verify": UNUSED}
        async with httpx.AsyncClient(**given) as client:
            return await one_client(client, content)

    clients = [asyncio.create_task(one()) for _ in range(count)]
    _, waiting = await asyncio.wait(
        clients, timeout=4 * PATIENCE, return_when=asyncio.FIRST_EXCEPTION
    )
    for each in waiting:
        each.cancel()
    made = {each.result() for each in clients if each not in waiting}
    assert not waiting, f"{len(waiting)} clients wait: {running.log.read_text()[-2000:]}"
    return made


def test_many_clients_at_once_lose_nothing_and_leave_no_memory(folder: Path) -> None:
    content = (folder / "media" / "tiny.png").read_bytes()
    limits = ("--limit", "rate=400", "--limit", "streams=80")
    with server(folder, *limits) as running:
        results = asyncio.run(many_clients(running, CLIENTS // 5, content))
        before = running.resident()
        results |= asyncio.run(many_clients(running, CLIENTS, content))
        grown = running.resident() - before
        assert len(results) == 1
        assert grown <= GROWTH
        metrics = running.client.get("/metrics").text
        assert f'vramx_jobs{{state="done"}} {CLIENTS * 1.2}' in metrics
        assert set(re.findall(r'status="(5\d\d)"', metrics)) <= {"503"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--host", "0.0.0.0"), "give a token"),
        (("--token-file", "none"), "cannot be read"),
        (("--folder", "x=none"), "no folder"),
        (("--folder", "media"), "NAME=VALUE"),
        (("--limit", "jbs=1"), "there is no limit jbs"),
        (("--limit", "jobs=many"), "is not a whole number"),
        (("--limit", "upload=big"), "not a size"),
        (("--budget", "64GiB"), "cannot be shared out"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    given = ["serve", "--data", "data", "--backend", "simulated", "--port", "0", *options]
    done = CliRunner().invoke(main, given)
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert not (tmp_path / "data").exists()


def test_without_a_card_it_says_so_and_names_the_simulated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "/none/libcuda.so")
    done = CliRunner().invoke(main, ["serve", "--data", str(tmp_path / "data"), "--port", "0"])
    assert done.exit_code == 1
    assert "--backend simulated" in done.output
