"""The work folder of a video: finished segments, and a manifest that says what they hold."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from vramx.errors import MediaError
from vramx.pipelines.files import written_whole


@dataclass(frozen=True)
class Segment:
    """A finished segment.

    Attributes
    ----------
    file : str
        Its name in the work folder.
    frames : int
        How many frames it holds.
    first, last : int
        When its first and last frames are shown, in units of the source's time base. In the file
        the first is shown at zero.
    counts : mapping of str to int
        Sums of what was counted of its frames.
    """

    file: str
    frames: int
    first: int
    last: int
    counts: Mapping[str, int] = field(default_factory=dict)


class WorkFolder:
    """A folder beside a target in which a job's segments gather. One process may use it at a time.

    Parameters
    ----------
    path : Path
        The folder; made if it is not there.
    job : mapping of str to str
        What the segments depend on.

    Raises
    ------
    MediaError
        If another process uses it, or it is another job's or damaged.
    """

    def __init__(self, path: Path, job: Mapping[str, str]) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.complete = False
        self.lost: list[float] = []
        self._job = dict(job)
        self._manifest = path / "manifest.json"
        self._scope = ExitStack()

    def __enter__(self) -> WorkFolder:
        try:
            self.path.mkdir(exist_ok=True)
            self._lock()
            if self._manifest.exists():
                self._load()
            else:
                self._save()
        except OSError as error:
            self._scope.close()
            raise MediaError(f"{self.path} cannot be used as a work folder: {error}") from error
        except BaseException:
            self._scope.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope.close()

    def _lock(self) -> None:
        file = self._scope.enter_context((self.path / "lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MediaError(f"{self.path} is in use by another process") from None

    def _load(self) -> None:
        remedy = f"delete {self.path} to begin anew"
        try:
            content = json.loads(self._manifest.read_text(encoding="utf-8"))
            job, self.complete = content["job"], bool(content["complete"])
            self.lost = [float(time) for time in content.get("lost", [])]
            self.segments = [Segment(**each) for each in content["segments"]]
        except (ValueError, KeyError, TypeError) as error:
            raise MediaError(f"{self._manifest} is damaged ({error}): {remedy}") from error
        differing = sorted(
            f"{key}: {job.get(key)} there, {self._job.get(key)} now"
            for key in {*job, *self._job}
            if job.get(key) != self._job.get(key)
        )
        if differing:
            raise MediaError(
                f"{self.path} holds part of another job ({'; '.join(differing)}): ask for the same "
                f"to go on with it, or {remedy}"
            )
        lost = [each.file for each in self.segments if not (self.path / each.file).is_file()]
        if lost:
            raise MediaError(f"{self.path} lacks {', '.join(lost)}: {remedy}")

    def _save(self) -> None:
        content = {
            "job": self._job,
            "complete": self.complete,
            "lost": self.lost,
            "segments": [asdict(each) for each in self.segments],
        }
        with written_whole(self._manifest) as file:
            file.write(json.dumps(content, indent=1).encode())

    @property
    def frames(self) -> int:
        """How many frames the finished segments hold."""
        return sum(each.frames for each in self.segments)

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted of those frames, summed."""
        return dict(sum((Counter(each.counts) for each in self.segments), Counter()))

    def add(self, segment: Segment) -> None:
        """Note that a segment's file is finished."""
        self.segments.append(segment)
        self._save()

    def finish(self, lost: Iterable[Fraction]) -> None:
        """Note that there is no more to come, and when frames are missing, in seconds."""
        self.complete, self.lost = True, [float(time) for time in lost]
        self._save()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path)
