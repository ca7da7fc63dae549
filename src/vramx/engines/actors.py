"""Actors that share out a task's pieces, whichever of them die meanwhile."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from vramx.engines.worker import About, Worker
from vramx.errors import ConfigError, DeviceError, Error, NoDeviceError
from vramx.pipelines.video.running import check_stop
from vramx.stopping import Stop
from vramx.tasks.task import MediaTask

#: Seconds between two looks at whether to stop, and at what the cluster still has.
_LOOK = 0.5
#: How many actors may die of one piece before that is taken for its doing.
_TRIES = 3


@dataclass
class Member:
    """An actor.

    Attributes
    ----------
    handle : ray.actor.ActorHandle
        The actor.
    about : About or None
        What it said of itself; None until it is ready.
    frames : int
        How many it has made.
    seconds : float
        How long it worked.
    """

    handle: Any
    about: About | None = None
    frames: int = 0
    seconds: float = 0.0


@dataclass
class _Busy:
    """What an actor is at: a piece, or with a number of -1 its own beginning."""

    member: Member
    piece: Any = None
    number: int = -1


class Actors:
    """A task's actors on a cluster. Made by `started`.

    Attributes
    ----------
    members : list of Member
        All that became ready, those that died since included.
    """

    def __init__(self, task: MediaTask[Any], gpus: float) -> None:
        self._task = task
        nodes = _nodes()
        has_gpus = any(each.get("GPU", 0) for each in nodes)
        on_cpu = task.session.backend == "simulated" and not has_gpus
        self._gpus = 0.0 if on_cpu else gpus
        self._check_room()
        by_cards = sum(int(each.get("GPU", 0) / gpus) for each in nodes)
        self._count = len(nodes) if on_cpu else by_cards
        self.members: list[Member] = []
        self._waiting: deque[tuple[int, Any]] = deque()
        self._deaths: Counter[int] = Counter()
        self._idle: list[Member] = []
        self._busy: dict[Any, _Busy] = {}

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
            "scheduling_strategy": "SPREAD",
        }
        remote: Any = ray.remote(**options)
        handle = remote(Worker).remote(type(self._task), self._task.to_dict(), version("vramx"))
        self._busy[handle.about.remote()] = _Busy(Member(handle))

    def first(self, stop: Stop) -> Member:
        """Start the actors, and return the first that is ready."""
        for _ in range(self._count):
            self._start()
        while not self.members:
            self._look(stop, lambda *_: None)
        return self.members[0]

    def call(self, member: Member, method: str, *args: Any) -> Any:
        """Call an actor that is ready, and wait."""
        try:
            return _result(getattr(member.handle, method).remote(*args))
        except RayActorError as error:
            raise DeviceError(f"an actor died before the work began: {error}") from error

    def share_out(
        self, pieces: Sequence[Any], on_made: Callable[[Any], object], stop: Stop
    ) -> None:
        """Have pieces made, each by an actor that is free; those of actors that die once more.

        Parameters
        ----------
        pieces : sequence
            What `Worker.make` takes.
        on_made : callable
            Called with what it returned of each, in the order in which they are made.
        stop : Stop
            Ends it at once.

        Raises
        ------
        Stopped
            If it was asked to stop.
        Error
            What the work raised; or if the cluster has no card any more, or a piece has been the
            end of several actors.
        """
        self._waiting.extend(enumerate(pieces))
        left = len(pieces)
        while left:
            while self._waiting and self._idle:
                member = self._idle.pop()
                number, piece = self._waiting.popleft()
                self._busy[member.handle.make.remote(piece)] = _Busy(member, piece, number)

            def made(value: Any) -> None:
                nonlocal left
                left -= 1
                on_made(value)

            self._look(stop, made)

    def _look(self, stop: Stop, on_made: Callable[[Any], object]) -> None:
        check_stop(stop)
        ready, _ = ray.wait([*self._busy], timeout=_LOOK)
        for ref in ready:
            busy = self._busy.pop(ref)
            try:
                value = _result(ref)
            except RayActorError as error:
                self._bury(busy, error)
                continue
            member = busy.member
            self._idle.append(member)
            if busy.number < 0:
                self._welcome(member, value)
                continue
            made, seconds = value
            member.frames += made.frames
            member.seconds += seconds
            on_made(made)
        if not ready and not any(each.number >= 0 for each in self._busy.values()):
            self._check_room()

    def _welcome(self, member: Member, about: About) -> None:
        first = self.members[0].about if self.members else None
        if first is not None and about.identity != first.identity:
            raise ConfigError(
                f"{about.machine} has other models than {first.machine}: all machines need the "
                "same files"
            )
        member.about = about
        self.members.append(member)

    def _bury(self, busy: _Busy, error: RayActorError) -> None:
        """Put an actor's piece back, and start another actor in its place."""
        self._deaths[busy.number] += 1
        if self._deaths[busy.number] >= _TRIES:
            what = "as they began" if busy.number < 0 else f"of piece {busy.number}"
            raise DeviceError(f"{_TRIES} actors died {what}, the last one so: {error}") from error
        self._start()
        if busy.number >= 0:
            self._waiting.appendleft((busy.number, busy.piece))

    def end(self) -> None:
        """Kill the actors."""
        for each in [*self.members, *(busy.member for busy in self._busy.values())]:
            ray.kill(each.handle)


@contextmanager
def started(task: MediaTask[Any], gpus: float) -> Iterator[Actors]:
    """Have actors for a scope, and none after it."""
    actors = Actors(task, gpus)
    try:
        yield actors
    finally:
        actors.end()


def _nodes() -> list[dict[str, float]]:
    nodes: list[dict[str, Any]] = ray.nodes()
    return [each["Resources"] for each in nodes if each["Alive"]]


def _result(ref: Any) -> Any:
    """Wait for a call; its own error is raised as it was, without Ray's words around it."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, Error) else error from None
