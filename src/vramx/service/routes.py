"""What the service answers, by its paths."""

from __future__ import annotations

import html
import mimetypes
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Body, Depends, Header, Query, Request
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    Response,
    StreamingResponse,
)

from vramx.service import events, metrics
from vramx.service.refusals import ConflictError, NotFoundError
from vramx.service.requests import JobRequest, plain
from vramx.service.service import Service
from vramx.service.store import ENDED, StoredJob

#: Seconds between two events of the card.
_CARD = 1.0
_NUMBER = 2**62


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Of = Annotated[Service, Depends(_service)]
_Id = str

router = APIRouter()


def _told(service: Service, job: StoredJob) -> dict[str, Any]:
    """Return what clients see of a job."""
    done = job.state == "done"
    return {**job.to_dict(), "files": service.results.names(job.id) if done else []}


# Files


@router.post("/api/files", status_code=201, tags=["files"])
async def upload(
    request: Request, service: Of, name: Annotated[str, Query(max_length=1024)] = "file"
) -> dict[str, Any]:
    """Upload a picture or a video: the body is the file as it is."""
    stored = await service.files.receive(request.stream(), name)
    service.metrics.uploaded.inc(stored.bytes)
    return vars(stored)


@router.get("/api/files/{id}", tags=["files"])
def see_file(id: _Id, service: Of) -> dict[str, Any]:  # noqa: A002 - what clients see
    """Tell what an uploaded file is."""
    return vars(service.store.file(id))


@router.get("/api/files/{id}/content", tags=["files"], response_class=FileResponse)
def file_content(id: _Id, service: Of) -> FileResponse:  # noqa: A002
    """Download an uploaded file; parts of it by Range."""
    file = service.store.file(id)
    guess = mimetypes.guess_type(file.name)[0] or ""  # only a guess: the name is its client's
    is_shown = guess.startswith("video/" if file.kind == "video" else "image/")
    media_type = guess if is_shown and "xml" not in guess else "application/octet-stream"
    return FileResponse(service.files.path(id), media_type=media_type, filename=file.name)


@router.delete("/api/files/{id}", status_code=204, tags=["files"])
def remove_file(id: _Id, service: Of) -> None:  # noqa: A002
    """Remove an uploaded file; not while a job reads it."""
    service.files.remove(id)


# Jobs


@router.post("/api/jobs", status_code=201, tags=["jobs"])
def add_job(request: Annotated[JobRequest, Body()], service: Of) -> dict[str, Any]:
    """Put a job in line."""
    return _told(service, service.work.add(plain(request)))


@router.get("/api/jobs", tags=["jobs"])
def list_jobs(
    service: Of,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int, Query(ge=0, le=_NUMBER)] = _NUMBER,
    state: Literal["queued", "running", "done", "failed", "cancelled"] | None = None,
) -> dict[str, Any]:
    """List jobs, the latest first; `next` is the `before` of the next page."""
    jobs = service.store.jobs(before, limit, state)
    following = jobs[-1].number if len(jobs) == limit else None
    return {"jobs": [_told(service, each) for each in jobs], "next": following}


@router.get("/api/jobs/{id}", tags=["jobs"])
def see_job(id: _Id, service: Of) -> dict[str, Any]:  # noqa: A002
    """Tell how a job is."""
    return _told(service, service.store.job(id))


@router.delete("/api/jobs/{id}", tags=["jobs"])
def cancel_job(id: _Id, service: Of, forget: bool = False) -> dict[str, Any]:  # noqa: A002
    """Cancel a job that has not ended. With `forget`, remove one that has, and what it made."""
    if forget:
        job = service.store.job(id)
        service.work.forget(id)
        return {**job.to_dict(), "files": []}
    return _told(service, service.work.cancel(id))


@router.post("/api/jobs/{id}/resume", tags=["jobs"])
def resume_job(id: _Id, service: Of) -> dict[str, Any]:  # noqa: A002
    """Have a job that was cancelled or failed go on: a video from its finished segments."""
    return _told(service, service.work.resume(id))


