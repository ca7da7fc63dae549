"""VP9 of 10 bits a colour (profile 2) in .webm keeps them, in and out.

The clip beside this file is by FFmpeg's libvpx-vp9 with yuv420p10le, which not each build has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vramx
from vramx import VideoOptions

av = pytest.importorskip("av")

from vramx.pipelines.video import SegmentFrames, transform_video  # noqa: E402

CLIP = Path(__file__).with_name("vp9_of_10_bits.webm")
FAST = {"deadline": "realtime", "cpu-used": "8"}
HAS_10_BITS = "yuv420p10le" in [
    each.name for each in av.Codec("libvpx-vp9", "w").video_formats or ()
]


def same(frames: SegmentFrames) -> Iterator[Any]:
    for frame in frames:
        assert frame.dtype == np.uint16
        yield frame


def planes(path: Path) -> tuple[str, str, Any]:
    """Profile, pixel format, and luma of all frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [frame.to_ndarray()[: frame.height] for frame in container.decode(stream)]
        context = stream.codec_context
        return str(context.profile), context.pix_fmt, np.stack(shown).astype(int)


def test_frames_keep_their_bits_and_values(tmp_path: Path) -> None:
    profile, pixels, before = planes(CLIP)
    assert (profile, pixels, len(before)) == ("Profile 2", "yuv420p10le", 5)
    assert (before % 4).any()  # which 8 bits would not hold
    transform_video(
        CLIP, out := tmp_path / "out.mkv", same, identity={}, options=VideoOptions(codec="ffv1")
    )
    _, pixels, after = planes(out)
    assert pixels == "yuv420p10le"
    assert np.abs(after - before).mean() / 4 <= 0.2  # of 255


@pytest.mark.skipif(not HAS_10_BITS, reason="the libvpx-vp9 here has 8 bits alone")
def test_vp9_is_written_in_10_bits(tmp_path: Path) -> None:
    options = VideoOptions(codec="libvpx-vp9", codec_options={**FAST, "lossless": "1"})
    out = tmp_path / "out.webm"
    transform_video(CLIP, out, same, identity={}, options=options)
    profile, pixels, after = planes(out)
    assert (profile, pixels) == ("Profile 2", "yuv420p10le")
    assert np.abs(after - planes(CLIP)[2]).mean() / 4 <= 0.2


@pytest.mark.skipif(HAS_10_BITS, reason="the libvpx-vp9 here has 10 bits")
def test_an_encoder_of_8_bits_is_refused_unless_they_are_asked_for(tmp_path: Path) -> None:
    options = VideoOptions(codec="libvpx-vp9", codec_options=FAST)
    with pytest.raises(vramx.ConfigError, match=r"has no pixel format that holds .* without loss"):
        transform_video(CLIP, tmp_path / "out.webm", same, identity={}, options=options)
    options = replace(options, pix_fmt="yuv420p")
    transform_video(CLIP, out := tmp_path / "out.webm", same, identity={}, options=options)
    profile, pixels, after = planes(out)
    assert (profile, pixels) == ("Profile 0", "yuv420p")
    assert np.abs(after - planes(CLIP)[2] / 4).mean() <= 2
