"""What the environment sets. The only reader of environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vramx.errors import ConfigError
from vramx.units import parse_size

#: When managed weights get packed copies; see `vramx.oversubscribe`.
COMPRESS = ("auto", "always", "never")
#: What the host keeps of packed weights; likewise.
HOST = ("raw+packed", "packed")


@dataclass(frozen=True)
class Config:
    """Settings of a process.

    Attributes
    ----------
    managed_limit : int or None
        ``VRAMX_MANAGED_LIMIT``: the most bytes of unified memory that this process may hold.
    cuda_driver : str
        ``VRAMX_CUDA_DRIVER``: the driver library to open.
    deny_managed : bool
        ``VRAMX_DENY_MANAGED``: treat cards as ones without concurrent managed access, for tests.
    check : bool
        ``VRAMX_CHECK``: find writes that were not reported, at the cost of speed.
    compress : str
        ``VRAMX_COMPRESS``: `compress` of sessions whose program gives none.
    host : str
        ``VRAMX_HOST``: `host` of sessions whose program gives none.
    profiled : bool
        ``NVTX_INJECTION64_PATH`` is set, as profilers do: leases and moves are NVTX ranges.
    runtime_dir : str or None
        ``VRAMX_RUNTIME_DIR``: the folder in which processes find each other, in place of one for
        each user.
    monitored : bool
        Whether `vramx monitor` may look at this process's sessions: not with ``VRAMX_MONITOR=0``.
    cache_folder : pathlib.Path
        Where converted files are cached: ``vramx`` in ``XDG_CACHE_HOME``, or in ``~/.cache``.
    """

    managed_limit: int | None = None
    cuda_driver: str = "libcuda.so.1"
    deny_managed: bool = False
    check: bool = False
    compress: str = "auto"
    host: str = "raw+packed"
    profiled: bool = False
    runtime_dir: str | None = None
    monitored: bool = True
    cache_folder: Path = Path(os.path.expanduser("~/.cache")) / "vramx"


def from_environment() -> Config:
    """Read the settings.

    Returns
    -------
    Config
        The settings as they are now.

    Raises
    ------
    ConfigError
        If ``VRAMX_MANAGED_LIMIT`` is not a size, or ``VRAMX_COMPRESS`` or ``VRAMX_HOST`` none of
        its names.
    """
    limit = os.environ.get("VRAMX_MANAGED_LIMIT")
    return Config(
        managed_limit=None if not limit else parse_size(limit, "VRAMX_MANAGED_LIMIT"),
        cuda_driver=os.environ.get("VRAMX_CUDA_DRIVER") or Config.cuda_driver,
        deny_managed=os.environ.get("VRAMX_DENY_MANAGED", "") not in ("", "0"),
        check=os.environ.get("VRAMX_CHECK", "") not in ("", "0"),
        compress=_named("VRAMX_COMPRESS", COMPRESS, Config.compress),
        host=_named("VRAMX_HOST", HOST, Config.host),
        profiled=bool(os.environ.get("NVTX_INJECTION64_PATH")),
        runtime_dir=os.environ.get("VRAMX_RUNTIME_DIR") or None,
        monitored=os.environ.get("VRAMX_MONITOR", "") != "0",
        cache_folder=_cache_home() / "vramx",
    )


def _named(variable: str, allowed: tuple[str, ...], default: str) -> str:
    given = os.environ.get(variable) or default
    if given not in allowed:
        raise ConfigError(f"{variable} is {given!r}; set it to one of {', '.join(allowed)}")
    return given


def _cache_home() -> Path:
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # Relative paths are to be ignored, says the XDG Base Directory Specification.
    return given if given.is_absolute() else Path(os.path.expanduser("~/.cache"))
