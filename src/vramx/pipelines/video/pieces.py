"""A video's segments one by one, for whichever process makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

from vramx.errors import ConfigError, MediaError
from vramx.pipelines.files import check_are_there
from vramx.pipelines.options import VideoOptions
from vramx.pipelines.span import Span
from vramx.pipelines.video.encoding import Encoding
from vramx.pipelines.video.index import read_index
from vramx.pipelines.video.manifest import Segment
from vramx.pipelines.video.running import Compute, Frame, Run
from vramx.pipelines.video.source import UnindexedError, VideoSource
from vramx.pipelines.video.work_folder import WorkFolder
from vramx.stopping import Stop


@dataclass(frozen=True)
class Piece:
    """A segment that is to be made.

    Attributes
    ----------
    source, folder : Path
        What to read, and where the segment is written.
    options : VideoOptions
        How the video is read and written.
    pix_fmt : str or None
        The pixel format, as of `Encoding`.
    keeps_range : bool
        Likewise.
    number : int
        The segment's number in the video, from 0.
    times : tuple of int
        When its frames are shown.
    key : int
        The place of a key frame from which on they can be decoded.
    end : Fraction or None
        When the frame after its last one is shown, in seconds from where the file begins; None
        where it ends with the video.
    """

    source: Path
    folder: Path
    options: VideoOptions
    pix_fmt: str | None
    keeps_range: bool
    number: int
    times: tuple[int, ...]
    key: int
    end: Fraction | None


def pieces_of(work: WorkFolder, encoding: Encoding, options: VideoOptions) -> list[Piece]:
    """Cut what is left of a video into pieces, by what its file says of its frames.

    Parameters
    ----------
    work : WorkFolder
        The segments that are finished.
    encoding : Encoding
        How segments are encoded, and what from.
    options : VideoOptions
        How the video is read and written.

    Returns
    -------
    list of Piece
        The segments that are not finished, in order.

    Raises
    ------
    ConfigError
        If damaged frames are to be skipped: how many there are is known by decoding alone.
    MediaError
        If the file cannot be read, does not say when each frame is shown, or does not have the
        frames that finished segments were made from.
    """
    source = encoding.source
    if options.on_corrupt == "skip":
        raise ConfigError(
            "on_corrupt='skip' takes one machine: which frames a segment has is known only once "
            "all before it are decoded. Leave it out, or use the local engine"
        )
    try:
        frames = read_index(source)
    except UnindexedError as error:
        raise MediaError(f"{error}: remux it to .mkv, or use the local engine") from error
    if not frames:
        raise MediaError(f"{source.path} has no frame that can be decoded")
    starts = range(0, len(frames), options.segment)
    left = []
    for number, start in enumerate(starts):
        own = frames[start : start + options.segment]
        times = tuple(each.pts for each in own)
        if number < len(work.segments) or number in work.ahead:
            there = work.segments[number] if number < len(work.segments) else work.ahead[number]
            if (there.frames, there.first, there.last) != (len(times), times[0], times[-1]):
                raise MediaError(
                    f"{source.path} does not have the frames that {work.path / there.file} was "
                    f"made from: delete {work.path} to begin anew"
                )
            continue
        after = frames[start + len(own)].pts if start + len(own) < len(frames) else None
        end = source.span.end if after is None else after * source.time_base - source.begin
        left.append(
            Piece(
                source.path,
                work.path,
                options,
                encoding.pix_fmt,
                encoding.keeps_range,
                number,
                times,
                own[0].key,
                end,
            )
        )
    return left


def make_piece(piece: Piece, compute: Compute, stop: Stop) -> Segment:
    """Make one segment: decode from the key frame before it, compute, and encode.

    Parameters
    ----------
    piece : Piece
        The segment.
    compute : callable
        As of `Run.through`.
    stop : Stop
        Ends it between two frames.

    Returns
    -------
    Segment
        What is to be noted of it; its file is in the folder.

    Raises
    ------
    Stopped
        If it was asked to stop.
    MediaError
        If a file cannot be read or written, or the source's frames are not those that the file
        says.
    """
    check_are_there(piece.source, piece.folder)
    options = piece.options
    source = VideoSource(piece.source, options.deinterlace, options.on_corrupt, options.span)
    encoding = Encoding(
        options.codec, options.codec_options, source, piece.pix_fmt, piece.keeps_range
    )
    made: list[Segment] = []
    Run(
        piece.folder,
        encoding,
        options.segment,
        piece.number,
        lambda: _frames(piece, source),
        made.append,
        lambda: None,
        stop,
    ).through(compute)
    return made[0]


def _frames(piece: Piece, source: VideoSource) -> Iterator[Frame]:
    """Decode a piece's frames: from its key frame, or where that does not do from the start."""
    count = 0
    try:
        for frame in _decoded(piece, source):
            if piece.times[count : count + 1] != (frame[0].pts,):
                break
            count += 1
            yield frame
        else:
            if count == len(piece.times):
                return
    except UnindexedError:  # deinterlacing takes the frames before too
        first = piece.number * piece.options.segment + count
        last = piece.number * piece.options.segment + len(piece.times)
        yield from islice(source.frames(), first, last)
        return
    raise MediaError(
        f"{piece.source} does not have the frames that it says, from frame "
        f"{piece.number * piece.options.segment + count} on: remux it, or use the local engine"
    )


def _decoded(piece: Piece, source: VideoSource) -> Iterator[Frame]:
    start = source.span.start
    if piece.number:
        start = piece.times[0] * source.time_base - source.begin
    part = source.part(Span(start, piece.end))
    return part.frames(at=piece.key if piece.number else None)
