"""What jobs make: a folder for each, in which a client may name what is there and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from vramx.service.refusals import NotFoundError


class Results:
    """Folders of jobs.

    Parameters
    ----------
    folder : Path
        Where they are, made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def folder(self, job: str) -> Path:
        """Return the folder of a job that is known."""
        return self._folder / job

    def names(self, job: str) -> list[str]:
        """Name the finished files of a job; what videos are resumed from is in folders."""
        folder = self.folder(job)
        if not folder.is_dir():
            return []
        found = (each for each in folder.iterdir() if not each.name.startswith("."))
        return sorted(each.name for each in found if each.is_file() and not each.is_symlink())

    def name(self, job: str) -> str | None:
        """Return the name of a job's one result; None if there is none, or several files."""
        return next((each for each in self.names(job) if each.startswith("result.")), None)

    def path(self, job: str, name: str) -> Path:
        """Find a file.

        Raises
        ------
        NotFoundError
            If the job has made none of that name.
        """
        if name not in self.names(job):
            raise NotFoundError(f"the job {job} has no file {name!r}")
        return self.folder(job) / name

    def begin(self, job: str, *, anew: bool) -> Path:
        """Make a job's folder; `anew` removes what is in it."""
        folder = self.folder(job)
        if anew:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        return folder

    def remove(self, job: str) -> None:
        """Remove what a job has made."""
        shutil.rmtree(self.folder(job), ignore_errors=True)
