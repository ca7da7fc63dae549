"""The work folder of a video: finished segments, and a manifest that says what they hold."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path

from vramx.errors import MediaError
from vramx.pipelines.video.digests import digest_of_own
from vramx.pipelines.video.manifest import LONGEST, Manifest, Segment, number_of, parsed
from vramx.processes.runtime import close, open_file
from vramx.writing import written_whole

_MANIFEST = "manifest.json"


class WorkFolder:
    """A folder beside a target in which a job's segments gather, for whom has claimed the target.

    Attributes
    ----------
    segments : list of Segment
        Those that are finished up to the first that is not, in order.
    ahead : dict of int to Segment
        Those that are finished behind it, by their numbers.
    complete : bool
        Whether there are no more to come.
    lost : list of float
        When frames are missing, in seconds.

    Parameters
    ----------
    path : Path
        The folder; made if it is not there.
    job : mapping of str to str
        What the segments depend on, beside the source.
    source : callable
        Returns the source's hash; called once there is a segment.

    Raises
    ------
    MediaError
        If it is another job's or damaged, is a link, or cannot be written.
    """

    def __init__(self, path: Path, job: Mapping[str, str], source: Callable[[], str]) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.ahead: dict[int, Segment] = {}
        self.complete = False
        self.lost: list[float] = []
        self._job = dict(job)
        self._source = source
        self._target: tuple[int, int] | None = None
        self._manifest = path / _MANIFEST
        self._remedy = f"delete {path} to begin anew"
        try:
            self.path.mkdir(exist_ok=True)
            if self.path.is_symlink():
                raise MediaError(
                    f"{self.path} is a link, in whose place a job's segments are kept and deleted "
                    "at the end: remove it"
                )
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise MediaError(f"{self.path} cannot be written by this user")
            if os.path.lexists(self._manifest):
                self._load()
        except OSError as error:
            raise MediaError(f"{self.path} cannot be used as a work folder: {error}") from error

    def _load(self) -> None:
        try:
            found = _manifest_in(self.path)
        except ValueError as error:
            raise MediaError(f"{self._manifest} is damaged ({error}): {self._remedy}") from error
        self._compare(found.job, self._job, {"source"})
        # The wait for the source's hash is less than that for its finished frames to be passed by.
        self._compare(found.job, {**self._job, "source": self._source()}, set())
        for segment in found.segments + found.ahead:
            self._check(segment)
        self.segments, self.complete = [*found.segments], found.complete
        self.ahead = {number_of(each): each for each in found.ahead}
        self.lost = [*found.lost]

    def _compare(self, there: Mapping[str, str], now: Mapping[str, str], but: set[str]) -> None:
        differing = sorted(
            f"{key}: {there.get(key)} there, {now.get(key)} now"
            for key in {*there, *now} - but
            if there.get(key) != now.get(key)
        )
        if differing:
            raise MediaError(
                f"{self.path} holds part of another job ({'; '.join(differing)}): ask for the same "
                f"to go on with it, or {self._remedy}"
            )

    def _check(self, segment: Segment) -> None:
        path = self.path / segment.file
        try:
            digest = digest_of_own(path)
        except FileNotFoundError:
            raise MediaError(f"{self.path} lacks {segment.file}: {self._remedy}") from None
        if digest != segment.digest:
            raise MediaError(f"{path} is not what was written there: {self._remedy}")

    def _save(self) -> None:
        job = {**self._job, "source": self._source()}
        manifest = Manifest(
            job,
            tuple(self.segments),
            self.complete,
            tuple(self.lost),
            self._target,
            tuple(self.ahead[number] for number in sorted(self.ahead)),
        )
        with written_whole(self._manifest) as file:
            file.write(manifest.as_json())

    @property
    def frames(self) -> int:
        """How many frames the finished segments hold."""
        return sum(each.frames for each in self._finished)

    @property
    def nbytes(self) -> int:
        """Bytes of the finished segments."""
        return sum((self.path / each.file).stat().st_size for each in self._finished)

    @property
    def _finished(self) -> list[Segment]:
        return [*self.segments, *self.ahead.values()]

    def add(self, segment: Segment) -> None:
        """Note that a segment's file is finished, in whatever order."""
        self.ahead[number_of(segment)] = segment
        while (following := self.ahead.pop(len(self.segments), None)) is not None:
            self.segments.append(following)
        self._save()

    def finish(self, lost: Iterable[Fraction]) -> None:
        """Note that there is no more to come, and when frames are missing, in seconds."""
        self.complete, self.lost = True, [float(time) for time in lost]
        self._save()

    def note_target(self, file: Path) -> None:
        """Note what will be put in the target's place, so that it is known again after a kill."""
        with contextlib.suppress(OSError):  # such as a full disk: nothing depends on it
            self._target = _marks(file)
            self._save()


def finished(path: Path, target: Path) -> Manifest | None:
    """Return what a job has noted in a work folder that was to be deleted, when it was killed.

    Parameters
    ----------
    path : Path
        The folder, if it is there.
    target : Path
        The video.

    Returns
    -------
    Manifest or None
        None unless the video is there as that job has made it.
    """
    try:
        found = None if path.is_symlink() else _manifest_in(path)
        return found if found is not None and found.target == _marks(target) else None
    except (OSError, ValueError):
        return None


def delete(path: Path) -> None:
    """Delete a work folder: its manifest last, so that a kill leaves nothing that is not known."""
    for each in path.iterdir():
        if each.name != _MANIFEST:
            each.unlink()
    shutil.rmtree(path)


def _marks(file: Path) -> tuple[int, int]:
    """Tell of a file what a change would change."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _manifest_in(path: Path) -> Manifest:
    file = open_file(path / _MANIFEST, os.O_RDONLY)
    try:
        with open(file, "rb", closefd=False) as opened:
            return parsed(opened.read(LONGEST + 1))
    finally:
        close(file)
