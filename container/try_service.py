"""Starts the service as the container does, on the simulated card, and has a picture enlarged."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

MODEL, SCALE = "realesr-animevideov3-x2", 2


def asked(address: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """Ask the service; return what it answers."""
    kind = {"Content-Type": "application/json" if body and body[:1] == b"{" else "image/png"}
    with urlopen(Request(address, body, kind, method=method), timeout=60) as answer:
        return bytes(answer.read())


def enlarge(service: str, picture: bytes) -> Image.Image:
    """Upload a picture, and return the result of the job."""
    file = json.loads(asked(f"{service}/api/files?name=small.png", "POST", picture))
    wanted = {"kind": "upscale", "source": {"file": file["id"]}, "model": MODEL}
    job: Any = json.loads(asked(f"{service}/api/jobs", "POST", json.dumps(wanted).encode()))
    with urlopen(f"{service}/api/jobs/{job['id']}/events", timeout=120) as events:
        for _ in events:  # until the job has ended
            pass
    job = json.loads(asked(f"{service}/api/jobs/{job['id']}"))
    assert job["state"] == "done", job
    return Image.open(io.BytesIO(asked(f"{service}/api/jobs/{job['id']}/result")))


def main() -> None:
    """Run it, and check the size of the result and that the root can not be written."""
    try:
        Path("/opt/vramx/written").touch()
    except OSError:
        pass
    else:
        raise AssertionError("the root file system can be written")
    command = "-m vramx serve --data /data --models /models --port 0 --backend simulated"
    command += " --budget 64MiB"
    server = subprocess.Popen(
        [sys.executable, *command.split()], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert server.stdout is not None
        service = server.stdout.readline().split()[-1]
        pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "png")
        result = enlarge(service, written.getvalue())
        assert result.size == (32 * SCALE, 24 * SCALE), result.size
        print(f"enlarged to {result.size} as {json.loads(asked(f'{service}/health'))}")
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
