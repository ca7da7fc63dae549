"""Enlarging pictures with one network in a budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from vramx.errors import SessionClosedError
from vramx.pipelines.chain import Pipeline, as_count
from vramx.pipelines.files import check_paths
from vramx.pipelines.images import is_picture, to_planes
from vramx.pipelines.networks import (
    channels_last,
    device_of,
    digest,
    dtype_of,
    evaluating,
    has_tensor_cores_for,
)
from vramx.pipelines.stage import Stage
from vramx.pipelines.upscalers import as_network
from vramx.pipelines.upscaling.arena import Arena
from vramx.pipelines.upscaling.assembly import Asked, assemble, weight_bytes
from vramx.pipelines.upscaling.reach import invisible
from vramx.pipelines.upscaling.resizing import Wanted
from vramx.pipelines.upscaling.streaming import NOT_OPEN, PictureStream, nothing
from vramx.pipelines.upscaling.ways import Runner, Way
from vramx.session import Session
from vramx.units import format_size

if TYPE_CHECKING:
    from vramx.pipelines.video import VideoResult

#: What pictures may take where nothing is managed and so no budget is known.
_WITHOUT_BUDGET = 2**30


class SuperResolution:
    """Enlarges pictures with a network. Made by `vramx.super_resolution`; a context manager.

    Attributes
    ----------
    scale : int
        How much larger the network makes pictures.
    """

    def __init__(
        self,
        model: Any,
        *,
        scale: float | None,
        height: int | None,
        width: int | None,
        tile: int | str,
        overlap: int | str,
        batch: int | str,
        multiple: int | None,
        session: Session | None,
        options: Mapping[str, Any],
    ) -> None:
        self._network = network = as_network(model)
        self._asked = Asked(
            tile=None if tile == "auto" else as_count(tile, "tile"),
            overlap=_as_overlap(overlap),
            batch=None if batch == "auto" else as_count(batch, "batch"),
            multiple=None if multiple is None else as_count(multiple, "multiple"),
            wanted=Wanted(scale, height, width),
        )
        self._model = network.module
        self._scope = contextlib.ExitStack()
        self._given = session
        self._backend = options.get("backend")
        stage = Stage(_do, [network.module])
        self._chain = Pipeline({"enlarge": stage}, session=session, batch=1, options=options)
        self._device = torch.device("cpu")
        self._dtype = torch.float32
        self._channels_last = False
        self._pictures: PictureStream | None = None

    @property
    def session(self) -> Session:
        """The session in which the network is."""
        return self._chain.session

    @property
    def scale(self) -> int:
        """How much larger the network makes pictures."""
        return self._ready.engine.shape.scale

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """Tell the width and height of what a picture becomes."""
        size = self._ready.target_size(height, width)
        return size[1], size[0]

    @property
    def _ready(self) -> PictureStream:
        if self._pictures is None:
            raise SessionClosedError(NOT_OPEN)
        return self._pictures

    def __enter__(self) -> SuperResolution:
        with contextlib.ExitStack() as scope:
            scope.enter_context(evaluating(self._model))
            self._dtype = dtype_of(self._model)
            self._channels_last = self._dtype.itemsize < 4 or (
                self._will_be_on_card() and has_tensor_cores_for(self._dtype)
            )
            if self._channels_last:
                scope.enter_context(channels_last(self._model, self._given))
            scope.enter_context(self._chain)
            self._device = device_of(self._chain.session)
            self._pictures = self._build()
            self._scope = scope.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None
        self._scope.__exit__(kind, error, trace)

    def _will_be_on_card(self) -> bool:
        if self._given is not None:
            return device_of(self._given).type == "cuda"
        return torch.cuda.is_available() and self._backend != "simulated"

    def _place(self, x: torch.Tensor) -> torch.Tensor:
        turned = self._channels_last and self._device.type == "cuda"
        layout = torch.channels_last if turned else torch.contiguous_format
        return x.to(self._device, self._dtype).contiguous(memory_format=layout)

    def _call(self, x: torch.Tensor) -> Any:
        return self._chain(partial(self._network.call, x))

    def _build(self) -> PictureStream:
        runner = Runner(
            call=self._call,
            within=self._chain,
            place=self._place,
            hold=self.session.pin,
            arena=Arena(self._device, self.session),
        )
        budget = self._chain.session.stats().budget or _WITHOUT_BUDGET
        stream = assemble(self._network, runner, budget, self._device, self._asked)
        self.session.empty_cache()  # of what trying has left
        return stream

    def __call__(self, x: Any) -> Any:
        """Enlarge a picture, or an iterable of them.

        Parameters
        ----------
        x : PIL.Image.Image, numpy.ndarray, torch.Tensor, or iterable of them
            See `vramx.super_resolution`.

        Returns
        -------
        same type, or iterator
            What is given an iterable is an iterator that reads as it is read, at most two batches
            ahead: one is computed while another is taken off the card.

        Raises
        ------
        ConfigError
            If it is not such a picture.
        OutOfMemoryError
            If the smallest tile does not fit.
        """
        ready = self._ready
        if not is_picture(x) and isinstance(x, Iterable) and not isinstance(x, (str, bytes)):
            return ready.run(x)
        return next(ready.run([x]))

    def forecast(self, picture: Any) -> Way:
        """Tell how a picture would go through.

        Parameters
        ----------
        picture : PIL.Image.Image, numpy.ndarray or torch.Tensor
            What `vramx.super_resolution` takes.

        Returns
        -------
        InTiles or InBands
            Its ``describe()`` says it in words, its ``share`` how many pixels are computed over the
            picture's own.
        """
        return self._ready.way(to_planes(picture, self._ready.home))

    def seam_error(self, picture: Any) -> float:
        """Measure how much the edges of tiles or bands show in a picture.

        It is enlarged a second time: whole, where that fits, as it may where tiles were asked for;
        otherwise with its seams where the others have their middles. Of a network that looks at the
        whole picture, that shows a part of what the seams change.

        Parameters
        ----------
        picture : PIL.Image.Image, numpy.ndarray or torch.Tensor
            What `vramx.super_resolution` takes.

        Returns
        -------
        float
            The largest difference of a value, where white is 1. Zero where the picture goes through
            whole; from rounding about 1e-6 in float32 and some steps of 255 in half precision where
            the overlap covers what the network looks at.
        """
        engine, planes = self._ready.engine, to_planes(picture, self._ready.home)
        tolerance = invisible(planes.white)
        made = [
            engine.run(way, planes.colour, lambda values: values.clamp(0, 1), nothing)
            for way in (
                engine.way(planes.colour, tolerance),
                engine.other_way(planes.colour, tolerance),
            )
        ]
        return (made[0] - made[1]).abs().max().item()

    def enlarge_picture(
        self,
        source: str | Path,
        target: str | Path,
        *,
        quality: int | None = None,
        format: str | None = None,  # noqa: A002 - the command's word for it
        overwrite: bool = False,
        progress: bool = False,
    ) -> Way:
        """Enlarge a picture in a file.

        Pixels keep their bits, and the ICC profile, EXIF and XMP data and the resolution are kept
        where the format has a place for them. The EXIF orientation is applied.

        Parameters
        ----------
        source : str or Path
            What to read: anything that Pillow reads, 16 bits a channel and floating point TIFF. Of
            a GIF, WebP, APNG or AVIF that moves, and of a TIFF with pages, all frames are enlarged
            into a file of the same format.
        target : str or Path
            What to write; the suffix chooses the format. It is there whole or not at all.
        quality : int, optional
            From 1 to 100, for JPEG, WebP, AVIF and HEIC; otherwise 95. Without it a JPEG file is as
            fine as the one that it is made from, and a WebP file loses nothing where its source
            did not.
        format : str, optional
            ``"png"``, ``"jpeg"``, ``"webp"``, ``"tiff"``, ``"avif"`` or another suffix of a format:
            what the target's suffix must name.
        overwrite : bool
            Whether the target may exist.
        progress : bool
            Whether to show a bar on standard error.

        Returns
        -------
        InTiles or InBands
            How the picture went through; see `forecast`.

        Raises
        ------
        MediaError
            If a file cannot be read or written, or the format has no place for what the picture
            has: its size, alpha, bits or frames. That is found before the work.
        ConfigError
            If it is a picture of a mode that is not supported, or the quality or format is none.

        Warns
        -----
        RuntimeWarning
            If 16 bits become 8, data beside the pixels are left out, or CMYK is converted without a
            profile.
        """
        from vramx.pipelines.pictures import change_picture

        source, target = Path(source), Path(target)
        ways: dict[torch.Size, Way] = {}

        def enlarge(pixels: Any, put: Callable[[Any], None]) -> None:
            self._ready.write(pixels, put, ways)

        with self._bar(progress, source.name, ways):
            change_picture(
                source,
                target,
                enlarge,
                size=self.target_size,
                quality=quality,
                format=format,
                overwrite=overwrite,
            )
        return next(iter(ways.values()))

    @contextlib.contextmanager
    def _bar(self, shown: bool, name: str, ways: dict[torch.Size, Way]) -> Iterator[None]:
        if not shown:
            yield
            return
        from tqdm import tqdm

        with tqdm(unit="px", unit_scale=True, desc=name) as bar:

            def count(done: int, total: int) -> None:
                if done == 0:
                    bar.reset(total)
                    bar.set_postfix_str(next(iter(ways.values())).describe())
                bar.update(done)

            self._ready.count = count
            try:
                yield
            finally:
                self._ready.count = nothing

    def enlarge_video(
        self,
        source: str | Path,
        target: str | Path,
        *,
        codec: str = "libx264",
        options: Mapping[str, str] | None = None,
        pix_fmt: str | None = None,
        segment: int = 240,
        deinterlace: str = "auto",
        on_corrupt: str = "error",
        start: float | Fraction | str | None = None,
        end: float | Fraction | str | None = None,
        overwrite: bool = False,
        progress: bool = False,
    ) -> int:
        """Enlarge a video in a file; see `vramx.pipelines.video.transform_video`.

        Times of frames are kept; sound, subtitles and chapters are copied. When the job is stopped,
        by an interrupt or a full disk, the same call goes on with what is finished, and
        the result is the same as without the stop.

        Parameters
        ----------
        source, target : str or Path
            What to read, and what to write: .mp4, .m4v, .mov, or .mkv and .webm, which keep times
            to the millisecond. Finished segments gather in ``TARGET.parts``.
        codec : str
            FFmpeg's name of the encoder.
        options : mapping of str to str, optional
            The encoder's options, such as ``{"crf": "18"}``.
        pix_fmt : str, optional
            The target's pixel format, such as ``"yuv420p"`` for 8 bits. Otherwise the source's, or
            the nearest that the encoder takes and that loses nothing of it.
        segment : int
            Frames a segment: the most that a stop loses.
        deinterlace : str
            What becomes of interlaced frames, whose two fields are of different moments: ``"auto"``
            makes each one picture with FFmpeg's bwdif, ``"off"`` leaves both fields in it. A
            warning tells of a video that is interlaced.
        on_corrupt : str
            What becomes of frames that cannot be decoded: ``"error"`` ends with the frame's time,
            ``"skip"`` leaves them out, which a warning tells; the others keep their times.
        start, end : float, Fraction or str, optional
            Which part is taken: frames that are shown at `start` or after it and before `end`, in
            seconds from where the file begins or as ``"HH:MM:SS.mmm"``. In the target the first is
            shown at zero, and sound is cut to it in whole packets.
        overwrite : bool
            Whether the target may exist.
        progress : bool
            Whether to show a bar on standard error.

        Returns
        -------
        int
            How many frames the target has.

        Raises
        ------
        MediaError
            If a file cannot be read or written, is truncated or has no video, or the work folder
            holds another job. Finished segments stay.
        ConfigError
            If there is no such codec, option or pixel format, or `deinterlace` is neither.
        """
        return self.change_video(
            source,
            target,
            codec=codec,
            options=options,
            pix_fmt=pix_fmt,
            segment=segment,
            deinterlace=deinterlace,
            on_corrupt=on_corrupt,
            start=start,
            end=end,
            overwrite=overwrite,
            progress=progress,
        ).frames

    def change_video(self, source: str | Path, target: str | Path, **options: Any) -> VideoResult:
        """Enlarge a video as `enlarge_video` does, and tell more of it.

        Parameters
        ----------
        source, target, **options
            As `enlarge_video`.

        Returns
        -------
        VideoResult
            How many frames the target has, of which size, and which were lost.
        """
        from vramx.pipelines.video import transform_video

        # What is chosen by the memory that happens to be free is no part of it.
        identity = {
            "model": f"{type(self._model).__name__} {digest(self.session, self._model)}",
            "scale": str(self.scale),
            "size": str(self._asked.wanted),
            "tile": _named(self._asked.tile),
            "overlap": _named(self._asked.overlap),
            "multiple": _named(self._asked.multiple),
        }
        run = self._ready.run
        return transform_video(
            source, target, run, identity=identity, size=self.target_size, **options
        )

    def preview_video(
        self,
        source: str | Path,
        target: str | Path,
        *,
        start: float | Fraction | str | None = None,
        deinterlace: str = "auto",
        overwrite: bool = False,
    ) -> Way:
        """Enlarge one frame of a video, to a picture of 8 bits a colour.

        Parameters
        ----------
        source : str or Path
            The video.
        target : str or Path
            The picture; the suffix chooses the format.
        start, deinterlace
            As `enlarge_video`; without `start` it is a frame from the middle.
        overwrite : bool
            Whether the target may exist.

        Returns
        -------
        InTiles or InBands
            How the frame went through; see `forecast`.

        Raises
        ------
        MediaError
            If a file cannot be read or written.
        ConfigError
            If the video does not last so long, or `deinterlace` is neither.
        """
        from vramx.pipelines.pictures import writable_format
        from vramx.pipelines.video.preview import read_frame, write_preview

        source, target = Path(source), Path(target)
        check_paths(source, target, overwrite=overwrite)
        writable_format(target)
        frame = read_frame(source, start, deinterlace)
        ways: dict[torch.Size, Way] = {}
        write_preview(next(self._ready.run([frame], ways)), target)
        return next(iter(ways.values()))

    def report(self) -> str:
        """Describe the session and the sizes for people.

        Returns
        -------
        str
            The session's report, then the scale and the tiles.
        """
        engine = self._ready.engine
        return (
            f"{self._chain.report()}\n  {engine.shape.scale} times as large, "
            f"{engine.describe()}; weights of {format_size(weight_bytes(self._model))}"
        )


def _as_overlap(overlap: int | str) -> int | None:
    if overlap == "auto":
        return None
    return 0 if overlap == 0 and overlap is not False else as_count(overlap, "overlap")


def _named(size: int | None) -> str:
    return "auto" if size is None else str(size)


def _do(job: Callable[[], Any]) -> Any:
    return job()
