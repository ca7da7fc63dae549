"""What the page is made of is served by name alone, and can load nothing from elsewhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from vramx.service.events import Changes, all_events
from vramx.service.page import PATHS

from .serving import Client


def test_the_files_of_the_page_are_the_same_bytes_and_need_not_be_sent_again(
    client: Client,
) -> None:
    import vramx.service.page

    folder = Path(vramx.service.page.__file__).parent
    assert {"/", "/page/main.js", "/page/style.css"} <= PATHS
    for path in PATHS:
        answer = client("GET", path)
        name = path.rpartition("/")[2] or "index.html"
        assert answer.content == (folder / name).read_bytes()
        assert answer.headers["cache-control"] == "no-cache"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        again = client("GET", path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/__init__.py", "/page/index.html", "/page/../app.py", "/page/%2e%2e/app.py"],
)
def test_nothing_else_is_served(client: Client, path: str) -> None:
    assert client("GET", path).status_code == 404


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("small.png", "image/png"),
        ("small.html", "application/octet-stream"),
        ("small.svg", "application/octet-stream"),
        ("small.mp4", "application/octet-stream"),
    ],
)
def test_an_upload_comes_back_as_it_was_and_is_no_page(
    client: Client, media: Path, name: str, kind: str
) -> None:
    content = (media / "small.png").read_bytes()
    told = client("POST", "/api/files", params={"name": name}, content=content).json()
    answer = client("GET", f"/api/files/{told['id']}/content")
    assert answer.content == content
    assert answer.headers["content-type"] == kind
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    client("DELETE", f"/api/files/{told['id']}")
    assert client("GET", f"/api/files/{told['id']}/content").status_code == 404


def test_one_stream_tells_of_every_job_that_changes_and_of_the_card() -> None:
    jobs: dict[str, Any] = {"a": {"id": "a"}}

    async def follow() -> list[Any]:
        changes = Changes(1)
        stream = all_events(changes, lambda: {"budget": 1}, jobs.get, 60)
        told: list[Any] = []
        async for sent in stream:
            lines = dict(line.split(": ", 1) for line in sent.decode().splitlines() if line)
            if "data" in lines:
                told.append((lines["event"], json.loads(lines["data"])))
            if told == [("card", {"budget": 1})]:
                changes.tell("a")
                changes.tell("removed")
            if len(told) == 3:
                changes.close()
        assert changes.streams == 0
        return told

    card, *others = asyncio.run(follow())
    assert card == ("card", {"budget": 1})
    assert sorted(others) == [("gone", {"id": "removed"}), ("job", {"id": "a"})]
