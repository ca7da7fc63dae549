"""From what a client asked for to a task: names become paths, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vramx.errors import Error
from vramx.pipelines.options import PictureOptions, SwapOptions, UpscaleOptions, VideoOptions
from vramx.service.files import Files
from vramx.service.folders import Folders
from vramx.service.media import Media, identify, without_paths
from vramx.service.models import Models, Offered
from vramx.service.refusals import ConflictError, NotAllowedError, NotFoundError, RefusedError
from vramx.service.results import Results
from vramx.service.settings import ServiceSettings
from vramx.service.store import Store
from vramx.session.options import SessionOptions
from vramx.tasks import FaceModels, FacesTask, SwapTask, Task, UpscalerSpec, UpscaleTask

#: Where tasks write that are made only to be checked.
_NOWHERE = Path("nowhere")


@dataclass(frozen=True)
class Source:
    """A file that a job reads: where it lies, what its client calls it, and what it is."""

    path: Path
    name: str
    media: Media


class Making:
    """Makes tasks of what clients ask for.

    Parameters
    ----------
    settings : ServiceSettings
        The service's.
    data : Path
        Its folder, of which clients see nothing.
    store : Store
        What is known of files and jobs.
    files, folders, results : Files, Folders and Results
        What may be read.
    models : Models
        What may be named.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        data: Path,
        store: Store,
        files: Files,
        folders: Folders,
        results: Results,
        models: Models,
    ) -> None:
        self._limits = settings.limits
        asked = settings.session
        self._session = SessionOptions(policy=asked.policy, block=asked.block)
        self._store = store
        self._files = files
        self._folders = folders
        self._results = results
        self._models = models
        owned = (data / "files", data / "jobs", data, settings.models, *settings.folders.values())
        roots = {path for each in owned if each is not None for path in (each, each.resolve())}
        # The innermost first: what is left of a path is what a client knows it by.
        self._roots = {f"{root}/": "" for root in sorted(map(str, roots), key=len, reverse=True)}

    def check(self, request: dict[str, Any]) -> None:
        """Check what a client asks for, as far as that is possible before the work.

        Raises
        ------
        RefusedError
            If it cannot be.
        """
        try:
            self.task(request, _NOWHERE)
        except RefusedError:
            raise
        except Error as error:
            raise NotAllowedError(self.said(error)) from error

    def said(self, error: BaseException) -> str:
        """Return an error's text without paths of this machine."""
        return without_paths(str(error), self._roots)

    def task(self, request: dict[str, Any], folder: Path) -> Task[Any]:
        """Make a task.

        Parameters
        ----------
        request : dict
            As `requests.plain` returns it.
        folder : Path
            Where it writes: files named ``result``, or pictures of people.

        Returns
        -------
        Task
            The task.

        Raises
        ------
        RefusedError, ConfigError, MediaError
            If it cannot be.
        """
        source = self._source(request["source"])
        if request["kind"] == "upscale":
            return self._upscale(request, source, folder)
        model = self._models.find(request["model"], "faces").spec
        assert isinstance(model, FaceModels)
        swap = SwapOptions(**request.get("swap", {}))
        if request["kind"] == "faces":
            return FacesTask(
                target=source.path, folder=folder, models=model, swap=swap, session=self._session
            )
        if model.swapper is None:
            raise NotAllowedError(f"the model {request['model']} has no swapper: take another")
        return SwapTask(
            source=tuple(self._pictures(request["faces"])),
            target=source.path,
            references=tuple(self._pictures(request.get("references", []))),
            models=model,
            swap=swap,
            **self._made(request, source, folder, "out"),
        )

    def _upscale(self, request: dict[str, Any], source: Source, folder: Path) -> Task[Any]:
        model = self._models.find(request["model"], "upscale")
        assert isinstance(model.spec, UpscalerSpec)
        spec = replace(model.spec, dtype=request.get("dtype") or model.spec.dtype)
        sizes = {name: request.get(name) for name in ("scale", "width", "height")}
        upscale = UpscaleOptions(**sizes)
        self._check_result(upscale, source.media, model)
        made = self._made(request, source, folder, "target")
        return UpscaleTask(source=source.path, model=spec, upscale=upscale, **made)

    def _check_result(self, upscale: UpscaleOptions, media: Media, model: Offered) -> None:
        if model.scale is None and not upscale.resizes:
            return
        height, width = upscale.size(media.height, media.width, model.scale or 1)
        if height * width > self._limits.result_pixels:
            raise NotAllowedError(
                f"the result would have {width}x{height} pixels: at most "
                f"{self._limits.result_pixels} are made, in all; ask for a smaller one"
            )

    def _made(
        self, request: dict[str, Any], source: Source, folder: Path, field: str
    ) -> dict[str, Any]:
        """Return what all tasks have that write a picture or a video."""
        from vramx.pipelines.pictures.formats import check_quality, writable_format

        preview = request.get("preview", False)
        is_video = source.media.kind == "video"
        if not is_video and (preview or "video" in request):
            raise NotAllowedError(f"{source.name} is a picture: preview and video are of videos")
        quality = request.get("quality")
        target = folder / f"result{_suffix(request.get('format'), source, preview=preview)}"
        if not is_video:
            check_quality(quality, writable_format(target))
        elif quality is not None:
            raise NotAllowedError(f"{source.name} is a video: quality is of pictures")
        return {
            field: target,
            "picture": PictureOptions(quality),
            "video": VideoOptions(**request.get("video", {})),
            "preview": preview,
            "session": self._session,
        }

    def _pictures(self, refs: list[dict[str, Any]]) -> Iterator[Path]:
        for ref in refs:
            source = self._source(ref)
            if source.media.kind != "picture":
                raise NotAllowedError(f"{source.name} is a video: a face is shown by a picture")
            yield source.path

    def _source(self, ref: dict[str, Any]) -> Source:
        if "file" in ref:
            file = self._store.file(ref["file"])
            media = Media(file.kind, file.width, file.height, file.frames)
            return Source(self._files.path(file.id), file.name, media)
        if "folder" in ref:
            path, name = self._folders.find(ref["folder"], ref["path"]), ref["path"]
        else:
            job = self._store.job(ref["job"])
            if job.state != "done":
                raise ConflictError(f"the job {job.id} is {job.state}: it has made nothing yet")
            name = ref.get("name") or self._results.name(job.id)
            if name is None:
                raise NotFoundError(f"the job {job.id} has several files: give the name of one")
            path = self._results.path(job.id, name)
        return Source(path, name, identify(path, name, self._limits.pixels))


def _suffix(asked: str | None, source: Source, *, preview: bool) -> str:
    """Choose what the result is written as: what is asked for, else as its source is named."""
    from vramx.pipelines.files import VIDEO_FORMATS
    from vramx.pipelines.pictures.formats import writable_format

    is_video = source.media.kind == "video" and not preview
    if asked is not None:
        if is_video and f".{asked}" not in VIDEO_FORMATS:
            known = ", ".join(each.lstrip(".") for each in VIDEO_FORMATS)
            raise NotAllowedError(f"format {asked!r} is none of videos: there are {known}")
        if not is_video:
            writable_format(Path(f"result.{asked}"))  # which refuses what is none
        return f".{asked}"
    named = Path(source.name).suffix.lower()
    if is_video:
        return named if named in VIDEO_FORMATS else ".mp4"
    if preview:
        return ".png"
    try:
        writable_format(Path(f"result{named}"))
    except Error:
        return ".png" if source.media.frames == 1 else ".webp"
    return named


def files_of(request: dict[str, Any]) -> set[str]:
    """Name the uploaded files that a job reads."""
    refs = [request["source"], *request.get("faces", []), *request.get("references", [])]
    return {ref["file"] for ref in refs if "file" in ref}
