"""Tasks on a Ray cluster: a video's segments, or pictures, made by actors on many machines."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vramx.errors import ConfigError, MediaError, StoppedError
from vramx.pipelines.folders import FolderResult, FolderWork, Picture
from vramx.progress import Meter, OnProgress
from vramx.settings import Settings
from vramx.stopping import Stop
from vramx.tasks.models import ModelSpec
from vramx.tasks.results import rest_to_dict
from vramx.tasks.task import MediaTask, Task, TaskError

if TYPE_CHECKING:
    from vramx.engines.actors import Member
    from vramx.pipelines.video.encoding import Encoding
    from vramx.pipelines.video.manifest import Segment
    from vramx.pipelines.video.pieces import Piece
    from vramx.pipelines.video.work_folder import WorkFolder

S = TypeVar("S", bound=Settings)

#: Seconds in which a cluster's head accepts a connection.
_PATIENCE = 10


@dataclass(frozen=True)
class RayOptions(Settings):
    """How a task runs on Ray.

    Attributes
    ----------
    address : str, optional
        The cluster's, as `ray.init` takes it; by default that of ``RAY_ADDRESS``, else one that
        runs on this machine, else one is started here.
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
    made : int
        How many frames or pictures it made.
    seconds : float
        How long it worked.
    budget, peak : int
        Bytes of the card that it might have, and the most that it had.
    """

    machine: str
    card: str
    made: int
    seconds: float
    budget: int
    peak: int


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
        Who did what; of a job that was resumed, what was made since.
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

    Each segment of a video is made by an actor, which decodes from the key frame before it; so is
    each picture of a folder. Paths must lead to the same files on all machines. What an actor or a
    machine that dies was at is made by another; the same call, or `vramx.tasks.run`, resumes what
    was stopped.

    Parameters
    ----------
    task : UpscaleTask or SwapTask
        Of a video, a folder of pictures or a picture; not of a preview.
    options : RayOptions
        Where.
    on_progress : callable, optional
        Called with a `vramx.Progress` of all actors together.
    stop : Stop, optional
        Ends it; segments and pictures that are finished stay.

    Returns
    -------
    RayDone
        What was made, and by whom.

    Raises
    ------
    TaskError
        If it is a preview or a search for faces, or its fields do not go together.
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
    make = _make_video if media.is_of_video else _make_pictures
    with _connected(options.address):
        result, members = make(media, options.gpus, on_progress, token)
    shares = tuple(
        ActorShare(
            each.about.machine,
            each.about.card,
            each.made,
            each.seconds,
            each.about.budget,
            each.peak,
        )
        for each in members
    )
    files = tuple(map(media.file_to_dict, result.made))
    return RayDone(files, result, shares, time.perf_counter() - begun)


def _check(task: MediaTask[Any]) -> None:
    from vramx.pipelines.files import check_paths

    task.check()
    if task.preview:
        raise TaskError("preview=True is of one frame: use the local engine")
    source, target = task.paths
    if not source.is_dir():
        check_paths(source, target, overwrite=task.overwrite)


def _make_pictures(
    task: MediaTask[Any], gpus: float, on_progress: OnProgress | None, stop: Stop
) -> tuple[FolderResult[Any], list[Member]]:
    source, target = task.paths
    if not source.is_dir():
        return _make_picture(task, gpus, on_progress, stop)
    work: FolderWork[Any] = FolderWork(
        source, target, task.picture, overwrite=task.overwrite, on_progress=on_progress
    )
    left = [*work.left()]
    if not left:
        return work.result, []
    members = _share_out(task, gpus, left, work.made, stop, work.stopped, on_failed=work.failed)
    return work.result, members


def _make_picture(
    task: MediaTask[Any], gpus: float, on_progress: OnProgress | None, stop: Stop
) -> tuple[FolderResult[Any], list[Member]]:
    source, target = task.paths
    meter = Meter(on_progress, source.name, "picture", 1)
    result: FolderResult[Any] = FolderResult()

    def note(made: Any) -> None:
        result.made.append(made)
        meter.add(1)

    def stopped() -> StoppedError:
        return StoppedError(f"{target} was stopped before it was made")

    picture = Picture(source, target, task.picture)
    return result, _share_out(task, gpus, [picture], note, stop, stopped)


def _share_out(
    task: MediaTask[Any],
    gpus: float,
    pictures: list[Picture],
    note: Callable[[Any], None],
    stop: Stop,
    stopped: Callable[[], StoppedError],
    *,
    on_failed: Callable[[Picture, Exception], None] | None = None,
) -> list[Member]:
    """Have pictures made by actors of their own; return those."""
    from vramx.engines.actors import started
    from vramx.pipelines.video.running import Stopped

    def made(picture: Picture, made: Any) -> None:
        _check_is_shared(picture.target)
        note(made)

    with started(task, gpus, of_video=False, most=len(pictures)) as actors:
        try:
            actors.first(stop)
            actors.share_out(pictures, made, stop, on_failed=on_failed)
        except Stopped:
            raise stopped() from None
        return actors.members


def _check_is_shared(made: Path) -> None:
    """Refuse what an actor has made in a folder of its own machine's.

    Raises
    ------
    MediaError
        If it is not there.
    """
    if not made.is_file():
        raise MediaError(
            f"{made} was made on another machine, and is not here: all machines need the same "
            "folder at that path, such as one on a network file system"
        )


def _make_video(
    task: MediaTask[Any], gpus: float, on_progress: OnProgress | None, stop: Stop
) -> tuple[FolderResult[Any], list[Member]]:
    from vramx.engines.actors import started
    from vramx.pipelines.video.job import make_video
    from vramx.pipelines.video.pieces import pieces_of
    from vramx.pipelines.video.running import Stopped

    source, target = task.paths
    begun = time.perf_counter()

    def make(work: WorkFolder, encoding: Encoding, meter: Meter, stop: Stop) -> None:
        def made(_: Piece, segment: Segment) -> None:
            _check_is_shared(work.path / segment.file)
            work.add(segment)
            meter.add(segment.frames)

        actors.share_out(pieces_of(work, encoding, task.video), made, stop)

    with started(task, gpus, of_video=True) as actors:
        try:
            about = actors.first(stop)
        except Stopped:
            raise StoppedError(f"{target} was stopped before it began") from None
        result = make_video(
            source,
            target,
            make,
            identity=about.identity,
            options=task.video,
            size=actors.target_size,
            overwrite=task.overwrite,
            on_progress=on_progress,
            stop=stop,
        )
        made = task.video_made(result, time.perf_counter() - begun)
        return FolderResult([made]), actors.members


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
    if address is not None:
        _check_is_listened_at(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"address {address!r}: there is no Ray cluster ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_is_listened_at(address: str) -> None:
    """Refuse an address of a host and a port at which nobody is, for which Ray waits minutes."""
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[^:/]+:\d+", address):
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"address {address!r}: there is no Ray cluster ({error}); give that of its head, as "
            "`ray start --head` says it"
        ) from error


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
