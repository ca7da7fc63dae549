"""What an actor does: it opens a task once, and makes pieces of it."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from vramx.errors import ConfigError, Error
from vramx.integrations.ray import Seat
from vramx.pipelines.video.manifest import Segment
from vramx.pipelines.video.pieces import Piece, make_piece
from vramx.stopping import Stop
from vramx.tasks.task import MediaTask


@dataclass(frozen=True)
class About:
    """What an actor says of itself.

    Attributes
    ----------
    machine, card : str
        The names of both.
    budget : int
        Bytes of the card that it may have.
    identity : mapping of str to str
        What its results depend on.
    """

    machine: str
    card: str
    budget: int
    identity: Mapping[str, str]


class Worker:
    """A task, opened in a session within the actor's share of its card.

    What goes wrong as it opens is raised by `about`, for Ray tells of an actor that cannot be made
    in text alone.

    Parameters
    ----------
    kind : type
        The task's class.
    content : dict
        What its `to_dict` returned.
    version : str
        The driver's vramx.
    """

    def __init__(self, kind: type[MediaTask[Any]], content: dict[str, Any], version: str) -> None:
        self._machine = platform.node()
        self._failure: Exception | None = None
        try:
            if version != (own := metadata.version("vramx")):
                raise ConfigError(f"vramx is {own} there and {version} here: install the same")
            self._task = kind.from_dict(content)
            self._seat: Seat[Any] = Seat(self._task.session, self._task.opened)
        except Exception as error:
            self._failure = error

    @contextlib.contextmanager
    def _naming_the_machine(self) -> Iterator[None]:
        try:
            yield
        except Error as error:
            error.args = (f"on {self._machine}: {error}",)
            raise

    def about(self) -> About:
        """Return what there is to say of it."""
        with self._naming_the_machine():
            if self._failure is not None:
                raise self._failure
            identity = self._seat.do(lambda opened: self._task.video_change(opened).identity)
        share = self._seat.share
        return About(self._machine, share.device, share.budget, dict(identity))

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """Return what size frames become."""
        return self._seat.do(lambda opened: self._task.video_change(opened).size(width, height))

    def make(self, piece: Piece) -> tuple[Segment, float]:
        """Make a segment; return what is to be noted of it, and the seconds that it took."""
        begun = time.perf_counter()

        def make(opened: Any) -> Segment:
            return make_piece(piece, self._task.video_change(opened).transform, Stop())

        with self._naming_the_machine():
            made = self._seat.do(make)
        return made, time.perf_counter() - begun
