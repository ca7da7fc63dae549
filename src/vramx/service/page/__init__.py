"""The page for people: its files, which anyone may have, by their names alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

_FOLDER = Path(__file__).parent
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: The files by the paths at which they are served.
_FILES = {
    "/" if file.name == "index.html" else f"/page/{file.name}": file
    for file in sorted(_FOLDER.iterdir())
    if file.suffix in _TYPES
}
#: What needs no token: without it there would be no page that asks for one.
PATHS = frozenset(_FILES)
_HEADERS = {
    # Browsers ask each time, and are told when nothing has changed.
    "Cache-Control": "no-cache",
    # What users call their files is text: nothing becomes a program here, or comes from elsewhere.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
}

router = APIRouter(include_in_schema=False)


def _serve(path: str, file: Path) -> None:
    """Add the route of a file."""
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    @router.get(path)
    def answer(request: Request) -> Response:
        headers = {**_HEADERS, "ETag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_TYPES[file.suffix])


for _path, _file in _FILES.items():
    _serve(_path, _file)
