"""Actors that share out a task's pieces, whichever of them die meanwhile."""

from __future__ import annotations

import queue
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from vramx.engines.worker import About, Done, Worker
from vramx.errors import ConfigError, DeviceError, Error, NoDeviceError
from vramx.pipelines.video.running import check_stop
from vramx.stopping import Stop
from vramx.tasks.task import MediaTask

#: Seconds between two looks at whether to stop, and at what the cluster still has.
_LOOK = 0.5
#: How many actors may die of one piece before that is taken for its doing.
_TRIES = 3
#: How many segments an actor has at once: it decodes the second while it makes the first.
_SEGMENTS = 2


@dataclass
class Member:
    """An actor that is ready, or was.

    Attributes
    ----------
    handle : ray.actor.ActorHandle
        The actor.
    about : About
        What it said of itself.
    made : int
        How many frames or pictures it has made.
    seconds : float
        How long it worked.
    peak : int
        The most bytes of the card that it has had.
    numbers : set of int
        The pieces that it is at.
    dead : bool
        Whether it died.
    """

    handle: Any
    about: About
    made: int = 0
    seconds: float = 0.0
    peak: int = 0
    numbers: set[int] = field(default_factory=set)
    dead: bool = False


@dataclass(eq=False)
class _Busy:
    """What an actor is at: a piece, or without a member and with a number of -1 its beginning."""

    handle: Any
    member: Member | None = None
    piece: Any = None
    number: int = -1


