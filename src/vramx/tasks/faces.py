"""Finding who is in a picture or a video, and the chain of models that finds faces."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramx.pipelines.options import SwapOptions
from vramx.progress import OnProgress
from vramx.seeing.stats import Stats
from vramx.session import Session
from vramx.stopping import Stop
from vramx.tasks.models import FaceModels, packages
from vramx.tasks.task import Task

if TYPE_CHECKING:
    from vramx.pipelines.swapping.swap import FaceSwap
    from vramx.pipelines.swapping.thumbnails import Thumbnail

#: Says what to install where a package for faces is missing.
face_packages = functools.partial(
    packages,
    "PIL",
    "av",
    "skimage",
    "torch",
    "tqdm",
    install="pip install 'vramx[torch,video,faces]'",
)


def opened(
    models: FaceModels, session: Session, options: SwapOptions, references: tuple[Path, ...] = ()
) -> AbstractContextManager[FaceSwap]:
    """Load models and open a `FaceSwap` with them, for a scope."""
    import vramx.pipelines

    loaded: dict[str, Any] = models.load()
    return vramx.pipelines.face_swap(
        **loaded, reference=[*references] or None, session=session, **vars(options)
    )


@dataclass(frozen=True)
class FacesFound:
    """What a `FacesTask` found.

    Attributes
    ----------
    thumbnails : tuple of Thumbnail
        A picture of each person.
    stats : Stats
        The session's counts.
    """

    thumbnails: tuple[Thumbnail, ...]
    stats: Stats

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "thumbnails": [
                {"path": str(each.path), "frame": each.frame, "face": each.number}
                for each in self.thumbnails
            ],
            "stats": asdict(self.stats),
        }


@dataclass(frozen=True, kw_only=True)
class FacesTask(Task[FacesFound]):
    """Writes a picture of each person in a picture or a video, for use as references, for example.

    Attributes
    ----------
    target : Path
        The picture or video.
    folder : Path
        Where pictures are written.
    models : FaceModels
        The models; only the detector and the recognizer are used.
    swap : SwapOptions
        Options; only `similarity`, `score` and `batch` are used.

    Raises
    ------
    ConfigError
        If a field is not allowed.
    """

    target: Path
    folder: Path
    models: FaceModels
    swap: SwapOptions = SwapOptions()

    def check(self) -> None:
        """Check what can be checked before any work: here nothing."""

    def work(self, session: Session, on_progress: OnProgress, stop: Stop) -> FacesFound:
        """Do the work in an open session."""
        with face_packages(), opened(self.models, session, self.swap) as fs:
            found = fs.write_thumbnails(
                self.target, self.folder, on_progress=on_progress, stop=stop
            )
            return FacesFound(tuple(found), session.stats())
