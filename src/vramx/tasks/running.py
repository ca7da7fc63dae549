"""Running a task."""

from __future__ import annotations

from typing import Any, TypeVar

from vramx.errors import StoppedError
from vramx.progress import OnProgress
from vramx.queue.job import running_job
from vramx.stopping import Stop
from vramx.tasks.session import open_session
from vramx.tasks.task import Task

R = TypeVar("R")


def run(task: Task[R], *, on_progress: OnProgress | None = None, stop: Stop | None = None) -> R:
    """Run a task.

    In a job of a `vramx.Queue` it stays within the job's share, and `Job.cancel` stops it:
    ``queue.submit(run, task, footprint="3GiB")``.

    Parameters
    ----------
    task : Task
        An `UpscaleTask`, a `SwapTask` or a `FacesTask`.
    on_progress : callable, optional
        Called with a `vramx.Progress`, on one of the task's threads.
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
        If it was asked to stop. The error says what is kept; running the same task again resumes
        from there.
    """
    job = running_job()
    asked = [each for each in (stop, None if job is None else job.stop) if each is not None]
    token = Stop(*asked)
    if token.stopped:
        raise StoppedError("the task was stopped before it began")
    task.check()
    with open_session(task.session) as session:
        return task.work(session, on_progress or _nothing, token)


def _nothing(_: Any) -> None:
    """Take no notice."""
