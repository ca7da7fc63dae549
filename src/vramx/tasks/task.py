"""What tasks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vramx.errors import ConfigError
from vramx.pipelines.options import PictureOptions, VideoOptions
from vramx.progress import OnProgress
from vramx.session import Session
from vramx.session.options import SessionOptions
from vramx.settings import Settings
from vramx.stopping import Stop

if TYPE_CHECKING:
    from vramx.pipelines.folders import PictureChange
    from vramx.pipelines.video import VideoChange, VideoResult

R = TypeVar("R")
T = TypeVar("T", bound="Task[Any]")


class TaskError(ConfigError):
    """Fields of a task do not go together."""


@dataclass(frozen=True, kw_only=True)
class Task(Settings, ABC, Generic[R]):
    """Work on files, as a value. Run it with `run`.

    Attributes
    ----------
    overwrite : bool
        Whether the target may exist; for a folder, whether existing pictures are made again.
    session : SessionOptions
        The options of the session in which it runs.
    """

    overwrite: bool = False
    session: SessionOptions = SessionOptions()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as what JSON has, and as ``task`` the name of the class."""
        return {"task": type(self).__name__, **super().to_dict()}

    @classmethod
    def from_dict(cls: type[T], content: Mapping[str, Any]) -> T:
        """Make a task of what `to_dict` returned.

        Parameters
        ----------
        content : mapping of str to object
            Fields by name, and ``task``; those that have a default may be left out.

        Returns
        -------
        Task
            Of this class.

        Raises
        ------
        ConfigError
            If it is another task, or a field is unknown, missing or not allowed.
        """
        own = dict(content) if isinstance(content, Mapping) else content
        if isinstance(own, dict) and (named := own.pop("task", None)) != cls.__name__:
            raise ConfigError(
                f"task {named!r} is not {cls.__name__!r}: read it by the class that it names"
            )
        return super().from_dict(own)

    @abstractmethod
    def check(self) -> None:
        """Check what can be checked before any work.

        Raises
        ------
        ConfigError, MediaError
            If something is wrong.
        """

    @abstractmethod
    def work(self, session: Session, on_progress: OnProgress, stop: Stop) -> R:
        """Do the work in an open session."""


@dataclass(frozen=True, kw_only=True)
class MediaTask(Task[R]):
    """A task that writes pictures or videos.

    Attributes
    ----------
    picture, video : PictureOptions and VideoOptions
        How each is written.
    preview : bool
        Whether to write one frame of a video as a picture.
    """

    picture: PictureOptions = PictureOptions()
    video: VideoOptions = VideoOptions()
    preview: bool = False

    @abstractmethod
    def opened(self, session: Session) -> AbstractContextManager[Any]:
        """Load the models, and open what makes pictures and videos with them, for a scope."""

    @abstractmethod
    def video_change(self, opened: Any) -> VideoChange:
        """Return what becomes of a video's frames, by what `opened` gave."""

    @abstractmethod
    def picture_change(self, opened: Any) -> PictureChange[Any]:
        """Return what becomes of pictures, by what `opened` gave."""

    @property
    @abstractmethod
    def paths(self) -> tuple[Path, Path]:
        """What is read and what is written."""

    @property
    def is_of_video(self) -> bool:
        """Whether it writes a video."""
        from vramx.pipelines.files import is_video

        source, target = self.paths
        return is_video(target) and not source.is_dir()

    @abstractmethod
    def video_made(self, made: VideoResult, seconds: float) -> Any:
        """Return what is told of a video, as the results of the task's folders have it."""

    @abstractmethod
    def file_to_dict(self, made: Any) -> dict[str, Any]:
        """Return what is told of a file that was made, as JSON values."""

    def check_preview(self, source: Path) -> None:
        """Refuse what cannot be combined with a preview.

        Raises
        ------
        TaskError
            If the source is a folder, or an end is given.
        """
        if self.preview and source.is_dir():
            raise TaskError(f"preview=True is of a video, and {source} is a folder")
        if self.preview and self.video.end is not None:
            raise TaskError("preview=True is of one frame, that at start=: leave out end=")
