"""Running a service: a socket, uvicorn, and an end that keeps what was done."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn

from vramx.errors import ConfigError
from vramx.service.app import build
from vramx.service.events import Changes
from vramx.service.limits import LONGEST_HEAD
from vramx.service.service import Service
from vramx.service.settings import ServiceSettings

#: Seconds that a connection may be idle: more than clients keep theirs, which see no break then.
_IDLE = 75
#: Seconds that answers may still take when the server ends.
_PATIENCE = 10


class _Server(uvicorn.Server):
    """A server that ends streams of events before it waits for what it still answers."""

    def __init__(self, config: uvicorn.Config, changes: Changes) -> None:
        super().__init__(config)
        self._changes = changes

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._changes.close()
        await super().shutdown(sockets)


def serve(settings: ServiceSettings, on_ready: Callable[[str], object]) -> None:
    """Serve until a signal ends the process.

    Parameters
    ----------
    settings : ServiceSettings
        How.
    on_ready : callable
        Is given the address once clients may connect.

    Raises
    ------
    ConfigError
        If something is not as it may be, or the address cannot be had.
    NoDeviceError
        If there is no usable card.
    """
    listening = _listen(settings)
    with listening, Service(settings) as service:
        config = uvicorn.Config(
            build(service),
            http="h11",  # which limits the length of heads
            h11_max_incomplete_event_size=LONGEST_HEAD,
            ws="none",
            log_level=logging.WARNING,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_PATIENCE,
        )
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        on_ready(f"http://{shown}:{port}")
        _Server(config, service.changes).run([listening])


def _listen(settings: ServiceSettings) -> socket.socket:
    host = settings.address
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"the address {host}:{settings.port} cannot be had: {error.strerror or error}"
        ) from error
