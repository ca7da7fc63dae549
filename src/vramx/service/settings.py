"""How a service is set up: frozen, and checked before the server starts.

Loading this loads no framework.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vramx.errors import ConfigError
from vramx.session.options import SessionOptions
from vramx.settings import Settings
from vramx.units import as_count, parse_size

#: Names of folders and models, as clients write them.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: The least characters of a token: what cannot be guessed.
_LEAST_TOKEN = 16


@dataclass(frozen=True)
class Limits(Settings):
    """What clients may use up.

    Attributes
    ----------
    upload : int, float or str
        The most bytes of one file.
    stored : int, float or str
        The most bytes of all uploaded files.
    pixels : int
        The most pixels of a picture, or of a video's frame.
    result_pixels : int
        The most pixels of a result, where a size is asked for.
    jobs : int
        The most jobs that wait or run.
    requests : int
        The most requests that are worked on at once, streams of events aside.
    streams : int
        The most streams of events at once.
    rate, burst : int
        Requests a second of one address, and how many may come at once.

    Raises
    ------
    ConfigError
        If one is not allowed.
    """

    upload: int | float | str = "4GiB"
    stored: int | float | str = "64GiB"
    pixels: int = 64_000_000
    result_pixels: int = 256_000_000
    jobs: int = 1000
    requests: int = 256
    streams: int = 64
    rate: int = 50
    burst: int = 500

    def __post_init__(self) -> None:
        for name in ("pixels", "result_pixels", "jobs", "requests", "streams", "rate", "burst"):
            as_count(getattr(self, name), name)
        for name in ("upload", "stored"):
            parse_size(getattr(self, name), name)
        super().__post_init__()

    @property
    def upload_bytes(self) -> int:
        """The most bytes of one file."""
        return parse_size(self.upload, "upload")

    @property
    def stored_bytes(self) -> int:
        """The most bytes of all uploaded files."""
        return parse_size(self.stored, "stored")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(Settings):
    """How `vramx serve` runs.

    Attributes
    ----------
    data : Path
        The folder of its own, in which it keeps uploads, results and the list of jobs.
    models : Path, optional
        The folder whose models clients may name.
    folders : mapping of str to Path
        Folders whose files clients may name, by what they are called.
    address : str
        The address to listen on. Whatever is not this machine alone takes a token.
    port : int
        Where to listen; 0 takes a free one.
    token : str, optional
        What clients have to show.
    session : SessionOptions
        The card, the most that jobs together may have on it, and how their sessions are opened.
    workers : int
        The most jobs that run at once. A job that gives no budget has this part of the whole.
    limits : Limits
        What clients may use up.

    Raises
    ------
    ConfigError
        If a field is not allowed.
    """

    data: Path
    models: Path | None = None
    folders: Mapping[str, Path] = field(default_factory=dict, hash=False)
    address: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    session: SessionOptions = SessionOptions()
    workers: int = 2
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        super().__post_init__()
        as_count(self.workers, "workers")
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port {self.port} is not a number from 0 to 65535")
        for name, folder in self.folders.items():
            if not NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} cannot be a folder's name: take letters, digits, '.', '_' and '-'"
                )
            _check_folder(folder, f"of {name}")
        if self.models is not None:
            _check_folder(self.models, "of models")
        if self.token is not None:
            is_sent = self.token.isascii() and self.token.isprintable() and " " not in self.token
            if len(self.token) < _LEAST_TOKEN or not is_sent:
                raise ConfigError(
                    f"a token has at least {_LEAST_TOKEN} letters, digits and marks, without "
                    "spaces: `openssl rand -hex 32` makes one"
                )
        elif not self.is_loopback:
            raise ConfigError(
                f"who can reach {self.address} could use the card and read every result: give a "
                "token, or listen on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach the service."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"


def _check_folder(folder: Path, what: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder} {what}")
