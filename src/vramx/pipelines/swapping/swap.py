"""Swapping faces in pictures and videos with a chain of models in one budget."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vramx.errors import ConfigError, MediaError, NoFaceError
from vramx.pipelines.chain import Pipeline, as_count
from vramx.pipelines.files import check_paths
from vramx.pipelines.images import ON_CPU, Home, Planes, is_picture, to_planes
from vramx.pipelines.networks import device_of, evaluating
from vramx.pipelines.swapping.found import Choice, Embedding, Face, normalised
from vramx.pipelines.swapping.frame import Frame, SwapResult, from_pixels, total
from vramx.pipelines.swapping.stages import FaceStages
from vramx.session import Session

if TYPE_CHECKING:
    from vramx.pipelines.video import Counted, SegmentFrames


#: What a picture takes where faces are put into it, for each pixel: three colours as float32, those
#: before the change, a piece on its way and the bytes that it was and becomes.
_BYTES_A_PIXEL = 64


class _Someone(NamedTuple):
    """A face to put in or to look for, and a digest of what it was given as."""

    embedding: Embedding
    digest: str


class FaceSwap:
    """Swaps faces. Made by `vramx.face_swap`; a context manager."""

    def __init__(
        self,
        *,
        detector: Any,
        recognizer: Any,
        swapper: Any,
        enhancer: Any,
        faces: str,
        reference: Any,
        similarity: float,
        score: float,
        on_no_face: str,
        feather: float,
        batch: int,
        session: Session | None,
        options: Mapping[str, Any],
    ) -> None:
        self._given_choice = Choice(faces, similarity)
        self._given_reference = reference
        self._reference: _Someone | None = None
        self._score = score
        self._feather = feather
        self._stages = FaceStages(
            detector,
            recognizer,
            swapper,
            enhancer,
            choice=self._given_choice,
            score=score,
            on_no_face=on_no_face,
            feather=feather,
            batch=as_count(batch, "batch"),
        )
        stages = self._stages.stages()
        self._chain = Pipeline(stages, session=session, batch=batch, options=options)
        self._scope = contextlib.ExitStack()
        self._home = ON_CPU

    @property
    def session(self) -> Session:
        """The session in which the models are."""
        return self._chain.session

    def __enter__(self) -> FaceSwap:
        self._chain.__enter__()
        try:
            budget = self.session.stats().budget or 0
            self._home = Home(device_of(self.session), budget // _BYTES_A_PIXEL)
            for network in self._stages.networks:
                self._scope.enter_context(evaluating(*network.modules))
                network.enter(self._chain.session)
            if self._given_reference is not None:
                self._reference = self._someone(self._given_reference, "the reference")
                self._stages.choice = dataclasses.replace(
                    self._given_choice, reference=self._reference.embedding
                )
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stages.choice, self._reference = self._given_choice, None
        self._scope.close()
        self._chain.__exit__(kind, error, trace)

    # Pictures

    def find(self, picture: Any) -> list[Face]:
        """Find the faces in a picture.

        Parameters
        ----------
        picture : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            A picture, or a file with one.

        Returns
        -------
        list of Face
            With embeddings, which may serve as a source or a reference; the largest first.

        Raises
        ------
        MediaError
            If the file cannot be read.
        ConfigError
            If it is not one picture.
        """
        return self._find(_one_picture(picture, self._home), "the picture")

    def _find(self, planes: Planes, name: str) -> list[Face]:
        frame: Frame = self._chain(Frame(name, planes.colour[0].expand(3, -1, -1), None))
        return frame.faces

    def _someone(self, given: Any, what: str) -> _Someone:
        if isinstance(given, (torch.Tensor, np.ndarray)) and given.ndim == 1:
            values = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
            embedding = normalised(values, what)
            return _Someone(embedding, hashlib.sha256(embedding.tobytes()).hexdigest())
        planes = _one_picture(given, self._home)
        name = f"{what} {given}" if isinstance(given, (str, Path)) else what
        faces = self._find(planes, name)
        if not faces or faces[0].embedding is None:
            raise NoFaceError(
                f"{name} shows no face with a score of {self._score:g} or more: give a picture "
                "that does, an embedding, or a lower score"
            )
        digest = hashlib.sha256(planes.colour.contiguous().cpu().numpy().tobytes()).hexdigest()
        return _Someone(faces[0].embedding, digest)

    def __call__(self, source: Any, target: Any) -> Any:
        """Put a face into a picture, or into each of an iterable of pictures.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            A picture of the face, or a file with one; of several faces the largest is taken. Or
            its embedding, of one axis.
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
        face = self._someone(source, "the source")
        if not is_picture(target) and isinstance(target, Iterable) and not isinstance(target, str):
            made = self._run(face, target, lambda number: f"frame {number}")
        else:
            made = self._run(face, [target], lambda _: "the target")
            return next(made)[0]
        return (picture for picture, _ in made)

    def _run(
        self, face: _Someone, pictures: Iterable[Any], name: Callable[[int], str]
    ) -> Iterator[tuple[Any, list[Frame]]]:
        """Swap in pictures; each comes back with the frames that it was, one but for batches."""
        waiting: deque[Planes] = deque()

        def frames() -> Iterator[Frame]:
            number = 0
            for picture in pictures:
                planes = to_planes(picture, self._home)
                waiting.append(planes)
                for colour in planes.colour:
                    yield Frame(name(number), colour.expand(3, -1, -1), face.embedding)
                    number += 1

        done: list[Frame] = []
        for frame in self._chain.run(frames()):
            done.append(frame)
            if len(done) == len(waiting[0].colour):
                yield from_pixels(done, waiting.popleft()), done
                done = []

    # Files

    def swap_picture(
        self,
        source: Any,
        target: str | Path,
        out: str | Path,
        *,
        quality: int | None = None,
        format: str | None = None,  # noqa: A002 - the command's word for it
        overwrite: bool = False,
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
        quality, format : optional
            As there.
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
            As when calling.
        """
        from vramx.pipelines.pictures import change_picture, writable_format

        target, out = Path(target), Path(out)
        _check_out(source, target, out, overwrite=overwrite)
        writable_format(out, format)
        face = self._someone(source, "the source")
        done: list[Frame] = []

        def swap(pixels: Any, put: Callable[[Any], None]) -> None:
            made, frames = next(self._run(face, [pixels], lambda _: str(target)))
            done.extend(frames)
            put(made)

        change_picture(target, out, swap, quality=quality, format=format)
        return total(done)

    def swap_video(
        self,
        source: Any,
        target: str | Path,
        out: str | Path,
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
            Whether `out` may exist.
        progress : bool
            Whether to show a bar on standard error.

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
            If there is no such codec, option or pixel format, `deinterlace` is neither, or a model
            gives what it must not.
        NoFaceError, OutOfMemoryError
            As when calling. Finished segments stay.
        """
        from vramx.pipelines.video import Counted, transform_video

        target, out = Path(target), Path(out)
        _check_out(source, target, out, overwrite=overwrite)
        face = self._someone(source, "the source")

        def swap(frames: SegmentFrames) -> Iterator[Counted]:
            def name(number: int) -> str:
                return f"{target}, frame {frames.first + number}"

            for picture, (frame,) in self._run(face, frames, name):
                yield Counted(picture, frame.counts)

        done = transform_video(
            target,
            out,
            swap,
            identity=self._identity(face),
            scale=1,
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
        )
        return SwapResult(**done.counts, lost=len(done.lost))

    def preview_video(
        self,
        source: Any,
        target: str | Path,
        out: str | Path,
        *,
        start: float | Fraction | str | None = None,
        deinterlace: str = "auto",
        overwrite: bool = False,
    ) -> SwapResult:
        """Put a face into one frame of a video, and write a picture of 8 bits a colour.

        Parameters
        ----------
        source : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            The face, as when calling.
        target, out : str or Path
            The video, and the picture; its suffix chooses the format.
        start, deinterlace
            As `swap_video`; without `start` it is a frame from the middle.
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
        _check_out(source, target, out, overwrite=overwrite)
        writable_format(out)
        face = self._someone(source, "the source")
        frame = read_frame(target, start, deinterlace)
        picture, frames = next(self._run(face, [frame], lambda _: str(target)))
        write_preview(picture, out)
        return total(frames)

    def _identity(self, face: _Someone) -> dict[str, str]:
        """Describe what the results depend on."""
        reference = "none" if self._reference is None else self._reference.digest
        choice = self._given_choice
        return {
            **{each.role: each.identity(self.session) for each in self._stages.networks},
            "face": face.digest,
            "faces": f"{choice.faces}, like {reference} by {choice.similarity:g}",
            "score": f"{self._score:g}",
            "feather": f"{self._feather:g}",
            "batch": str(self._chain.batch),
        }

    def report(self) -> str:
        """Describe the session and the stages for people.

        Returns
        -------
        str
            The session's report, then a line for each stage.
        """
        return self._chain.report()


def _one_picture(given: Any, home: Home) -> Planes:
    """Take the one picture that was given or is in a file."""
    if isinstance(given, (str, Path)):
        from vramx.pipelines.pictures import load_picture

        if not Path(given).is_file():
            raise MediaError(f"{given} is not a file")
        given = load_picture(Path(given)).pixels
    planes = to_planes(given, home)
    if len(planes.colour) != 1:
        raise ConfigError(f"one picture shows a face, but {len(planes.colour)} were given")
    return planes


def _check_out(source: Any, target: Path, out: Path, *, overwrite: bool) -> None:
    check_paths(target, out, overwrite=overwrite)
    if isinstance(source, (str, Path)) and out.exists() and out.samefile(source):
        raise MediaError(f"{out} is the picture of the face to put in: name another file")
