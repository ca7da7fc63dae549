"""What clients may ask for, as pydantic checks it. Fields are those of tasks, as far as allowed.

Of encoders only options are taken that set quality and speed: others name files to write.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from vramx.tasks.models import DTYPE_NAMES

_Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Path = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
_Time = Annotated[str, StringConstraints(pattern=r"^[0-9:.]{1,20}$")]
_Size = Annotated[str, StringConstraints(pattern=r"^[0-9.]{1,20} ?[A-Za-z]{0,3}$")]
_Pixels = Annotated[int, Field(ge=1, le=2**20)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileRef(_Request):
    """An uploaded file."""

    file: _Id


class FolderRef(_Request):
    """A file of an allowed folder, by its path inside it."""

    folder: _Name
    path: _Path


class JobRef(_Request):
    """What a job made: its result, or one of its files by name."""

    job: _Id
    name: _Name | None = None


Ref = FileRef | FolderRef | JobRef


class Video(_Request):
    """How a video is read and written; as `vramx.VideoOptions`, but for fewer encoders."""

    codec: Literal[
        "libx264", "libx265", "libsvtav1", "libaom-av1", "libvpx-vp9", "mpeg4", "ffv1",
        "h264_nvenc", "hevc_nvenc", "av1_nvenc",
    ] = "libx264"  # fmt: skip
    codec_options: dict[
        Literal["b", "bf", "cq", "cpu-used", "crf", "g", "level", "mbtree", "preset", "profile",
                "q", "qp", "rc", "tune"],
        _Word,
    ] = Field(default_factory=dict)  # fmt: skip
    pix_fmt: _Word | None = None
    segment: Annotated[int, Field(ge=1, le=100_000)] = 240
    deinterlace: Literal["auto", "off"] = "auto"
    on_corrupt: Literal["error", "skip"] = "error"
    start: _Time | None = None
    end: _Time | None = None


class _Job(_Request):
    """What all jobs have.

    Attributes
    ----------
    source : Ref
        The picture or video.
    model : str
        One of `GET /api/models`.
    budget : str, optional
        The most that the job may have on the card, such as ``"2GiB"``; by default an equal part of
        the service's budget for each of its workers.
    """

    source: Ref
    model: _Name
    budget: _Size | None = None


class _Making(_Job):
    """What jobs have that write a picture or a video."""

    format: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,5}$")] | None = None
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    video: Video | None = None
    preview: bool = False


class UpscaleRequest(_Making):
    """Enlarge a picture or a video."""

    kind: Literal["upscale"]
    dtype: Literal[DTYPE_NAMES] | None = None  # type: ignore[valid-type]
    scale: Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)] | None = None
    width: _Pixels | None = None
    height: _Pixels | None = None


class Swap(_Request):
    """Which faces are swapped, and how."""

    faces: Literal["all", "largest"] = "all"
    similarity: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.4
    score: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    on_no_face: Literal["pass", "error"] = "pass"
    feather: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.1


class SwapRequest(_Making):
    """Put faces into a picture or a video."""

    kind: Literal["swap"]
    faces: Annotated[list[Ref], Field(min_length=1, max_length=16)]
    references: Annotated[list[Ref], Field(max_length=16)] = []
    swap: Swap = Swap()


class FacesRequest(_Job):
    """Find who is in a picture or a video."""

    kind: Literal["faces"]
    swap: Swap = Swap()


JobRequest = Annotated[UpscaleRequest | SwapRequest | FacesRequest, Field(discriminator="kind")]


def plain(request: Any) -> dict[str, Any]:
    """Return a request as JSON values."""
    content: dict[str, Any] = request.model_dump(mode="json", exclude_unset=True)
    return content
