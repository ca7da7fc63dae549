"""Enlarging a picture, a video or a folder of pictures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramx.errors import MediaError
from vramx.pipelines.options import UpscaleOptions
from vramx.progress import Meter, OnProgress
from vramx.seeing.stats import Stats
from vramx.session import Session
from vramx.stopping import Stop
from vramx.tasks.models import UpscalerSpec
from vramx.tasks.results import rest_to_dict
from vramx.tasks.task import MediaTask, TaskError

if TYPE_CHECKING:
    from vramx.pipelines.enlarger import SuperResolution
    from vramx.pipelines.enlarging import Enlarged
    from vramx.pipelines.folders import FolderResult, PictureChange
    from vramx.pipelines.video import VideoChange, VideoResult


@dataclass(frozen=True)
class UpscaleDone:
    """What an `UpscaleTask` made.

    Attributes
    ----------
    result : FolderResult of Enlarged
        The files; one for a picture or a video.
    scale : int
        How much larger the network makes pictures.
    device : str
        The card.
    seconds : float
        How long it took, loading the model included.
    stats : Stats
        The session's counts.
    """

    result: FolderResult[Enlarged]
    scale: int
    device: str
    seconds: float
    stats: Stats

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "device": self.device,
            "scale": self.scale,
            "files": [_file_to_dict(each) for each in self.result.made],
            **rest_to_dict(self.result),
            "seconds": self.seconds,
            "budget": self.stats.budget,
            "peak_resident": self.stats.peak_resident,
            "moved_in": self.stats.moved_in,
            "moved_out": self.stats.moved_out,
        }


def _file_to_dict(made: Enlarged) -> dict[str, Any]:
    return {
        "source": str(made.source),
        "target": str(made.target),
        "kind": made.kind,
        "frames": made.frames,
        "width": made.size[0],
        "height": made.size[1],
        "seconds": made.seconds,
        **({} if made.way is None else made.way.figures()),
    }


@dataclass(frozen=True, kw_only=True)
class UpscaleTask(MediaTask[UpscaleDone]):
    """Enlarges a picture, a video or a folder of pictures.

    Attributes
    ----------
    source, target : Path
        What to read and to write.
    model : UpscalerSpec
        The network.
    upscale : UpscaleOptions
        The size of results, and how they are made.

    Raises
    ------
    ConfigError
        If a field is not allowed.
    """

    source: Path
    target: Path
    model: UpscalerSpec
    upscale: UpscaleOptions = UpscaleOptions()

    def check(self) -> None:
        """Check what can be checked before any work."""
        from vramx.pipelines.enlarging import require_media_libraries

        require_media_libraries()
        if self.model.weights is not None and not self.model.is_factory:
            raise TaskError("weights= are for a model that is package.module:factory")
        self.check_preview(self.source)
        if self.source.is_file() and self.target.is_file() and not self.overwrite:
            raise MediaError(f"{self.target} exists: name another file, or give overwrite=True")

    @property
    def paths(self) -> tuple[Path, Path]:
        """What is read and what is written."""
        return self.source, self.target

    @contextlib.contextmanager
    def opened(self, session: Session) -> Iterator[SuperResolution]:
        """Load the network and open a `SuperResolution` with it, for a scope."""
        import vramx.pipelines

        network = self.model.load(session)
        asked = {name: value for name, value in vars(self.upscale).items() if value is not None}
        with vramx.pipelines.super_resolution(network, session=session, **asked) as enlarger:
            yield enlarger

    def video_change(self, opened: SuperResolution) -> VideoChange:
        """Return what becomes of a video's frames."""
        return opened.video_change()

    def picture_change(self, opened: SuperResolution) -> PictureChange[Enlarged]:
        """Return what becomes of pictures."""
        from vramx.pipelines.enlarging import picture_change

        return picture_change(opened, overwrite=self.overwrite)

    def video_made(self, made: VideoResult, seconds: float) -> Enlarged:
        """Return what is told of a video."""
        from vramx.pipelines.enlarging import Enlarged

        return Enlarged(self.source, self.target, "video", made.frames, made.size, seconds)

    def file_to_dict(self, made: Enlarged) -> dict[str, Any]:
        """Return what is told of a file that was made, as JSON values."""
        return _file_to_dict(made)

    def work(self, session: Session, on_progress: OnProgress, stop: Stop) -> UpscaleDone:
        """Do the work in an open session."""
        begun = time.perf_counter()
        with self.opened(session) as enlarger:
            result = self._enlarge(enlarger, on_progress, stop)
            return UpscaleDone(
                result,
                enlarger.scale,
                session.device.name,
                time.perf_counter() - begun,
                session.stats(),
            )

    def _enlarge(
        self, enlarger: SuperResolution, on_progress: OnProgress, stop: Stop
    ) -> FolderResult[Enlarged]:
        from vramx.pipelines.enlarging import enlarge_file, enlarge_folder, preview_file
        from vramx.pipelines.folders import FolderResult

        if self.source.is_dir():
            return enlarge_folder(
                enlarger,
                self.source,
                self.target,
                self.picture,
                overwrite=self.overwrite,
                on_progress=on_progress,
                stop=stop,
            )
        if self.preview:
            meter = Meter(on_progress, self.source.name, "frame", 1)
            made = preview_file(
                enlarger, self.source, self.target, self.video, overwrite=self.overwrite
            )
            meter.add(1)
            return FolderResult([made])
        made = enlarge_file(
            enlarger,
            self.source,
            self.target,
            picture=self.picture,
            video=self.video,
            overwrite=self.overwrite,
            on_progress=on_progress,
            stop=stop,
        )
        return FolderResult([made])
