"""The clips of which `docs/files.md` has a table, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vramx.pipelines.video.scheduling import kept_scheduling

from .clips import moving_times, picture

FRAMES = 5
#: Candelas a square metre and chromaticities of a usual HDR10 display, as x265 wants them.
DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
#: Matrix, primaries and transfer, by FFmpeg's numbers.
COLOURS = {
    "": (2, 2, 2),
    "BT.709": (1, 1, 1),
    "PQ": (9, 9, 16),
    "HLG": (9, 9, 18),
    "DCI-P3": (2, 11, 2),
}
QUIET = {"x265-params": "log-level=none:lossless=1"}
LOSSLESS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"qp": "0"},
    "libx265": QUIET,
    "libvpx-vp9": {"lossless": "1", "deadline": "realtime", "cpu-used": "8"},
    "ffv1": {},
}


@dataclass(frozen=True)
class Tried:
    """A clip, and what it goes to."""

    source: str
    codec: str
    pixels: str
    target: str
    made: str
    kept: str  # the target's pixel format
    full: bool = False
    timing: str = "even"
    metadata: str = ""
    sound: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    made_options: Mapping[str, str] | None = None
    error: float = 0.2  # of 255, on average

    @property
    def row(self) -> str:
        """Its line in the table."""
        beside = ", ".join(filter(None, [self.timing, self.metadata, self.sound]))
        scale = "full" if self.full else "limited"
        return (
            f"| {self.source} | {self.codec} | {self.pixels}, {scale} | {beside} "
            f"| {self.target} | {self.made} | {self.kept} |"
        )

    @property
    def times(self) -> list[int]:
        """When frames are shown, in units of `clock`."""
        if self.timing == "uneven":
            return moving_times(FRAMES)
        late = self.clock * 5 if self.timing == "late" else 0
        step = 1001 if self.timing == "29.97" else self.clock // 25
        return [late + step * number for number in range(FRAMES)]

    @property
    def clock(self) -> int:
        """Units a second."""
        return {"1/600 s": 600, "29.97": 30000}.get(self.timing, 12800)

    def write(self, folder: Path) -> Path:
        """Make the clip."""
        import av

        path = folder / f"in{self.source}"
        is_mov = self.source in (".mp4", ".mov")
        scale = {"video_track_timescale": str(self.clock)} if is_mov else {}
        with av.open(str(path), "w", container_options=scale) as container:
            container.metadata["title"] = "a clip"
            stream = container.add_stream(self.codec, rate=25, options=self._coding())
            stream.height, stream.width, stream.pix_fmt = *self._draw(0).shape[:2], self.pixels
            context = stream.codec_context
            context.thread_count = 1
            stream.time_base = context.time_base = Fraction(1, self.clock)
            context.color_range = 2 if self.full else 1
            matrix, primaries, transfer = COLOURS[self._colours]
            context.colorspace = 0 if self.pixels.startswith("gbr") else matrix
            context.color_primaries, context.color_trc = primaries, transfer
            if self.metadata == "oblong pixels":
                context.sample_aspect_ratio = Fraction(4, 3)
            if self.metadata == "turned":
                stream.set_display_rotation(90)
            with kept_scheduling():
                context.open()
            sound = container.add_stream(self.sound, rate=48000, layout="mono") if self.sound else 0
            for number, time in enumerate(self.times):
                given = av.VideoFrame.from_ndarray(self._draw(number), format="rgb48le")
                frame = given.reformat(
                    format=self.pixels,
                    dst_colorspace=5 if matrix == 2 else matrix,
                    src_color_range=2,
                    dst_color_range=2 if self.full else 1,
                )
                frame.color_primaries, frame.color_trc = primaries, transfer
                frame.pts, frame.time_base = time, Fraction(1, self.clock)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound:
                _write_tone(container, sound, self.times[-1] / self.clock)
        return path

    @property
    def _colours(self) -> str:
        return {"HDR10": "PQ"}.get(self.metadata, self.metadata if self.metadata in COLOURS else "")

    def _coding(self) -> dict[str, str]:
        options = {**LOSSLESS.get(self.codec, {}), **self.options}
        if self.metadata == "HDR10" and self.codec == "libx265":
            options["x265-params"] += f":master-display={DISPLAY}:max-cll=1000,400"
        if self.metadata == "HDR10" and self.codec == "libx264":
            options["x264-params"] = f"mastering-display={DISPLAY}:cll=1000,400"
        return options

    def _draw(self, number: int) -> np.ndarray[Any, Any]:
        odd = self.metadata == "odd size"
        height, width = (47, 63) if odd else (48, 64)
        drawn = picture(number, height + 7, width + 7).astype(float) * 257
        # As smooth as pictures of usual sizes: 4:2:0 is no loss to what was 4:2:0 before.
        for axis, side in enumerate((height, width)):
            drawn = np.mean([drawn.take(range(n, n + side), axis) for n in range(8)], axis=0)
        return np.rint(drawn).astype(np.uint16)


def _write_tone(container: Any, sound: Any, seconds: float) -> None:
    import av

    for start in range(0, int(48000 * seconds) + 4800, 960):
        wave = (np.sin(np.arange(start, start + 960) * 0.1) * 20000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def T(*args: Any, **more: Any) -> Tried:  # noqa: N802 - it stands in a table
    """Make a row of the table."""
    return Tried(*args, **more)


_X264, _X265, _VP9, _AV1 = "libx264", "libx265", "libvpx-vp9", "libsvtav1"
_FINE = {"crf": "1", "preset": "10"}

TRIED = [
    T(".mp4", _X264, "yuv420p", ".mp4", _X264, "yuv420p", sound="aac"),
    T(".mp4", _X264, "yuv420p", ".mkv", _X265, "yuv420p", timing="uneven", sound="aac"),
    T(".mp4", _X264, "yuv422p", ".mp4", _X264, "yuv422p"),
    T(".mp4", _X264, "yuv444p", ".mov", _X264, "yuv444p", timing="1/600 s"),
    T(".mp4", _X264, "yuv420p10le", ".mkv", "ffv1", "yuv420p10le", sound="aac"),
    T(".mp4", _X264, "yuv422p10le", ".mp4", _X265, "yuv422p10le", metadata="BT.709"),
    T(".mp4", _X264, "yuv444p10le", ".mp4", _X265, "yuv444p10le"),
    T(".mp4", _X264, "yuv420p", ".mp4", _X264, "yuv420p", full=True),
    T(".mp4", _X264, "yuv420p10le", ".mp4", _X265, "yuv420p10le", full=True),
    T(".mp4", _X265, "yuv420p", ".mp4", _X265, "yuv420p", timing="29.97"),
    T(".mp4", _X265, "yuv420p10le", ".mp4", _X265, "yuv420p10le", metadata="HDR10", sound="aac"),
    T(".mkv", _X265, "yuv420p10le", ".mkv", _X265, "yuv420p10le", metadata="HDR10"),
    T(".mp4", _X265, "yuv420p10le", ".mp4", _X264, "yuv420p10le", metadata="HDR10",
      made_options={"crf": "1"}, error=0.5),
    T(".mp4", _X265, "yuv420p10le", ".mp4", _AV1, "yuv420p10le", metadata="HDR10",
      made_options=_FINE, error=1),
    T(".mp4", _X265, "yuv420p10le", ".mp4", _X265, "yuv420p10le", metadata="HLG"),
    T(".mp4", _X265, "yuv422p12le", ".mp4", _X265, "yuv422p12le"),
    T(".mp4", _X265, "yuv444p12le", ".mkv", "ffv1", "yuv444p12le"),
    T(".mov", "prores_ks", "yuv422p10le", ".mov", "prores_ks", "yuv422p10le",
      metadata="BT.709", sound="pcm_s16le", error=0.5),
    T(".mov", "prores_ks", "yuv422p10le", ".mp4", _X265, "yuv422p10le"),
    T(".mov", "prores_ks", "yuv444p10le", ".mkv", "ffv1", "yuv444p12le"),
    T(".mov", "prores_ks", "yuv422p10le", ".mkv", "ffv1", "yuv422p10le", metadata="HLG"),
    T(".mov", "mjpeg", "yuvj420p", ".mp4", _X264, "yuv420p", full=True),
    T(".mov", "mjpeg", "yuvj422p", ".mkv", "ffv1", "yuv422p", full=True),
    T(".avi", "mjpeg", "yuvj444p", ".mkv", _X265, "yuv444p", full=True),
    T(".avi", "mpeg4", "yuv420p", ".mp4", _X264, "yuv420p", options={"qmin": "1", "qmax": "1"}),
    T(".avi", "huffyuv", "yuv422p", ".mkv", "ffv1", "yuv422p"),
    T(".avi", "utvideo", "yuv444p", ".mp4", _X264, "yuv444p", sound="pcm_s16le"),
    T(".mkv", "ffv1", "yuv420p", ".mkv", "ffv1", "yuv420p", sound="flac"),
    T(".mkv", "ffv1", "yuv420p", ".mkv", "ffv1", "yuv444p", metadata="odd size", error=0.5),
    T(".mkv", "ffv1", "yuv420p", ".mkv", "ffv1", "yuv420p", metadata="DCI-P3", full=True),
    T(".mkv", "ffv1", "yuv411p", ".mkv", "ffv1", "yuv411p"),
    T(".mkv", "ffv1", "yuv420p16le", ".mkv", "ffv1", "yuv420p16le"),
    T(".mkv", "ffv1", "yuv444p16le", ".mkv", "ffv1", "yuv444p16le", full=True),
    T(".mkv", "ffv1", "gbrp10le", ".mkv", "ffv1", "gbrp10le", full=True),
    T(".mkv", "ffv1", "gbrp12le", ".mp4", _X265, "gbrp12le", full=True),
    T(".mkv", "ffv1", "gray10le", ".mp4", _X265, "yuv420p10le"),
    T(".mkv", _X264, "yuv420p", ".mp4", _X264, "yuv420p", timing="uneven", sound="aac"),
    T(".mkv", _X264, "yuv420p", ".mkv", _X264, "yuv420p", timing="late", sound="aac"),
    T(".webm", _VP9, "yuv420p", ".webm", _VP9, "yuv420p", sound="libopus"),
    T(".webm", _VP9, "yuv422p", ".mkv", _VP9, "yuv422p"),
    T(".webm", _VP9, "yuv444p", ".mp4", _VP9, "yuv444p", full=True),
    T(".webm", _AV1, "yuv420p10le", ".mkv", "ffv1", "yuv420p10le", metadata="HLG",
      options=_FINE),
    T(".mp4", _AV1, "yuv420p", ".mp4", _X264, "yuv420p", options=_FINE, sound="libopus"),
    T(".mp4", _X264, "yuv420p", ".mp4", _X264, "yuv420p", metadata="oblong pixels"),
    T(".mp4", _X264, "yuv422p", ".mov", _X264, "yuv444p", metadata="turned"),
    T(".ts", _X264, "yuv420p", ".mp4", _X264, "yuv420p", sound="aac"),
]  # fmt: skip
