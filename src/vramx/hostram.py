"""The host's memory, as Linux tells it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HostRam:
    """The host's memory.

    Attributes
    ----------
    total, available : int
        Bytes there are, and bytes that programs may still take.
    group_limit : int or None
        The most bytes that the process's control group may hold, if that is less.
    """

    total: int
    available: int
    group_limit: int | None = None

    @property
    def usable(self) -> int:
        """Bytes that the process may still take."""
        return min(self.available, self.group_limit or self.available)


def group_limits(root: Path, groups: str) -> Iterator[int]:
    """Read the memory limits of a process's control group and those above it.

    Parameters
    ----------
    root : Path
        Where control groups are mounted.
    groups : str
        The process's groups, as ``/proc/self/cgroup`` has them, of version 1 or 2.

    Yields
    ------
    int
        Bytes.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (
            (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        )
        here = top / path.strip("/")
        for folder in (here, *here.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                yield int((folder / name).read_text(encoding="ascii"))
            if folder == top:
                break


def host_ram() -> HostRam | None:
    """Read how much memory the host has.

    Returns
    -------
    HostRam or None
        None where the system does not tell it as Linux does.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        groups = Path("/proc/self/cgroup").read_text(encoding="ascii")
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    limits = [
        limit for limit in group_limits(Path("/sys/fs/cgroup"), groups) if limit < sizes["MemTotal"]
    ]
    return HostRam(sizes["MemTotal"], sizes["MemAvailable"], min(limits, default=None))
