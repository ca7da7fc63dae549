"""Short clips with real codecs, and reading them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vramx import VideoOptions

#: Units of a second in which clips tell times.
UNITS = 12800
#: x264's options where results are compared bit for bit. Its macroblock tree, as it is written for
#: AVX-512, depends on what memory held before: one in twenty equal runs of small frames differs,
#: also on one thread, and in what is decoded too.
X264 = {"crf": "10", "mbtree": "0"}


def moving_times(count: int) -> list[int]:
    """Times that change their pace, as those of phones do."""
    steps = [512, 640, 384, 512, 1024, 256]
    return [sum(steps[n % len(steps)] for n in range(number)) for number in range(count)]


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray[Any, Any]:
    """A frame that tells its number: a photograph that moves."""
    from skimage import data

    top = 40 + 3 * number
    return np.ascontiguousarray(data.astronaut()[top : top + height, 160 : 160 + width])


def write_clip(
    path: Path,
    count: int = 20,
    *,
    audio: bool = True,
    rotation: int = 0,
    format: str = "yuv420p",  # noqa: A002
    first: int = 0,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
    units: int = UNITS,
    aspect: Fraction | None = None,
    sound_codec: str = "aac",
    tail: float = 0,
    draw: Callable[[int], np.ndarray[Any, Any]] = picture,
) -> list[int]:
    """Write a clip with frames at moving times and a tone beside them; give the times back.

    The tone lasts `tail` seconds longer than the last frame's start.
    """
    import av

    times = [first + time for time in times or moving_times(count)]
    scale = {"video_track_timescale": str(units)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options=scale) as container:
        quality = {**X264, "crf": "12"} if codec == "libx264" else {}
        video = container.add_stream(codec, rate=25, options={**quality, **(options or {})})
        video.height, video.width = draw(0).shape[:2]
        video.pix_fmt = format
        video.codec_context.thread_count = 1
        video.time_base = video.codec_context.time_base = Fraction(1, units)
        video.codec_context.sample_aspect_ratio = aspect or Fraction(0, 1)
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream(sound_codec, rate=16000, layout="mono") if audio else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            frame = frame.reformat(format=format)
            frame.pts, frame.time_base = time, Fraction(1, units)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            length = int(16000 * (times[-1] / units + tail))
            for start in range(0, length, 1024):
                wave = np.sin(np.arange(start, start + 1024) * 0.1).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return times


class Clip(NamedTuple):
    """What is in a clip: frames as RGB, their times in seconds, packets of audio, metadata."""

    frames: list[np.ndarray[Any, Any]]
    times: list[Fraction]
    audio: list[tuple[Fraction, bytes]]


def read_clip(path: Path) -> Clip:
    """Decode the pictures of a clip; audio stays as it is."""
    import av

    with av.open(str(path)) as container:
        frames = [*container.decode(video=0)]
        pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
        times = [frame.pts * frame.time_base for frame in frames]
    audio = []
    with av.open(str(path)) as container:
        if container.streams.audio:
            for packet in container.demux(audio=0):
                if packet.pts is not None:
                    audio.append((packet.pts * packet.time_base, bytes(packet)))
    return Clip(pictures, times, audio)


def gathered(given: Mapping[str, Any]) -> dict[str, Any]:
    """Put what are fields of `VideoOptions` into one, as ``options``."""
    names = {each.name for each in fields(VideoOptions)}
    video = VideoOptions(**{name: value for name, value in given.items() if name in names})
    return {**{name: given[name] for name in given.keys() - names}, "options": video}
