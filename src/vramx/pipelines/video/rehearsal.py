"""Trying an encoder and a target's container on a few frames, before any work."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging
import numpy as np

from vramx.errors import ConfigError, MediaError
from vramx.pipelines.video.beside import add_beside, kind_of
from vramx.pipelines.video.colours import is_full
from vramx.pipelines.video.encoding import Encoding
from vramx.pipelines.video.joining import add_pictures, container_format, open_target
from vramx.pipelines.video.light import light_of

#: Enough that an encoder that stores frames in another order does so.
_FRAMES, _SIZE = 12, 256
#: FFmpeg's numbers of no colours in particular.
_SAYS_NOTHING = (0, 2, 3)
#: What encoders say, by the way, of options inside ``x264-params`` and its like.
_PASSED_OVER = re.compile(r"error parsing option|unknown option|invalid (value|argument)", re.I)


def rehearse(target: Path, encoding: Encoding) -> Encoding:
    """See that the encoder takes its options and the target's format what it will hold.

    What subtitles, and what of the source's colours and light, have no place is told by a warning.

    Parameters
    ----------
    target : Path
        The file; it is not touched.
    encoding : Encoding
        How the video will be encoded.

    Returns
    -------
    Encoding
        The same; in limited range where the target cannot say that it is full.

    Raises
    ------
    ConfigError
        If the encoder cannot be used here, or passes over an option.
    MediaError
        If the format cannot hold the video or the source's audio.
    """
    name = container_format(target)
    segment = io.BytesIO()
    _encode(segment, encoding)
    segment.seek(0)
    with encoding.source.opened() as source, av.open(segment) as template:
        try:
            with open_target(io.BytesIO(), name) as container:
                add_pictures(template, encoding, container)
                beside = add_beside(encoding.source, source, container)
                container.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            sounds = [kind_of(each) for each in source.streams.audio]
            raise MediaError(
                f"{target} cannot hold {', '.join([encoding.codec, *sounds])} ({error}): try .mkv"
            ) from error
    if beside.subtitles_left:
        kinds = ", ".join(beside.subtitles_left)
        _warn(f"{target} has no subtitles, since {name} cannot hold {kinds}: try .mkv")
    if beside.left:
        _warn(f"{target} is without {', '.join(beside.left)}, which {name} cannot hold")
    if encoding.source.timecode_left:
        _warn(f"{target} has no time codes, since those of its source begin before its first frame")
    frame, context = _made(segment, name, encoding)
    lost = _lost(frame, context, encoding)
    if encoding.source.full_range and not (is_full(frame) or frame.format.is_rgb):
        encoding = replace(encoding, keeps_range=False)
        lost.append("its full range, which becomes limited")
    if lost:
        _warn(
            f"{target} does not say what {encoding.source.path} says, since {encoding.codec} in "
            f"{name} has no place for it: {', '.join(lost)}; 'libx265' has for most"
        )
    return encoding


def _made(segment: io.BytesIO, name: str, encoding: Encoding) -> tuple[Any, Any]:
    """Return a frame as it will be read from the target, and what decoded it."""
    segment.seek(0)
    made = io.BytesIO()
    with av.open(segment) as template, open_target(made, name) as container:
        stream = add_pictures(template, encoding, container)
        for packet in template.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    made.seek(0)
    with av.open(made) as container:
        return next(container.decode(video=0)), container.streams.video[0].codec_context


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=5)


def _lost(frame: Any, context: Any, encoding: Encoding) -> list[str]:
    """Tell what of the source's colours and light encoded frames do not say."""
    source = encoding.source
    lost = source.light.lacks(light_of(frame)) + source.beside_frames
    if source.color_primaries not in (context.color_primaries, *_SAYS_NOTHING):
        lost.append("its primaries")
    if source.color_trc not in (context.color_trc, *_SAYS_NOTHING):
        lost.append("its transfer")
    return lost


def _encode(file: io.BytesIO, encoding: Encoding) -> None:
    codec = encoding.codec
    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture(local=False) as said:
            shown, left = _encode_frames(file, encoding)
    except (av.error.FFmpegError, ValueError) as error:
        raise ConfigError(f"codec {codec!r} cannot be used here as asked: {error}") from error
    finally:
        av.logging.set_level(level)
    if left:
        raise ConfigError(
            f"codec {codec!r} has no option {', '.join(left)}; "
            f"`ffmpeg -h encoder={codec}` lists those that it has"
        )
    passed_over = [text.strip() for _, _, text in said if _PASSED_OVER.search(text)]
    if passed_over:
        raise ConfigError(f"codec {codec!r} passes over an option: {'; '.join(passed_over)}")
    if shown != sorted(shown) or len(shown) != _FRAMES:
        raise ConfigError(
            f"codec {codec!r} with these options stores frames in another order than they are "
            "shown, so that segments cannot be joined: leave out options such as bf and bframes"
        )


def _encode_frames(file: io.BytesIO, encoding: Encoding) -> tuple[list[int], list[str]]:
    """Return the times of frames in their order, and names of options that were not used."""
    source = encoding.source
    step = max(1, round(1 / (source.rate * source.time_base)))
    packets: list[Any] = []
    with av.open(file, "w", format=encoding.segment_format) as container:
        stream = encoding.add_stream(container, _SIZE, _SIZE)
        container.start_encoding()
        left = sorted(stream.codec_context.options)
        for number in range(_FRAMES):
            pixels = np.full((_SIZE, _SIZE, 3), 10 * number, source.dtype)
            frame = encoding.frame(pixels, stream)
            frame.pts, frame.time_base = number * step, source.time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        shown = [packet.pts for packet in packets]
        container.mux(packets)
    return shown, left