@router.get("/api/jobs/{id}/events", tags=["jobs"], response_class=StreamingResponse)
async def watch_job(
    id: _Id,  # noqa: A002
    service: Of,
    last_event_id: Annotated[str | None, Header(max_length=32)] = None,
) -> Response:
    """Stream how a job changes as server-sent events until it has ended."""

    def look() -> dict[str, Any]:
        return _told(service, service.store.job(id))

    job = await run_sync(look)
    seen = last_event_id or ""
    last = int(seen) if seen.isascii() and seen.isdecimal() else 0
    if job["state"] in ENDED and job["revision"] <= last:
        return Response(status_code=204)  # which tells a browser to come back no more
    service.changes.check_place()
    return _stream(events.job_events(service.changes, id, look, last))


@router.get("/api/jobs/{id}/result", tags=["jobs"], response_class=FileResponse)
def result(id: _Id, service: Of) -> FileResponse:  # noqa: A002
    """Download what a job made; parts of it by Range."""
    job = service.store.job(id)
    if job.state != "done":
        raise ConflictError(f"the job {id} is {job.state}: it has made nothing yet")
    if (name := service.results.name(id)) is None:
        raise NotFoundError(f"the job {id} has several files: GET /api/jobs/{id}/files/NAME")
    return _file(service, id, name)


@router.get("/api/jobs/{id}/files/{name}", tags=["jobs"], response_class=FileResponse)
def one_file(id: _Id, name: str, service: Of) -> FileResponse:  # noqa: A002
    """Download one of several files that a job made."""
    if service.store.job(id).state != "done":
        raise ConflictError(f"the job {id} is not done: it has made nothing yet")
    return _file(service, id, name)


def _file(service: Service, id: str, name: str) -> FileResponse:  # noqa: A002
    return FileResponse(service.results.path(id, name), filename=name)


def _stream(content: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"X-Accel-Buffering": "no"}  # for proxies that would hold events back
    return StreamingResponse(content, media_type="text/event-stream", headers=headers)


@router.get("/api/events", tags=["service"], response_class=StreamingResponse)
async def watch_all(service: Of) -> Response:
    """Stream how all jobs change, and once a second the card, as server-sent events."""
    service.changes.check_place()

    def job(id: str) -> dict[str, Any] | None:  # noqa: A002
        try:
            return _told(service, service.store.job(id))
        except NotFoundError:
            return None

    return _stream(events.all_events(service.changes, service.card.look, job, _CARD))


# Models, folders, the card


@router.get("/api/models", tags=["service"])
def models(service: Of) -> dict[str, Any]:
    """List the models and the folders that may be named."""
    told = [each.to_dict() for each in service.models.listed()]
    return {"models": told, "folders": service.folders.names}


@router.get("/api/card", tags=["service"])
def card(service: Of) -> dict[str, Any]:
    """Tell what jobs have of the card now."""
    return {**service.card.health(), **service.card.look()}


@router.get("/api/card/events", tags=["service"], response_class=StreamingResponse)
async def watch_card(service: Of) -> Response:
    """Stream what jobs have of the card, once a second, as server-sent events."""
    service.changes.check_place()

    async def told() -> AsyncIterator[bytes]:
        with service.changes.place():
            yield events.BEGIN
            number = 0
            async for _ in service.changes.watch("card", _CARD):
                number += 1
                yield events.event("card", number, await run_sync(service.card.look))

    return _stream(told())


@router.get("/health", tags=["service"])
def health(service: Of) -> Response:
    """Tell whether the service works and its card is there."""
    told = service.card.health()
    there = told["there"]
    content = {"status": "ok" if there else "no card", "card": told}
    headers = {} if there else {"Retry-After": "30"}
    return JSONResponse(content, 200 if there else 503, headers)


@router.get("/metrics", tags=["service"])
def prometheus(service: Of) -> Response:
    """Tell what Prometheus reads."""
    return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """List what there is, for people; programs read `/openapi.json`."""
    schema = request.app.openapi()
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(one.get('description', ''))}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, one in methods.items()
    )
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8><title>vramx</title>"
        "<style>body{font:16px/1.5 sans-serif;margin:2em}td{padding:.2em 1em .2em 0;"
        "vertical-align:top}</style><h1>vramx</h1>"
        f"<p>{html.escape(schema['info']['description'])}</p><table>{rows}</table>"
        "<p><a href=/openapi.json>openapi.json</a></p></html>"
    )
