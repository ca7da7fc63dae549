"""Enlarging a picture, a video or a folder of pictures."""

from __future__ import annotations

import time
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
    from vramx.pipelines.folders import FolderResult


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
            "files": [
                {
                    "source": str(each.source),
                    "target": str(each.target),
                    "kind": each.kind,
                    "frames": each.frames,
                    "width": each.size[0],
                    "height": each.size[1],
                    "seconds": each.seconds,
                    **({} if each.way is None else each.way.figures()),
                }
                for each in self.result.made
            ],
            **rest_to_dict(self.result),
            "seconds": self.seconds,
            "budget": self.stats.budget,
            "peak_resident": self.stats.peak_resident,
            "moved_in": self.stats.moved_in,
            "moved_out": self.stats.moved_out,
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

    def work(self, session: Session, on_progress: OnProgress, stop: Stop) -> UpscaleDone:
        """Do the work in an open session."""
        import vramx.pipelines

        begun = time.perf_counter()
        network = self.model.load(session)
        asked = {name: value for name, value in vars(self.upscale).items() if value is not None}
        with vramx.pipelines.super_resolution(network, session=session, **asked) as enlarger:
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
