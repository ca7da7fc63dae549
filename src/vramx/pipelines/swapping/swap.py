"""Swapping faces in pictures and videos with a chain of models in one budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramx.errors import MediaError
from vramx.pipelines.files import check_paths, same_size
from vramx.pipelines.images import is_picture
from vramx.pipelines.options import PictureOptions, VideoOptions
from vramx.pipelines.swapping.face_chain import FaceChain
from vramx.pipelines.swapping.frame import Frame, SwappedFile, SwapResult, total
from vramx.pipelines.swapping.people import Someone
from vramx.progress import Meter, OnProgress
from vramx.stopping import Stop

if TYPE_CHECKING:
    from vramx.pipelines.folders import FolderResult, PictureChange
    from vramx.pipelines.swapping.thumbnails import Thumbnail
    from vramx.pipelines.video import Counted, SegmentFrames, VideoChange


class FaceSwap(FaceChain):
    """Swaps faces. Made by `vramx.face_swap`; a context manager."""

    def __call__(self, source: Any, target: Any) -> Any:
        """Put a face into a picture, or into each of an iterable of pictures.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray, torch.Tensor or list of them
            A picture of the face, or a file with one; of several faces the largest is taken. Or
            its embedding, of one axis. Of a list each goes to the faces that resemble the reference
            in its place; without references they go to a picture's faces from left to right, of
            which further ones stay as they are.
        target : PIL.Image.Image, numpy.ndarray, torch.Tensor, or iterable of them
            What `vramx.super_resolution` takes.

        Returns
        -------
        same type as the target, or iterator
            What is given an iterable is an iterator that reads as it is read, at most a batch
            ahead. Pixels that no face's mask covers are the same, to the bit but for floats of
            64 bits, which pass as 32.

        Raises
        ------
        NoFaceError
            If there is no face in the source; with ``on_no_face="error"`` also if there is none to
            swap in the target, with its number if it is one of several.
        ConfigError
            If something is no picture, or a model gives what it must not.
        MediaError
            If the source's file cannot be read.
        OutOfMemoryError
            If a model does not fit with one picture.
        """
        faces = self._sources(source)
        if not is_picture(target) and isinstance(target, Iterable) and not isinstance(target, str):
            made = self._run(faces, target, lambda number: f"frame {number}")
        else:
            made = self._run(faces, [target], lambda _: "the target")
            return next(made)[0]
        return (picture for picture, _ in made)

    # Files

    def swap_picture(
        self,
        source: Any,
        target: str | Path,
        out: str | Path,
        options: PictureOptions = PictureOptions(),
        *,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
    ) -> SwapResult:
        """Put a face into a picture in a file.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            The face, as when calling.
        target : str or Path
            What to read: what `SuperResolution.enlarge_picture` reads.
        out : str or Path
            What to write; the suffix chooses the format. It is there whole or not at all. What is
            beside the pixels is kept as there.
        options : PictureOptions
            How `out` is written.
        overwrite : bool
            Whether `out` may exist.
        on_progress : callable, optional
            Is told of its frames as a `vramx.Progress`.

        Returns
        -------
        SwapResult
            What was done.

        Raises
        ------
        MediaError
            If a file cannot be read or written.
        NoFaceError, ConfigError, OutOfMemoryError
            As when calling.
        """
        from vramx.pipelines.pictures import count_frames, writable_format

        target, out = Path(target), Path(out)
        check_out(source, target, out, overwrite=overwrite)
        writable_format(out, options.format)
        faces = self._sources(source)
        frames = 1 if on_progress is None else count_frames(target)
        meter = Meter(on_progress, target.name, "frame", frames)
        done = self._swap_picture(faces, target, out, options, overwrite=overwrite, meter=meter)
        meter.finish()
        return done

    def _swap_picture(
        self,
        faces: list[Someone],
        target: Path,
        out: Path,
        options: PictureOptions,
        *,
        overwrite: bool,
        meter: Meter | None = None,
    ) -> SwapResult:
        from vramx.pipelines.pictures import change_picture

        done: list[Frame] = []

        def swap(pixels: Any, put: Callable[[Any], None]) -> None:
            made, frames = next(self._run(faces, [pixels], lambda _: str(target)))
            done.extend(frames)
            put(made)
            if meter is not None:
                meter.add(1)

        change_picture(target, out, swap, options=options, overwrite=overwrite)
        return total(done)

    def swap_video(
        self,
        source: Any,
        target: str | Path,
        out: str | Path,
        options: VideoOptions = VideoOptions(),
        *,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
        stop: Stop | None = None,
    ) -> SwapResult:
        """Put a face into a video in a file; see `vramx.pipelines.video.transform_video`.

        Times of frames are kept; sound, subtitles and chapters are copied. When the job is stopped,
        by an interrupt or a full disk, the same call goes on with what is finished, and
        the result is the same as without the stop. What a callable does is not known: give another
        `out` after changing one.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            The face, as when calling.
        target, out : str or Path
            What to read, and what to write: .mp4, .m4v, .mov, or .mkv and .webm, which keep times
            to the millisecond. Finished segments gather in ``OUT.parts``.
        options : VideoOptions
            How the video is read and written.
        overwrite, on_progress, stop
            As of `transform_video`.

        Returns
        -------
        SwapResult
            What was done, before a stop included.

        Raises
        ------
        MediaError
            If a file cannot be read or written, is truncated or has no video, or the work folder
            holds another job. Finished segments stay.
        ConfigError
            If there is no such codec, option or pixel format, or a model gives what it must not.
        StoppedError
            If it was asked to stop. Finished segments stay.
        NoFaceError, OutOfMemoryError
            As when calling. Finished segments stay.
        """
        from vramx.pipelines.video import transform_video

        target, out = Path(target), Path(out)
        check_out(source, target, out, overwrite=overwrite)
        done = transform_video(
            target,
            out,
            options=options,
            **self.video_change(source, target)._asdict(),
            overwrite=overwrite,
            on_progress=on_progress,
            stop=stop,
        )
        return SwapResult(**done.counts, lost=len(done.lost))

    def video_change(self, source: Any, target: Path) -> VideoChange:
        """Return what becomes of a video's frames, for whoever makes the video.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            The face, as when calling.
        target : Path
            The video that is read, for messages.

        Returns
        -------
        VideoChange
            As `transform_video` takes it.

        Raises
        ------
        NoFaceError, ConfigError, MediaError
            As when calling, of the source.
        """
        from vramx.pipelines.video import Counted, VideoChange

        faces = self._sources(source)

        def swap(frames: SegmentFrames) -> Iterator[Counted]:
            def name(number: int) -> str:
                return f"{target}, frame {frames.first + number}"

            for picture, (frame,) in self._run(faces, frames, name):
                yield Counted(picture, frame.counts)

        return VideoChange(swap, self._identity(faces), same_size)

    def preview_video(
        self,
        source: Any,
        target: str | Path,
        out: str | Path,
        options: VideoOptions = VideoOptions(),
        *,
        overwrite: bool = False,
    ) -> SwapResult:
        """Put a face into one frame of a video, and write a picture of 8 bits a colour.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            The face, as when calling.
        target, out : str or Path
            The video, and the picture; its suffix chooses the format.
        options : VideoOptions
            Of which `start` and `deinterlace` count; without a start it is a frame from the middle.
        overwrite : bool
            Whether `out` may exist.

        Returns
        -------
        SwapResult
            What was done.

        Raises
        ------
        MediaError
            If a file cannot be read or written.
        NoFaceError, ConfigError, OutOfMemoryError
            As `swap_video`.
        """
        from vramx.pipelines.pictures import writable_format
        from vramx.pipelines.video.preview import read_frame, write_preview

        target, out = Path(target), Path(out)
        check_out(source, target, out, overwrite=overwrite)
        writable_format(out)
        faces = self._sources(source)
        frame = read_frame(target, options)
        picture, frames = next(self._run(faces, [frame], lambda _: str(target)))
        write_preview(picture, out)
        return total(frames)

    def swap_folder(
        self,
        source: Any,
        target: str | Path,
        out: str | Path,
        options: PictureOptions = PictureOptions(),
        *,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
        stop: Stop | None = None,
    ) -> FolderResult[SwappedFile]:
        """Put a face into the pictures of a folder, and write them to another folder.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray, torch.Tensor or list of them
            The face, as when calling.
        target, out : str or Path
            The folders; `out` is made if need be. Names stay the same, unless a format is
            asked for.
        options : PictureOptions
            How pictures are written.
        overwrite : bool
            Whether to make anew what is in `out` already, which is skipped otherwise.
        on_progress, stop
            As of `change_folder`.

        Returns
        -------
        FolderResult
            What was made, skipped and passed by; and what failed, which keeps no other picture from
            being made.

        Raises
        ------
        MediaError
            If there are no pictures, or `out` is the other folder or cannot be made.
        NoFaceError, ConfigError
            If there is no face in the source.
        StoppedError
            If it was asked to stop, between two pictures.
        """
        from vramx.pipelines.folders import change_folder

        return change_folder(
            self.picture_change(source, overwrite=overwrite).make,
            Path(target),
            Path(out),
            options,
            overwrite=overwrite,
            on_progress=on_progress,
            stop=stop,
        )

    def picture_change(self, source: Any, *, overwrite: bool) -> PictureChange[SwappedFile]:
        """Return what becomes of pictures, for whoever makes them.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            The face, as when calling.
        overwrite : bool
            Whether targets may exist.

        Returns
        -------
        PictureChange
            As `change_folder` takes it.

        Raises
        ------
        NoFaceError, ConfigError, MediaError
            As when calling, of the source.
        """
        from vramx.pipelines.folders import PictureChange

        faces = self._sources(source)

        def swap(picture: Path, place: Path, how: PictureOptions) -> SwappedFile:
            check_out(source, picture, place, overwrite=overwrite)
            done = self._swap_picture(faces, picture, place, how, overwrite=overwrite)
            return SwappedFile(place, done)

        return PictureChange(swap, self._identity(faces))

    def write_thumbnails(
        self,
        target: str | Path,
        folder: str | Path,
        *,
        on_progress: OnProgress | None = None,
        stop: Stop | None = None,
    ) -> list[Thumbnail]:
        """Write a picture of each person in a picture or a video, such as for `reference`.

        Parameters
        ----------
        target : str or Path
            The picture or video.
        folder : str or Path
            Where pictures are written, named by the frame and the number of the face, from 0 at the
            left. Of faces that resemble each other, by `similarity`, it is the first.
        on_progress : callable, optional
            Is told of frames as a `vramx.Progress`.
        stop : Stop, optional
            Ends the search between two frames.

        Returns
        -------
        list of Thumbnail
            What was written.

        Raises
        ------
        MediaError
            If the file cannot be read, or a thumbnail not be written or exists.
        StoppedError
            If it was asked to stop. Thumbnails that are written stay.
        """
        from vramx.pipelines.pictures import is_picture_file, load_picture
        from vramx.pipelines.swapping.thumbnails import write_thumbnails
        from vramx.pipelines.video import VideoSource

        target = Path(target)
        if not target.is_file():
            raise MediaError(f"{target} is not a file")
        pictures: Iterable[Any]
        count: int | None
        if is_picture_file(target):
            pictures, count = [load_picture(target).pixels], 1
        else:
            video = VideoSource(target)
            pictures, count = (pixels for _, pixels in video.frames()), video.frame_count
        meter = Meter(on_progress, target.name, "frame", count)
        found = self._run([], pictures, lambda number: f"{target}, frame {number}")
        frames = (frame for _, (frame,) in found)
        similarity = self._options.similarity
        return write_thumbnails(target, frames, Path(folder), similarity, meter, stop or Stop())

    def _identity(self, faces: list[Someone]) -> dict[str, str]:
        """Describe what the results depend on."""
        reference = ", ".join(each.digest for each in self._references) or "none"
        choice = self._given_choice
        return {
            **{each.role: each.identity(self.session) for each in self._stages.networks},
            "face": ", ".join(each.digest for each in faces),
            "faces": f"{choice.faces}, like {reference} by {choice.similarity:g}",
            "score": f"{self._options.score:g}",
            "feather": f"{self._options.feather:g}",
            "batch": str(self._chain.batch),
        }


def check_out(source: Any, target: Path, out: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot or must not be written, or that is a picture of the face.

    Raises
    ------
    MediaError
        As `check_paths`.
    """
    check_paths(target, out, overwrite=overwrite)
    for each in source if isinstance(source, (list, tuple)) else [source]:
        if isinstance(each, (str, Path)) and out.exists() and out.samefile(each):
            raise MediaError(f"{out} is the picture of the face to put in: name another file")
