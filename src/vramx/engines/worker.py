"""What an actor does: it opens a task once, and makes pieces of it."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

from vramx.errors import ConfigError, Error
from vramx.integrations.ray import Seat
from vramx.pipelines.files import TakenError, check_are_there
from vramx.pipelines.folders import Picture, wait_for_other
from vramx.pipelines.video.pieces import Piece, make_piece
from vramx.pipelines.video.running import Transform
from vramx.session import Session, current_session
from vramx.stopping import Stop
from vramx.tasks.task import MediaTask

T = TypeVar("T")


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


@dataclass(frozen=True)
class Done:
    """What an actor made of a piece.

    Attributes
    ----------
    made : object
        What is to be noted of it.
    count : int
        How many frames or pictures it is.
    seconds : float
        How long the session was at it.
    peak : int
        The most bytes of the card that the actor has had.
    """

    made: Any
    count: int
    seconds: float
    peak: int


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
    of_video : bool
        Whether it makes segments of a video, or pictures.
    """

    def __init__(
        self, kind: type[MediaTask[Any]], content: dict[str, Any], version: str, *, of_video: bool
    ) -> None:
        self._machine = platform.node()
        self._failure: Exception | None = None
        self._of_video = of_video
        try:
            if version != (own := metadata.version("vramx")):
                raise ConfigError(f"vramx is {own} there and {version} here: install the same")
            self._task = kind.from_dict(content)
            source, target = self._task.paths
            check_are_there(source, target.parent)
            self._seat: Seat[Any] = Seat(self._task.session, self._opened)
        except Exception as error:
            self._failure = error

    @contextlib.contextmanager
    def _opened(self, session: Session) -> Iterator[Any]:
        """Open the task, for what becomes of its frames or pictures."""
        with self._task.opened(session) as opened:
            change = self._task.video_change if self._of_video else self._task.picture_change
            yield change(opened)

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
            identity = self._seat.do(lambda change: dict(change.identity))
        share = self._seat.share
        return About(self._machine, share.device, share.budget, identity)

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """Return what size frames become."""
        size: tuple[int, int] = self._seat.do(lambda change: change.size(width, height))
        return size

    def make_segment(self, piece: Piece) -> Done:
        """Make a segment; its first frames are decoded while the session is at another."""
        seconds, peak = 0.0, 0

        def compute(work: Callable[[Transform], None]) -> None:
            nonlocal seconds, peak
            _, seconds, peak = self._in_session(lambda change: work(change.transform))

        with self._naming_the_machine():
            segment = make_piece(piece, compute, Stop())
        return Done(segment, segment.frames, seconds, peak)

    def make_picture(self, picture: Picture) -> Done:
        """Make a picture, after another process that makes the same one."""

        def make(change: Any) -> Any:
            check_are_there(picture.source, picture.target.parent)
            while True:
                try:
                    return change.make(*picture)
                except TakenError:
                    wait_for_other(picture)

        with self._naming_the_machine():
            made, seconds, peak = self._in_session(make)
        return Done(made, 1, seconds, peak)

    def _in_session(self, work: Callable[[Any], T]) -> tuple[T, float, int]:
        """Do some work; return what it returned, how long it took, and the session's peak."""

        def timed(change: Any) -> tuple[T, float, int]:
            begun = time.perf_counter()
            made = work(change)
            seconds = time.perf_counter() - begun
            return made, seconds, current_session().stats().peak_resident

        return self._seat.do(timed)
