"""Options of pictures, videos and chains: frozen, checked when they are made, written as JSON.

Loading this loads no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vramx.errors import ConfigError
from vramx.pipelines.span import Span, Time, as_seconds
from vramx.settings import Settings
from vramx.units import as_count


def _check_choice(name: str, value: object, *choices: str) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is not one of {', '.join(map(repr, choices))}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class PictureOptions(Settings):
    """How a picture is written.

    Attributes
    ----------
    quality : int, optional
        From 1 to 100, for JPEG, WebP, AVIF and HEIC; otherwise 95. Without it a JPEG file is at
        least as fine as its source, and a WebP file is lossless if its source was. It does not
        apply to pictures of a folder whose format has no quality.
    format : str, optional
        ``"png"``, ``"jpeg"``, ``"webp"``, ``"tiff"``, ``"avif"`` or another suffix of a format:
        the format that the target's suffix must name, and that pictures of a folder get.

    Raises
    ------
    ConfigError
        If the quality is not allowed. The format is checked when a picture is made.
    """

    quality: int | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        known = isinstance(self.quality, int) and not isinstance(self.quality, bool)
        if self.quality is not None and not (known and 1 <= self.quality <= 100):
            raise ConfigError(f"the quality is a whole number from 1 to 100, not {self.quality!r}")
        super().__post_init__()


@dataclass(frozen=True)
class VideoOptions(Settings):
    """How a video is read and written.

    Attributes
    ----------
    codec : str
        FFmpeg's name of the encoder.
    codec_options : mapping of str to str
        The encoder's options, such as ``{"crf": "18"}``.
    pix_fmt : str, optional
        The target's pixel format, such as ``"yuv420p"`` for 8 bits. By default the source's, or the
        nearest that the encoder takes without loss.
    segment : int
        Frames a segment: the most that a stop loses.
    deinterlace : str
        What happens to interlaced frames, whose two fields are of different moments: ``"auto"``
        makes each one picture with FFmpeg's bwdif, ``"off"`` leaves both fields in it. An
        interlaced video gives a warning.
    on_corrupt : str
        What happens to frames that cannot be decoded: ``"error"`` stops with an error that gives
        the frame's time, ``"skip"`` leaves them out with a warning; the others keep their times.
    start, end : float, Fraction or str, optional
        The part to take: frames that are shown from `start` up to but not including `end`, in
        seconds from where the file begins or as ``"HH:MM:SS.mmm"``. In the target the first is
        shown at zero, and sound is cut to it in whole packets.

    Raises
    ------
    ConfigError
        If one is not allowed. Options that the encoder does not know are found before the work.
    """

    codec: str = "libx264"
    codec_options: Mapping[str, str] = field(default_factory=dict, hash=False)
    pix_fmt: str | None = None
    segment: int = 240
    deinterlace: str = "auto"
    on_corrupt: str = "error"
    start: Time = None
    end: Time = None

    def __post_init__(self) -> None:
        as_count(self.segment, "segment")
        _check_choice("deinterlace", self.deinterlace, "auto", "off")
        _check_choice("on_corrupt", self.on_corrupt, "error", "skip")
        for name in ("start", "end"):
            object.__setattr__(self, name, as_seconds(getattr(self, name), name))
        self.span.check_order()
        super().__post_init__()

    @property
    def span(self) -> Span:
        """The part that is taken."""
        return Span(as_seconds(self.start, "start"), as_seconds(self.end, "end"))


@dataclass(frozen=True)
class UpscaleOptions(Settings):
    """Options of `vramx.super_resolution`, which explains each.

    Attributes
    ----------
    scale : float, optional
        How much larger results are than pictures; the network's own scale by default.
    height, width : int, optional
        The sides of results in pixels, instead; if only one is given the other follows.
    tile, overlap, batch : int, optional
        Of tiles; chosen if None.
    multiple : int, optional
        What the sides of inputs must be multiples of; measured if None.

    Raises
    ------
    ConfigError
        If one is not allowed.
    """

    scale: float | None = None
    height: int | None = None
    width: int | None = None
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    multiple: int | None = None

    def __post_init__(self) -> None:
        if self.scale is not None:
            if not (_is_number(self.scale) and 0 < self.scale < 1e6):
                raise ConfigError(f"scale {self.scale!r} is not a number above 0")
            if self.height is not None or self.width is not None:
                raise ConfigError(
                    "scale= says the size already: leave out height= and width=, or it"
                )
        for name in ("height", "width", "tile", "overlap", "batch", "multiple"):
            value = getattr(self, name)
            may_be_zero = name == "overlap" and type(value) is int and value == 0
            if value is not None and not may_be_zero:
                as_count(value, name)
        super().__post_init__()

    @property
    def resizes(self) -> bool:
        """Whether a size is asked for."""
        return (self.scale, self.height, self.width) != (None, None, None)

    def size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Return the height and width of the result for a picture.

        Parameters
        ----------
        height, width : int
            The picture's.
        scale : int
            How much larger the network makes it.

        Returns
        -------
        (int, int)
            At least 1.
        """
        if self.height is None and self.width is None:
            by_height = by_width = float(scale if self.scale is None else self.scale)
        else:
            by_height = (self.height or 0) / height
            by_width = (self.width or 0) / width
        return (
            self.height or max(1, round(height * (by_height or by_width))),
            self.width or max(1, round(width * (by_width or by_height))),
        )


@dataclass(frozen=True)
class SwapOptions(Settings):
    """Options of `vramx.face_swap`, which explains each.

    Attributes
    ----------
    faces : str
        ``"all"`` or ``"largest"``.
    similarity : float
        The least cosine between embeddings that counts as a resemblance.
    score : float
        The least detector score that counts as a face.
    on_no_face : str
        ``"pass"`` or ``"error"``.
    feather : float
        The part of a crop's side over which it fades out, from 0 to 0.5.
    batch : int
        Pictures, and crops, at once.

    Raises
    ------
    ConfigError
        If one is not allowed.
    """

    faces: str = "all"
    similarity: float = 0.4
    score: float = 0.5
    on_no_face: str = "pass"
    feather: float = 0.1
    batch: int = 4

    def __post_init__(self) -> None:
        _check_choice("faces", self.faces, "all", "largest")
        if not (_is_number(self.similarity) and -1 <= self.similarity <= 1):
            raise ConfigError(f"similarity {self.similarity!r} is not a cosine, from -1 to 1")
        if not (_is_number(self.score) and 0 < self.score <= 1):
            raise ConfigError(f"score {self.score!r} is not above 0 and at most 1")
        _check_choice("on_no_face", self.on_no_face, "pass", "error")
        if not (_is_number(self.feather) and 0 <= self.feather <= 0.5):
            raise ConfigError(f"feather {self.feather!r} is not a part from 0 to 0.5")
        as_count(self.batch, "batch")
        super().__post_init__()
