"""Enlarging pictures and videos in files with one network within a budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vramx.pipelines.files import check_paths
from vramx.pipelines.options import PictureOptions, VideoOptions
from vramx.pipelines.upscaling.enlarger import Enlarger
from vramx.pipelines.upscaling.streaming import nothing
from vramx.pipelines.upscaling.ways import Way
from vramx.progress import Meter, OnProgress
from vramx.stopping import Stop

if TYPE_CHECKING:
    from vramx.pipelines.video import VideoChange, VideoResult


class SuperResolution(Enlarger):
    """Enlarges pictures with a network. Made by `vramx.super_resolution`; a context manager.

    Attributes
    ----------
    scale : int
        How much larger the network makes pictures.
    """

    def enlarge_picture(
        self,
        source: str | Path,
        target: str | Path,
        options: PictureOptions = PictureOptions(),
        *,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Way:
        """Enlarge a picture in a file.

        Pixels keep their bits, and the ICC profile, EXIF and XMP data and the resolution are kept
        where the format can hold them. The EXIF orientation is applied.

        Parameters
        ----------
        source : str or Path
            What to read: anything that Pillow reads, 16 bits a channel and floating point TIFF. All
            frames of an animated GIF, WebP, APNG or AVIF, and all pages of a TIFF, are enlarged
            into a file of the same format.
        target : str or Path
            What to write; the suffix chooses the format. It is written whole or not at all.
        options : PictureOptions
            How the target is written.
        overwrite : bool
            Whether the target may exist.
        on_progress : callable, optional
            Called with a `vramx.Progress`, in pixels, or in frames where there are several.

        Returns
        -------
        InTiles or InBands
            How the picture went through; see `forecast`.

        Raises
        ------
        MediaError
            If a file cannot be read or written, or the format cannot hold the picture's size,
            alpha, bits or frames. That is found before the work.
        ConfigError
            If the picture's mode is not supported, or the format is unknown or has no quality.

        Warns
        -----
        RuntimeWarning
            If 16 bits become 8, metadata is left out, or CMYK is converted without a
            profile.
        """
        from vramx.pipelines.pictures import change_picture, count_frames

        source, target = Path(source), Path(target)
        ways: dict[torch.Size, Way] = {}
        frames = 1 if on_progress is None else count_frames(source)
        in_frames = frames > 1
        meter = Meter(
            on_progress,
            source.name,
            "frame" if in_frames else "px",
            frames if in_frames else None,
        )

        def enlarge(pixels: Any, put: Callable[[Any], None]) -> None:
            self._ready.write(pixels, put, ways)
            if in_frames:
                meter.add(1)

        with contextlib.nullcontext() if in_frames else self._counting(meter, ways):
            change_picture(
                source,
                target,
                enlarge,
                options=options,
                size=self.target_size,
                overwrite=overwrite,
            )
        meter.finish()
        return next(iter(ways.values()))

    @contextlib.contextmanager
    def _counting(self, meter: Meter, ways: dict[torch.Size, Way]) -> Iterator[None]:
        """Count the pixels of a picture while it goes through."""
        done = 0

        def count(more: int, total: int) -> None:
            nonlocal done
            done = done + more if more else 0  # from the top again after memory ran out
            meter.way = next(iter(ways.values())).describe()
            meter.reach(done, total)

        self._ready.count = count
        try:
            yield
        finally:
            self._ready.count = nothing

    def enlarge_video(
        self,
        source: str | Path,
        target: str | Path,
        options: VideoOptions = VideoOptions(),
        *,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
        stop: Stop | None = None,
    ) -> VideoResult:
        """Enlarge a video in a file; see `vramx.pipelines.video.transform_video`.

        Times of frames are kept; sound, subtitles and chapters are copied. When the job is stopped,
        also by an interrupt or a full disk, the same call resumes it, and the result is the same as
        without the stop.

        Parameters
        ----------
        source, target : str or Path
            What to read, and what to write: .mp4, .m4v, .mov, or .mkv and .webm, which keep times
            to the millisecond. Finished segments are kept in ``TARGET.parts``.
        options : VideoOptions
            How the video is read and written.
        overwrite, on_progress, stop
            As of `transform_video`.

        Returns
        -------
        VideoResult
            How many frames the target has, of which size, and which were lost.

        Raises
        ------
        MediaError
            If a file cannot be read or written, is truncated or has no video, or the work folder
            holds another job. Finished segments stay.
        ConfigError
            If there is no such codec, option or pixel format.
        StoppedError
            If it was asked to stop. Finished segments stay.
        """
        from vramx.pipelines.video import transform_video

        return transform_video(
            source,
            target,
            options=options,
            **self.video_change()._asdict(),
            overwrite=overwrite,
            on_progress=on_progress,
            stop=stop,
        )

    def video_change(self) -> VideoChange:
        """Return what becomes of a video's frames, for whoever makes the video.

        Returns
        -------
        VideoChange
            As `transform_video` takes it.
        """
        from vramx.pipelines.video import VideoChange

        return VideoChange(self._ready.run, self.identity, self.target_size)

    @property
    def identity(self) -> dict[str, str]:
        """What results depend on."""
        # What is chosen by the memory that happens to be free is no part of it.
        asked = self._options
        return {
            "model": self._network.identity(self.session),
            "scale": str(self.scale),
            "size": f"scale {asked.scale}, height {asked.height}, width {asked.width}",
            "tile": _named(asked.tile),
            "overlap": _named(asked.overlap),
            "multiple": _named(asked.multiple),
        }

    def preview_video(
        self,
        source: str | Path,
        target: str | Path,
        options: VideoOptions = VideoOptions(),
        *,
        overwrite: bool = False,
    ) -> Way:
        """Enlarge one frame of a video, to a picture of 8 bits a colour.

        Parameters
        ----------
        source : str or Path
            The video.
        target : str or Path
            The picture; the suffix chooses the format.
        options : VideoOptions
            Only `start` and `deinterlace` are used; without a start it is a frame from the middle.
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
            If the video ends before `start`, or an end is given.
        """
        from vramx.pipelines.pictures import writable_format
        from vramx.pipelines.video.preview import read_frame, write_preview

        source, target = Path(source), Path(target)
        check_paths(source, target, overwrite=overwrite)
        writable_format(target)
        frame = read_frame(source, options)
        ways: dict[torch.Size, Way] = {}
        write_preview(next(self._ready.run([frame], ways)), target)
        return next(iter(ways.values()))


def _named(size: int | None) -> str:
    return "auto" if size is None else str(size)
