"""What tasks have in common, and running one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vramx.errors import ConfigError, StoppedError
from vramx.progress import OnProgress
from vramx.queue.job import running_job
from vramx.session import Session
from vramx.settings import Settings
from vramx.stopping import Stop
from vramx.tasks.session import SessionOptions

R = TypeVar("R")


class TaskError(ConfigError):
    """Fields of a task do not go together."""


@dataclass(frozen=True, kw_only=True)
class Task(Settings, Generic[R]):
    """Work on files, as a value. Run it with `run`.

    Attributes
    ----------
    overwrite : bool
        Whether what is to be made may exist; of a folder's pictures, whether they are made anew.
    session : SessionOptions
        In what session it runs.
    """

    overwrite: bool = False
    session: SessionOptions = SessionOptions()

    @abstractmethod
    def check(self) -> None:
        """Look at what can be seen before any work.

        Raises
        ------
        ConfigError, MediaError
            If something is not as it must be.
        """

    @abstractmethod
    def work(self, session: Session, on_progress: OnProgress, stop: Stop) -> R:
        """Do it in a session that is open."""


def run(task: Task[R], *, on_progress: OnProgress | None = None, stop: Stop | None = None) -> R:
    """Run a task.

    In a job of a `vramx.Queue` it keeps within the job's share, and `Job.cancel` stops it:
    ``queue.submit(run, task, footprint="3GiB")``.

    Parameters
    ----------
    task : Task
        An `UpscaleTask`, a `SwapTask` or a `FacesTask`.
    on_progress : callable, optional
        Is told of it as a `vramx.Progress`, on a thread of the task's.
    stop : Stop, optional
        Ends it between two frames of a video, or two pictures of a folder.

    Returns
    -------
    UpscaleDone, SwapDone or FacesFound
        What was made.

    Raises
    ------
    TaskError
        If fields do not go together.
    ConfigError
        If one is not allowed, or a package or model is missing.
    MediaError
        If a file cannot be read or written.
    StoppedError
        If it was asked to stop. It says what is kept, from where the same task goes on.
    """
    job = running_job()
    asked = [each for each in (stop, None if job is None else job.stop) if each is not None]
    token = Stop(*asked)
    if token.stopped:
        raise StoppedError("the task was stopped before it began")
    task.check()
    with task.session.open() as session:
        return task.work(session, on_progress or _nothing, token)


def _nothing(_: Any) -> None:
    """Take no notice."""
