"""Whatever a client sends, the service answers by what was asked for or by a typed error.

``VRAMX_TEST_INPUTS`` says how many requests, 200 unless set; `make fuzz` sends 10,000.
"""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterator
from typing import Any

import pytest

for package in ("av", "fastapi", "httpx", "prometheus_client", "skimage", "torch", "uvicorn"):
    pytest.importorskip(package)

import httpx  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from service import serving  # noqa: E402
from vramx.service import Limits  # noqa: E402

INPUTS = int(os.environ.get("VRAMX_TEST_INPUTS", "200"))
#: What the service answers by itself. None of it is 500, and 503 says when to come again.
FINE = {200, 201, 204, 206}
TYPED = {400, 401, 403, 404, 405, 409, 413, 415, 416, 422, 429, 503}

TEXT = st.text(max_size=40) | st.sampled_from(
    ["../../jobs.sqlite", "/etc/passwd", "\0", "\ud800", "a" * 300, "%2e%2e", "' OR 1=1 --", "tiny"]
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from([10**400, -(2**63), 1e308])
)
JSON = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
REFS: list[Any] = [
    {"folder": "media", "path": "tiny.png"},
    {"folder": "media", "path": "clip.mp4"},
    {"folder": "media", "path": "../x"},
    {"file": "0" * 32},
    {"job": "0" * 32, "name": "result.png"},
]
REF = st.sampled_from(REFS) | JSON
#: Fields with values of which many are allowed: requests get far.
FIELDS: dict[str, Any] = {
    "kind": st.sampled_from(["upscale", "swap", "faces"]) | JSON,
    "source": REF,
    "model": st.sampled_from(["doubling", "people", "held"]) | TEXT,
    "budget": st.sampled_from(["1MiB", "9e9", "0B"]) | LEAF,
    "scale": st.floats(0.5, 4) | LEAF,
    "width": st.integers(1, 9) | LEAF,
    "format": st.sampled_from(["png", "mp4", "jpeg", "zip"]) | TEXT,
    "quality": st.integers(0, 101) | LEAF,
    "preview": st.booleans(),
    "dtype": st.sampled_from(["half", "float"]) | LEAF,
    "faces": st.lists(REF, max_size=2) | JSON,
    "references": st.lists(REF, max_size=2) | JSON,
    "swap": st.dictionaries(st.sampled_from(["faces", "score", "feather"]), LEAF) | JSON,
    "video": st.dictionaries(
        st.sampled_from(["codec", "codec_options", "segment", "start", "end", "pix_fmt"]), JSON
    ),
}
REQUEST = st.fixed_dictionaries(
    {name: FIELDS[name] for name in ("kind", "source", "model")},
    optional={
        name: each for name, each in FIELDS.items() if name not in ("kind", "source", "model")
    },
)
SEGMENT = st.sampled_from(
    ["0" * 32, "..", "%2e%2e", "%00", "result.png", "{job}", "%ff"]
) | st.text(string.ascii_letters + string.digits + "-_.~%", max_size=12)
#: Streams that last as long as the service, which the client would read to their ends. Paths such
#: as `/api/jobs/../events` lead there.
ENDLESS = {"/api/events", "/api/card/events"}
PATH = st.sampled_from(
    ["/api/files", "/api/jobs", "/api/models", "/api/card", "/health", "/metrics", "/docs", "/"]
) | st.builds(
    lambda pattern, one, other: pattern.replace("A", one).replace("B", other),
    st.sampled_from(
        [
            "/api/files/A",
            "/api/jobs/A",
            "/api/jobs/A/events",
            "/api/jobs/A/resume",
            "/api/jobs/A/result",
            "/api/jobs/A/files/B",
            "/A/B",
        ]
    ),
    SEGMENT,
    SEGMENT,
)
SENT = PATH.filter(lambda path: httpx.URL(f"http://x{path}").path not in ENDLESS)
METHOD = st.sampled_from(["GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "X"])
QUERY = st.dictionaries(
    st.sampled_from(["name", "limit", "before", "state", "forget", "x"]),
    st.sampled_from(["1", "-1", "", "done", "true", "9" * 40, "\0", "ü"]),
    max_size=2,
)
HEADER = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "Content-Encoding", "Content-Length", "Last-Event-ID", "Range", "Origin",
         "Host", "Authorization", "Expect", "Transfer-Encoding"]
    ),
    st.sampled_from(
        ["application/json", "text/plain", "gzip", "0", "-1", "9" * 30, "bytes=5-2", "bytes=0-",
         "null", "127.0.0.1:8000", "evil.example", "Basic x", "chunked", "²", "\x7f"]
    ).map(lambda text: text.encode("utf-8")),
    max_size=2,
)  # fmt: skip
BODY = (
    REQUEST.map(lambda each: ("json", each))
    | JSON.map(lambda each: ("json", each))
    | st.binary(max_size=64).map(lambda each: ("content", each))
    | st.sampled_from([b"\x89PNG\r\n\x1a\n", b"{", b'{"kind":', b"[" * 2000]).map(
        lambda each: ("content", each)
    )
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Client]:
    folder = tmp_path_factory.mktemp("service")
    serving.write_models(folder / "models")
    serving.write_media(folder / "media")
    limits = Limits(rate=10**6, burst=10**6, jobs=8)
    with serving.loop() as portal:
        with serving.serving(serving.settings(folder, limits=limits), portal) as (_, client):
            yield client


@pytest.fixture(scope="module")
def job(client: serving.Client) -> str:
    name = client.job(kind="upscale", source=REFS[0], model="doubling")
    client.done(name)
    return name


@pytest.mark.timeout(120 + INPUTS)
@settings(
    max_examples=INPUTS,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(method=METHOD, path=SENT, query=QUERY, headers=HEADER, body=BODY)
def test_a_request_is_answered_or_refused_by_a_typed_error(
    client: serving.Client,
    job: str,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, bytes],
    body: tuple[str, Any],
) -> None:
    kind, content = body
    if kind == "json":
        content = json.dumps(content).encode()
        headers = {"Content-Type": b"application/json", **headers}
    answer = client(
        method, path.replace("{job}", job), params=query, headers=headers, content=content
    )
    assert answer.status_code in FINE | TYPED, (answer.status_code, answer.text)
    if answer.status_code in TYPED and method != "HEAD":
        told = answer.json()
        assert set(told) == {"error", "message"}
        assert all(isinstance(each, str) and each for each in told.values())
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) > 0


def test_the_service_works_after_all_that(client: serving.Client, job: str) -> None:
    for page in ("/api/jobs", "/api/models", "/health", "/metrics"):
        assert client("GET", page).status_code == 200
    assert job
