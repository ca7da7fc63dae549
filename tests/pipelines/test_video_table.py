"""Videos as cameras make them go through a network that changes nothing as they are."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("skimage.data")

from vramx import VideoOptions  # noqa: E402
from vramx.pipelines.video import transform_video  # noqa: E402
from vramx.pipelines.video.light import light_of  # noqa: E402

from .clip_table import FRAMES, LOSSLESS, TRIED, Tried  # noqa: E402
from .clips import read_clip  # noqa: E402

_ADTS = 7
_DOCS = Path(__file__).parents[2] / "docs" / "files.md"
_WEIGHTS = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}


def same(frames: Any) -> Any:
    yield from frames


def colours(frame: Any) -> np.ndarray[Any, Any]:
    """Return a frame as RGB from 0 to 255, by the formulas of the standards."""
    kind = frame.format
    depth = kind.components[0].bits
    planes = []
    for plane in frame.planes:
        dtype = np.uint8 if depth == 8 else np.uint16
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        planes.append(rows.astype(float))
    largest = 2**depth - 1
    if kind.is_rgb:
        green, blue, red = (each / largest * 255 for each in planes)
        return np.stack((red, green, blue), -1)
    full = frame.color_range == 2 or kind.name.startswith("yuvj")
    step = 2 ** (depth - 8)
    y = planes[0] / largest if full else (planes[0] / step - 16) / 219
    if len(planes) == 1:
        return np.repeat(y[..., None] * 255, 3, -1)
    across, down = (-(-a // b) for a, b in zip(planes[0].shape, planes[1].shape, strict=True))
    cb, cr = (
        (each - 2 ** (depth - 1)) / largest if full else (each / step - 128) / 224
        for each in (p.repeat(across, 0).repeat(down, 1)[: y.shape[0], : y.shape[1]]
                     for p in planes[1:])
    )  # fmt: skip
    kr, kb = _WEIGHTS.get(frame.colorspace, (0.299, 0.114))
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack((red, green, blue), -1), 0, 1) * 255


def decoded(path: Path) -> tuple[list[Any], Any]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        said = (dict(container.metadata), stream.sample_aspect_ratio, stream.codec_context.pix_fmt)
        return [*container.decode(stream)], said


@pytest.mark.parametrize("tried", TRIED, ids=lambda each: each.row.strip("| "))
def test_what_cameras_make_comes_out_as_it_is(tmp_path: Path, tried: Tried) -> None:
    source = tried.write(tmp_path)
    target = tmp_path / f"out{tried.target}"
    options = LOSSLESS.get(tried.made, {}) if tried.made_options is None else tried.made_options
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transform_video(
            source,
            target,
            same,
            identity={},
            options=VideoOptions(codec=tried.made, codec_options=options),
        )
    before, after = decoded(source), decoded(target)
    first, made = before[0][0], after[0][0]
    assert len(before[0]) == FRAMES
    assert made.format.name.replace("yuvj", "yuv") == tried.kept

    turned = tried.metadata == "turned"
    errors = []
    for a, b in zip(before[0], after[0], strict=True):
        was, now = colours(a), colours(b)
        was = np.rot90(was, round(a.rotation / 90)) if turned else was
        # Where chroma is finer or turned, what a sample stands for is the mean of its pixels.
        if turned or a.format.chroma_width(64) != b.format.chroma_width(64):
            was, now = (
                (each[:46, :46].reshape(23, 2, 23, 2, 3).mean((1, 3))) for each in (was, now)
            )
        errors.append(np.abs(was - now).mean())
    print(f"error {np.mean(errors):.3f}")
    assert np.mean(errors) <= tried.error

    exact = Fraction(1, 1000) if {tried.source, tried.target} & {".mkv", ".webm"} else 0
    shift = after[0][0].pts * after[0][0].time_base - first.pts * first.time_base
    for a, b in zip(before[0], after[0], strict=True):
        assert abs(b.pts * b.time_base - a.pts * a.time_base - shift) <= 2 * exact

    for name in ("color_primaries", "color_trc"):
        assert getattr(made, name) == getattr(first, name)
    assert made.format.is_rgb or (made.color_range == 2) == tried.full
    assert light_of(first).lacks(light_of(made)) == []
    assert (light_of(first).display is not None) == (tried.metadata == "HDR10")
    assert after[1][0].get("title") == before[1][0].get("title")
    assert tried.source == ".ts" or before[1][0]["title"] == "a clip"
    oblong = tried.metadata == "oblong pixels"
    assert [said[1] or 1 for _, said in (before, after)] == [Fraction(4, 3) if oblong else 1] * 2
    sound = [[data for _, data in read_clip(path).audio] for path in (source, target)]
    headers = _ADTS if tried.source == ".ts" else 0  # which no other container has
    assert b"".join(data[headers:] for data in sound[0]) == b"".join(sound[1])
    assert bool(sound[0]) == bool(tried.sound)


def test_the_table_in_the_docs_is_what_is_tried() -> None:
    rows = [each.row for each in TRIED]
    text = _DOCS.read_text(encoding="utf-8").splitlines()
    first = text.index(rows[0])
    assert text[first : first + len(rows)] == rows
    assert not text[first + len(rows)].startswith("|")
