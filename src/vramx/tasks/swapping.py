"""Putting a face into a picture, a video or a folder of pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramx.pipelines.options import PictureOptions, SwapOptions
from vramx.progress import Meter, OnProgress
from vramx.seeing.stats import Stats
from vramx.session import Session
from vramx.stopping import Stop
from vramx.tasks.faces import face_packages, opened
from vramx.tasks.models import FaceModels
from vramx.tasks.results import rest_to_dict
from vramx.tasks.task import MediaTask, TaskError

if TYPE_CHECKING:
    from vramx.pipelines.folders import FolderResult, PictureChange
    from vramx.pipelines.swapping.frame import SwappedFile
    from vramx.pipelines.swapping.swap import FaceSwap
    from vramx.pipelines.video import VideoChange, VideoResult


@dataclass(frozen=True)
class SwapDone:
    """What a `SwapTask` made.

    Attributes
    ----------
    result : FolderResult of SwappedFile
        The files; one for a picture or a video.
    of_folder : bool
        Whether a folder was asked for.
    stats : Stats
        The session's counts.
    """

    result: FolderResult[SwappedFile]
    of_folder: bool
    stats: Stats

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; for a single file without a list."""
        made = [_file_to_dict(each) for each in self.result.made]
        told = {"files": made, **rest_to_dict(self.result)} if self.of_folder else made[0]
        return {**told, "stats": asdict(self.stats)}


def _file_to_dict(made: SwappedFile) -> dict[str, Any]:
    return {"out": str(made.out), **asdict(made.result)}


@dataclass(frozen=True, kw_only=True)
class SwapTask(MediaTask[SwapDone]):
    """Puts a face into a picture, a video or a folder of pictures.

    Attributes
    ----------
    source : Path or list of Path
        A picture of the face. With a list, each source goes to the faces that resemble its
        reference, or without references to those of a picture from left to right.
    target, out : Path
        What to read and to write.
    models : FaceModels
        The models, with a swapper.
    references : list of Path
        Pictures: only faces that resemble the largest of one of them are swapped.
    swap : SwapOptions
        Which faces are swapped, and how.

    Raises
    ------
    ConfigError
        If a field is not allowed.
    """

    source: Path | tuple[Path, ...]
    target: Path
    out: Path
    models: FaceModels
    references: tuple[Path, ...] = ()
    swap: SwapOptions = SwapOptions()

    def check(self) -> None:
        """Check what can be checked before any work."""
        from vramx.pipelines.files import is_video

        if self.models.swapper is None:
            raise TaskError("there is no swapper: models.swapper makes the other face")
        self.check_preview(self.target)
        if is_video(self.out) and self.picture != PictureOptions():
            raise TaskError("quality= and format= are for pictures")

    @property
    def paths(self) -> tuple[Path, Path]:
        """What is read and what is written."""
        return self.target, self.out

    @contextlib.contextmanager
    def opened(self, session: Session) -> Iterator[FaceSwap]:
        """Load the models and open a `FaceSwap` with them, for a scope."""
        with face_packages(), opened(self.models, session, self.swap, self.references) as fs:
            yield fs

    @property
    def _source(self) -> Path | list[Path]:
        return self.source if isinstance(self.source, Path) else [*self.source]

    def video_change(self, opened: FaceSwap) -> VideoChange:
        """Return what becomes of a video's frames."""
        return opened.video_change(self._source, self.target)

    def picture_change(self, opened: FaceSwap) -> PictureChange[SwappedFile]:
        """Return what becomes of pictures."""
        return opened.picture_change(self._source, overwrite=self.overwrite)

    def video_made(self, made: VideoResult, seconds: float) -> SwappedFile:  # noqa: ARG002
        """Return what is told of a video."""
        from vramx.pipelines.swapping.frame import SwappedFile, SwapResult

        return SwappedFile(self.out, SwapResult(**made.counts, lost=len(made.lost)))

    def file_to_dict(self, made: SwappedFile) -> dict[str, Any]:
        """Return what is told of a file that was made, as JSON values."""
        return _file_to_dict(made)

    def work(self, session: Session, on_progress: OnProgress, stop: Stop) -> SwapDone:
        """Do the work in an open session."""
        with self.opened(session) as fs:
            result = self._made(fs, on_progress, stop)
            return SwapDone(result, self.target.is_dir(), session.stats())

    def _made(self, fs: FaceSwap, on_progress: OnProgress, stop: Stop) -> FolderResult[SwappedFile]:
        from vramx.pipelines.files import is_video
        from vramx.pipelines.folders import FolderResult
        from vramx.pipelines.swapping.frame import SwappedFile

        paths = (self._source, self.target, self.out)
        if self.target.is_dir():
            return fs.swap_folder(
                *paths, self.picture, overwrite=self.overwrite, on_progress=on_progress, stop=stop
            )
        if self.preview:
            meter = Meter(on_progress, self.target.name, "frame", 1)
            done = fs.preview_video(*paths, self.video, overwrite=self.overwrite)
            meter.add(1)
        elif is_video(self.out):
            done = fs.swap_video(
                *paths, self.video, overwrite=self.overwrite, on_progress=on_progress, stop=stop
            )
        else:
            done = fs.swap_picture(
                *paths, self.picture, overwrite=self.overwrite, on_progress=on_progress
            )
        return FolderResult([SwappedFile(self.out, done)])
