"""What is refused before any route sees it: strangers, floods, and bodies that are too large."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vramx.service import page
from vramx.service.refusals import (
    BadRequestError,
    BusyError,
    ForbiddenError,
    RefusedError,
    TooLargeError,
    TooManyError,
    UnauthorizedError,
    UnsupportedError,
)
from vramx.service.settings import ServiceSettings

#: The most bytes of a request's head.
LONGEST_HEAD = 2**15
#: The longest body that is no upload.
_LONGEST = 2**16
#: Seconds in which a client has to send something of its body.
_PATIENCE = 60
#: How much of a refused body is read.
_DRAINED = 2**20
#: How many addresses are remembered: others are taken for new ones.
_ADDRESSES = 4096
#: What anyone may see: whether the service runs.
_OPEN = ("/health",)
_UPLOAD, _STREAM = "/api/files", "/events"
#: What browsers may do with answers: nothing but show them, and for no other page.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}

#: Is told of each answer: its method, its route and its status.
OnAnswer = Callable[[str, str, int], object]


class Rates:
    """How often each address may ask: so many a second, and so many at once.

    Parameters
    ----------
    rate, burst : int
        Requests a second, and at once.
    """

    def __init__(self, rate: int, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, now: float) -> None:
        """Count a request.

        Raises
        ------
        TooManyError
            If it is one too many.
        """
        left, before = self._left.pop(address, (float(self._burst), now))
        left = min(left + (now - before) * self._rate, self._burst)
        self._left[address] = (max(left - 1, 0) if left >= 1 else left, now)
        if len(self._left) > _ADDRESSES:
            self._left.popitem(last=False)
        if left < 1:
            raise TooManyError(
                f"at most {self._rate} requests a second are taken from one address",
                retry_after=1,
            )


class Guard:
    """Refuses before any route sees a request, and counts answers.

    Parameters
    ----------
    app : ASGI application
        What it guards.
    settings : ServiceSettings
        The service's.
    on_answer : callable
        Is told of each answer.
    """

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings, on_answer: OnAnswer) -> None:
        self._app = app
        self._settings = settings
        self._on_answer = on_answer
        self._rates = Rates(settings.limits.rate, settings.limits.burst)
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        waits = Headers(scope=scope).get("expect", "").lower() == "100-continue"
        body = _Body(receive, self._most(scope), waits=waits)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                await body.drain()
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                route = getattr(scope.get("route"), "path", "none")
                self._on_answer(scope["method"], route, message["status"])
            await send(message)

        try:
            self._check(scope)
        except RefusedError as refusal:
            await answer(refusal)(scope, body.receive, counted)
            return
        if scope["path"].endswith(_STREAM):
            await self._app(scope, body.receive, counted)
            return
        self._requests += 1
        try:
            await self._app(scope, body.receive, counted)
        finally:
            self._requests -= 1

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > LONGEST_HEAD:
            raise BadRequestError(f"a request's head has at most {LONGEST_HEAD} bytes here")
        if scope["path"] not in _OPEN:
            client = scope.get("client") or ("", 0)
            self._rates.take(_address(client[0]), time.monotonic())
            self._check_origin(headers)
            if scope["path"] not in page.PATHS:
                self._check_token(headers)
        self._check_body(scope, headers)
        if self._requests >= self._settings.limits.requests:
            raise BusyError(
                f"{self._settings.limits.requests} requests are worked on already", retry_after=1
            )

    def _check_origin(self, headers: Headers) -> None:
        """Refuse what a page of another site has a browser send, also under a name of its own."""
        host = headers.get("host", "")
        if self._settings.is_loopback and not _is_loopback(host):
            raise ForbiddenError(
                f"this service listens on {self._settings.address} and has no name {host[:100]!r}"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ForbiddenError("pages of other sites may not use this service")

    def _check_token(self, headers: Headers) -> None:
        token = self._settings.token
        if token is None:
            return
        given = _given(headers.get("authorization", ""))
        if not hmac.compare_digest(given, token.encode()):
            raise UnauthorizedError(
                "a token is needed, as Authorization: Bearer TOKEN or as the password of any user"
            )

    def _check_body(self, scope: Scope, headers: Headers) -> None:
        if headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedError("bodies are taken as they are: leave out Content-Encoding")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            raise BadRequestError("Content-Length is no number of bytes")
        most = self._most(scope)
        if int(length) > most:
            raise TooLargeError(f"at most {most} bytes are taken here")
        has_body = int(length) > 0 or "transfer-encoding" in headers
        is_json = headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        if has_body and scope["path"] != _UPLOAD and not is_json:
            raise UnsupportedError("this takes JSON: send Content-Type: application/json")

    def _most(self, scope: Scope) -> int:
        is_upload = scope["path"] == _UPLOAD
        return self._settings.limits.upload_bytes if is_upload else _LONGEST


class _Body:
    """What a client sends: no more than is taken, and read before an answer that ends it.

    What is not read resets the connection, and the client would see no answer.

    Parameters
    ----------
    receive : ASGI receive
        Gives its parts.
    most : int
        The most bytes, whatever length was promised.
    waits : bool
        Whether the client waits to be asked for it.
    """

    def __init__(self, receive: Receive, most: int, *, waits: bool) -> None:
        self._receive = receive
        self._most = most
        self._is_sent = not waits
        self._ended = False
        self._taken = 0

    async def receive(self) -> Message:
        """Give the next part, or refuse it."""
        message = await self._next()
        if self._taken > self._most:
            raise HTTPException(413, f"at most {self._most} bytes are taken here")
        return message

    async def drain(self) -> None:
        """Read the rest, up to a limit."""
        most = self._taken + _DRAINED
        with contextlib.suppress(HTTPException):  # it sends nothing any more
            while self._is_sent and not self._ended and self._taken < most:
                await self._next()

    async def _next(self) -> Message:
        if self._ended:
            return await self._receive()  # which comes when the client has gone
        self._is_sent = True
        try:
            with anyio.fail_after(_PATIENCE):
                message = await self._receive()
        except TimeoutError:
            self._ended = True
            raise HTTPException(400, f"nothing came for {_PATIENCE} s") from None
        self._taken += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message


def answer(refusal: RefusedError) -> JSONResponse:
    """Make the answer that says what was refused."""
    return JSONResponse(refusal.to_dict(), refusal.status, refusal.headers)


def _given(authorization: str) -> bytes:
    """Return the token that a client shows; browsers send it as a password."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _address(host: str) -> str:
    """Return what counts as one client: of IPv6 the network that a household has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 6:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return host


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
