"""The service over HTTP: an ASGI application."""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import fastapi
from anyio.to_thread import run_sync
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

import vramx
from vramx.service import page, routes
from vramx.service.limits import Guard, answer
from vramx.service.refusals import BusyError, RefusedError, told
from vramx.service.service import Service

_log = logging.getLogger(__name__)

#: What is wrong with requests that no route sees, by their status.
_NAMES = {
    400: "BadRequestError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "TooLargeError",
    416: "RangeError",
}
_ABOUT = (
    "Pictures and videos enlarged, and faces put into them, on a card that is smaller than the "
    "models. Every error is `{error, message}`."
)


def build(service: Service) -> fastapi.FastAPI:
    """Make the application of an open service.

    Parameters
    ----------
    service : Service
        The service; the application closes it when its server ends.

    Returns
    -------
    fastapi.FastAPI
        The application.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        await run_sync(service.close)

    app = fastapi.FastAPI(
        title="vramx",
        summary="vramx serve",
        description=_ABOUT,
        version=vramx.__version__,
        docs_url=None,  # they load programs from other hosts
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(page.router)
    for kind, handle in _HANDLERS.items():
        app.add_exception_handler(kind, handle)
    app.add_middleware(Guard, settings=service.settings, on_answer=service.metrics.answered)
    return app


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return answer(error)


async def _of_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    name = _NAMES.get(error.status_code, "HTTPError")
    return JSONResponse(told(name, str(error.detail)), error.status_code, error.headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = [f"{_place(each['loc'])}: {each['msg']}" for each in error.errors()[:8]]
    return JSONResponse(told("NotAllowedError", "; ".join(wrong)), 422)


def _place(parts: tuple[Any, ...]) -> str:
    return ".".join(str(each)[:64] for each in parts)


async def _unwritten(request: Request, error: Exception) -> JSONResponse:
    """Say that the disk is full, if that is what the system or SQLite said."""
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if is_full or isinstance(error, sqlite3.OperationalError):
        message = "the service's disk cannot be written: try again later"
        return answer(BusyError(message, retry_after=60))
    return await _failed(request, error)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    _log.error("a request failed", exc_info=error)
    return JSONResponse(told("InternalError", f"{type(error).__name__}: see the log"), 500)


_HANDLERS: dict[type[Exception], Any] = {
    RefusedError: _refused,
    HTTPException: _of_http,
    RequestValidationError: _invalid,
    sqlite3.OperationalError: _unwritten,
    OSError: _unwritten,
    Exception: _failed,
}
