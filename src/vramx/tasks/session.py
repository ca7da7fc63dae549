"""The session in which a task runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from vramx.opening import oversubscribe
from vramx.queue.job import running_job
from vramx.session import Session
from vramx.settings import Settings
from vramx.units import parse_size


@dataclass(frozen=True)
class SessionOptions(Settings):
    """What `vramx.oversubscribe` is asked for; it explains each.

    Attributes
    ----------
    budget, block : int, float or str
        Sizes, as bytes or text such as ``"8GiB"``.
    device : int or str, optional
        The card.
    backend, policy : str
        By their names.

    Raises
    ------
    ConfigError
        If a size is none. The others are looked at as the session is opened.
    """

    budget: int | float | str | None = None
    device: int | str | None = None
    backend: str = "auto"
    policy: str = "adaptive"
    block: int | float | str = "32MiB"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            parse_size(self.budget, "budget")
        parse_size(self.block, "block")

    def open(self) -> Session:
        """Open the session; within the share of a queue's job where one runs.

        Returns
        -------
        Session
            As `vramx.oversubscribe`.
        """
        asked: dict[str, Any] = {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        }
        job = running_job()
        return oversubscribe(**asked) if job is None else job.oversubscribe(**asked)