class Actors:
    """A task's actors on a cluster. Made by `started`.

    Attributes
    ----------
    members : list of Member
        Those that became ready, also those that died since.
    """

    def __init__(self, task: MediaTask[Any], gpus: float, *, of_video: bool, most: int) -> None:
        self._task = task
        self._of_video = of_video
        nodes = _nodes()
        has_gpus = any(each.get("GPU", 0) for each in nodes)
        on_cpu = task.session.backend == "simulated" and not has_gpus
        self._gpus = 0.0 if on_cpu else gpus
        self._check_room()
        by_cards = sum(int(each.get("GPU", 0) / gpus) for each in nodes)
        self._count = min(len(nodes) if on_cpu else by_cards, most)
        self.members: list[Member] = []
        self._waiting: deque[tuple[int, Any]] = deque()
        self._deaths: Counter[int] = Counter()
        self._busy: set[_Busy] = set()
        self._ended: queue.SimpleQueue[tuple[_Busy, Future[Any]]] = queue.SimpleQueue()

    def _check_room(self) -> None:
        """Refuse a cluster in which no node can have an actor."""
        if self._gpus and not any(each.get("GPU", 0) >= self._gpus for each in _nodes()):
            raise NoDeviceError(
                f"no node of the Ray cluster has {self._gpus:g} of a GPU: start nodes with one, or "
                "ask for a smaller part; backend='simulated' computes on the CPU"
            )

    def _start(self) -> None:
        options = {
            "num_gpus": self._gpus,
            "num_cpus": 1,
            "max_restarts": 0,
            "max_concurrency": _SEGMENTS if self._of_video else 1,
            "scheduling_strategy": "SPREAD",
        }
        remote: Any = ray.remote(**options)
        handle = remote(Worker).remote(
            type(self._task), self._task.to_dict(), version("vramx"), of_video=self._of_video
        )
        self._await(_Busy(handle), handle.about.remote())

    def _await(self, busy: _Busy, call: Any) -> None:
        """Have it told when a call ends, however many others there are."""
        self._busy.add(busy)
        call.future().add_done_callback(lambda ended: self._ended.put((busy, ended)))

    def first(self, stop: Stop) -> About:
        """Start the actors, and return what the first that is ready says of itself."""
        for _ in range(self._count):
            self._start()
        while not self.members:
            self._look(stop)
        return self.members[0].about

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """Have the first actor tell what size frames become."""
        result: Any = _result(self.members[0].handle.target_size.remote(width, height).future())
        if isinstance(result, RayActorError):
            raise DeviceError(f"an actor died before the work began: {result}") from result
        if isinstance(result, Exception):
            raise result
        width, height = result
        return width, height

    def share_out(
        self,
        pieces: Sequence[Any],
        on_made: Callable[[Any, Any], object],
        stop: Stop,
        *,
        on_failed: Callable[[Any, Exception], object] | None = None,
    ) -> None:
        """Have pieces made, each by an actor that is free; those of actors that die once more.

        While there is enough for all, an actor has the next segment before it has ended one.

        Parameters
        ----------
        pieces : sequence
            What `Worker.make_segment` takes, or `Worker.make_picture`.
        on_made : callable
            Called with each piece and what was made of it, in the order in which they are made.
        stop : Stop
            Ends it at once.
        on_failed : callable, optional
            Called with a piece that cannot be made, and why, which otherwise ends it.

        Raises
        ------
        Stopped
            If it was asked to stop.
        Error
            What the work raised; or if the cluster has no card any more, or a piece has been the
            end of several actors.
        """
        self._waiting.extend(enumerate(pieces))
        while self._waiting or self._works():
            while self._waiting and (member := self._free()) is not None:
                number, piece = self._waiting.popleft()
                member.numbers.add(number)
                make = member.handle.make_segment if self._of_video else member.handle.make_picture
                self._await(_Busy(member.handle, member, piece, number), make.remote(piece))
            if (ended := self._look(stop)) is None:
                continue
            piece, result = ended
            if not isinstance(result, Exception):
                on_made(piece, result)
            elif on_failed is None:
                raise result
            else:
                on_failed(piece, result)

    def _free(self) -> Member | None:
        """Return an actor for the next piece; what an actor died of is made by itself alone."""
        alive = [each for each in self.members if not each.dead]
        idle = [each for each in alive if not each.numbers]
        if idle:
            return idle[0]
        number, _ = self._waiting[0]
        if not self._of_video or self._deaths[number] or len(self._waiting) < len(alive):
            return None
        for member in alive:
            if len(member.numbers) < _SEGMENTS and not any(map(self._deaths.get, member.numbers)):
                return member
        return None

    def _works(self) -> bool:
        """Tell whether a piece is being made."""
        return any(each.member is not None for each in self._busy)

    def _look(self, stop: Stop) -> tuple[Any, Any] | None:
        """Wait a little for what an actor is at; return a piece, and what was made or an error."""
        check_stop(stop)
        try:
            busy, ended = self._ended.get(timeout=_LOOK)
        except queue.Empty:
            if not self._works():
                self._check_room()
            return None
        self._busy.remove(busy)
        result = _result(ended)
        if isinstance(result, RayActorError):
            failure = self._bury(busy, result)
            return None if failure is None else (busy.piece, failure)
        if busy.member is None:
            self._welcome(busy.handle, result)
            return None
        busy.member.numbers.remove(busy.number)
        if isinstance(result, Done):
            busy.member.made += result.count
            busy.member.seconds += result.seconds
            busy.member.peak = result.peak
            result = result.made
        return busy.piece, result

    def _welcome(self, handle: Any, about: About | Exception) -> None:
        if isinstance(about, Exception):
            raise about
        first = self.members[0].about if self.members else about
        if about.identity != first.identity:
            raise ConfigError(
                f"{about.machine} has other models than {first.machine}: all machines need the "
                "same files"
            )
        self._deaths[-1] = 0
        self.members.append(Member(handle, about))

    def _bury(self, busy: _Busy, error: RayActorError) -> DeviceError | None:
        """Start an actor in place of one, and put its piece back or say that it cannot be made."""
        self._deaths[busy.number] += 1
        is_its_doing = self._deaths[busy.number] >= _TRIES
        if busy.number < 0 and is_its_doing:
            raise DeviceError(
                f"{_TRIES} actors died as they began, the last one so: {error}"
            ) from error
        if busy.member is None or not busy.member.dead:
            self._start()
        if busy.member is not None:
            busy.member.dead = True
        if is_its_doing:
            return DeviceError(f"{_TRIES} actors died of piece {busy.number}, the last so: {error}")
        if busy.number >= 0:
            self._waiting.appendleft((busy.number, busy.piece))
        return None

    def end(self) -> None:
        """Kill the actors."""
        started = [each.handle for each in self._busy]
        for handle in [*started, *(each.handle for each in self.members)]:
            ray.kill(handle)


@contextmanager
def started(
    task: MediaTask[Any], gpus: float, *, of_video: bool, most: int = sys.maxsize
) -> Iterator[Actors]:
    """Have actors for a scope, and none after it.

    Parameters
    ----------
    task : MediaTask
        What they open.
    gpus : float
        The part of a card that each has.
    of_video : bool
        Whether they make segments of a video, or pictures.
    most : int
        The most actors that there is work for.
    """
    actors = Actors(task, gpus, of_video=of_video, most=most)
    try:
        yield actors
    finally:
        actors.end()


def _nodes() -> list[dict[str, float]]:
    nodes: list[dict[str, Any]] = ray.nodes()
    return [each["Resources"] for each in nodes if each["Alive"]]


def _result(call: Future[Any]) -> Any:
    """Wait for a call; return what it did, or its error, vramx's without Ray's words around it."""
    try:
        return call.result()
    except RayActorError as error:
        return error
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Error) else error
