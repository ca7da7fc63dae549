"""A real server and a real browser for tests of the page."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from vramx.service import ServiceSettings
from vramx.service.app import build
from vramx.service.service import Service

from . import serving

sync_api = pytest.importorskip("playwright.sync_api")

#: Milliseconds: a real browser shares its cores with other tests.
PATIENCE = 60_000
sync_api.expect.set_options(timeout=PATIENCE)

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build/screenshots"
_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
]
_DROP = """async ([zone, files]) => {
    const carried = new DataTransfer();
    for (const { name, type, content } of files) {
        const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
        carried.items.add(new File([bytes], name, { type }));
    }
    for (const kind of ["dragenter", "dragover", "drop"]) {
        const given = { dataTransfer: carried, bubbles: true, cancelable: true };
        document.querySelector(zone).dispatchEvent(new DragEvent(kind, given));
    }
}"""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4"}


@contextlib.contextmanager
def server(folder: Path, cache: Path) -> Iterator[str]:
    """Run `vramx serve` in a folder that has models, for a scope; its address."""
    command = [
        *(sys.executable, "-m", "vramx", "serve", "--data", "data", "--models", "models"),
        *("--port", "0", "--backend", "simulated", "--budget", "64MiB", "--block", "64KiB"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        "XDG_CACHE_HOME": str(cache),
        "OMP_NUM_THREADS": "1",
    }
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    with process:
        try:
            line = process.stdout.readline()
            assert line.startswith("vramx serves at "), log.read_text()
            yield line.split()[-1]
        finally:
            process.kill()


@contextlib.contextmanager
def server_here(asked: ServiceSettings) -> Iterator[str]:
    """Run a service on a thread of this process, which is quicker to start; its address."""
    with Service(asked) as service, socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(build(service), log_level="error", timeout_graceful_shutdown=1)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            service.changes.close()
            running.should_exit = True
            thread.join()


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Run Chromium, for a scope."""
    if _CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=_CHROMIUM, args=_ARGUMENTS)


def write_models(folder: Path) -> None:
    """Write the descriptions of models, with one that waits."""
    serving.write_models(folder)
    held = {"upscale": {"name": "service.page_networks:HeldByPipe"}}
    (folder / "held.json").write_text(json.dumps(held))


@dataclass
class Visit:
    """The page of a server in a tab of its own, and what went wrong in it."""

    page: Any
    address: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._ask)
        self.page.goto(self.address)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _ask(self, request: Any) -> None:
        if not request.url.startswith((f"{self.address}/", f"blob:{self.address}/")):
            self.wrong.append(f"asks {request.url}")

    def drop(self, zone: str, *paths: Path, name: str | None = None) -> None:
        """Drop files, the last steps of which are the browser's own events."""
        files = [
            {
                "name": name or path.name,
                "type": _TYPES[path.suffix],
                "content": base64.b64encode(path.read_bytes()).decode(),
            }
            for path in paths
        ]
        self.page.evaluate(_DROP, [zone, files])

    def job(self, name: str) -> Any:
        """The latest job of a file."""
        return self.page.locator("#jobs .job", has_text=name).first

    def state(self, name: str, state: str) -> Any:
        """Wait until the latest job of a file is in a state, and return its row."""
        row = self.job(name)
        sync_api.expect(row).to_have_attribute("data-state", state)
        return row

    def screenshot(self, name: str) -> None:
        """Keep a picture of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
