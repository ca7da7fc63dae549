"""Tasks on a Ray cluster: a video's segments made by actors on many machines."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from vramx.errors import ConfigError, StoppedError
from vramx.pipelines.folders import FolderResult
from vramx.progress import Meter, OnProgress
from vramx.settings import Settings
from vramx.stopping import Stop
from vramx.tasks.models import ModelSpec
from vramx.tasks.results import rest_to_dict
from vramx.tasks.task import MediaTask, Task, TaskError

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class RayOptions(Settings):
    """How a task runs on Ray.

    Attributes
    ----------
    address : str, optional
        The cluster's, as `ray.init` takes it; by default that of ``RAY_ADDRESS``, else a cluster is
        started on this machine.
    gpus : float
        The part of a card that an actor has, up to 1. There are as many actors as that gives.

    Raises
    ------
    ConfigError
        If one is not allowed.
    """

    address: str | None = None
    gpus: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gpus <= 1:
            raise ConfigError(f"gpus {self.gpus!r} is no part of a card: give above 0 and up to 1")


@dataclass(frozen=True)
class ActorShare:
    """What an actor did.

    Attributes
    ----------
    machine, card : str
        Where.
    frames : int
        How many it made.
    seconds : float
        How long it worked.
    budget : int
        Bytes of the card that it might have.
    """

    machine: str
    card: str
    frames: int
    seconds: float
    budget: int


@dataclass(frozen=True)
class RayDone:
    """What a task made on Ray.

    Attributes
    ----------
    files : tuple of dict
        What the task tells of each file.
    result : FolderResult
        The files.
    actors : tuple of ActorShare
        Who did what; the frames of a job that was resumed are those since.
    seconds : float
        How long it took.
    """

    files: tuple[dict[str, Any], ...]
    result: FolderResult[Any]
    actors: tuple[ActorShare, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "files": [*self.files],
            **rest_to_dict(self.result),
            "actors": [vars(each) for each in self.actors],
            "seconds": self.seconds,
        }


def run(
    task: Task[Any],
    options: RayOptions = RayOptions(),
    *,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> RayDone:
    """Run a task on a Ray cluster, with the bytes that `vramx.tasks.run` makes.

    Each segment of a video is made by an actor, which decodes from the key frame before it. Paths
    must lead to the same files on all machines. A segment whose actor or machine dies is made by
    another; the same call, or `vramx.tasks.run`, resumes what was stopped.

    Parameters
    ----------
    task : UpscaleTask or SwapTask
        Of a video.
    options : RayOptions
        Where.
    on_progress : callable, optional
        Called with a `vramx.Progress` of all actors together.
    stop : Stop, optional
        Ends it; segments that are finished stay.

    Returns
    -------
    RayDone
        What was made, and by whom.

    Raises
    ------
    TaskError
        If it is no task of a video, or its fields do not go together.
    ConfigError
        If Ray is not installed, no cluster is at the address, or machines differ in vramx or in
        the models.
    NoDeviceError
        If no machine has a card, or none any more.
    DeviceError
        If several actors died of one piece.
    MediaError, StoppedError
        As `vramx.tasks.run`.
    """
    if not isinstance(task, MediaTask):
        raise TaskError(f"a {type(task).__name__} runs on one machine: use the local engine")
    media: MediaTask[Any] = _absolute(task)
    _check(media)
    token = stop or Stop()
    if token.stopped:
        raise StoppedError("the task was stopped before it began")
    begun = time.perf_counter()
    with _connected(options.address):
        from vramx.engines.actors import started

        with started(media, options.gpus) as actors:
            made = _make_video(media, actors, on_progress, token)
            shares = tuple(
                ActorShare(
                    each.about.machine,
                    each.about.card,
                    each.frames,
                    each.seconds,
                    each.about.budget,
                )
                for each in actors.members
                if each.about is not None
            )
    files = (media.file_to_dict(made),)
    return RayDone(files, FolderResult([made]), shares, time.perf_counter() - begun)


def _check(task: MediaTask[Any]) -> None:
    from vramx.pipelines.files import check_paths, is_video

    task.check()
    source, target = task.paths
    if source.is_dir() or task.preview or not is_video(target):
        raise TaskError("Ray makes videos: use the local engine for pictures and previews")
    check_paths(source, target, overwrite=task.overwrite)


def _make_video(
    task: MediaTask[Any], actors: Any, on_progress: OnProgress | None, stop: Stop
) -> Any:
    from vramx.pipelines.video.job import make_video
    from vramx.pipelines.video.pieces import pieces_of
    from vramx.pipelines.video.running import Stopped

    source, target = task.paths
    begun = time.perf_counter()
    try:
        first = actors.first(stop)
    except Stopped:
        raise StoppedError(f"{target} was stopped before it began") from None

    def make(work: Any, encoding: Any, meter: Meter, stop: Stop) -> None:
        def made(segment: Any) -> None:
            work.add(segment)
            meter.add(segment.frames)

        actors.share_out(pieces_of(work, encoding, task.video), made, stop)

    result = make_video(
        source,
        target,
        make,
        identity=first.about.identity,
        options=task.video,
        size=lambda width, height: actors.call(first, "target_size", width, height),
        overwrite=task.overwrite,
        on_progress=on_progress,
        stop=stop,
    )
    return task.video_made(result, time.perf_counter() - begun)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster for a scope, unless the program has."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed: pip install 'vramx[ray]'") from error
    if ray.is_initialized():
        if address is not None:
            raise ConfigError(
                f"address={address!r} was given, and this program is connected to a cluster "
                "already: leave it out, or call ray.shutdown() first"
            )
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"address {address!r}: there is no Ray cluster ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _absolute(settings: S) -> S:
    """Make paths absolute, since actors have other current folders."""

    def made(value: Any) -> Any:
        if isinstance(value, Path):
            return value.absolute()
        if isinstance(value, tuple):
            return tuple(map(made, value))
        return _absolute(value) if isinstance(value, Settings) else value

    changed = {each.name: made(getattr(settings, each.name)) for each in fields(settings)}
    if isinstance(settings, ModelSpec) and Path(settings.name).is_file():
        changed["name"] = str(Path(settings.name).absolute())
    return replace(settings, **changed)
