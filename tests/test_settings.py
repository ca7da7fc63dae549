"""Settings are what they say they are, and the same after JSON."""

from __future__ import annotations

import json
import pickle
import string
from dataclasses import FrozenInstanceError, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vramx
from vramx import PictureOptions, VideoOptions
from vramx.pipelines.options import SwapOptions, UpscaleOptions
from vramx.settings import Settings
from vramx.tasks import (
    FaceModels,
    FaceModelSpec,
    FacesTask,
    SessionOptions,
    SwapTask,
    UpscalerSpec,
    UpscaleTask,
)

TEXT = st.text(string.printable, max_size=8)
COUNT = st.integers(1, 10**6)
PATH = st.text(string.ascii_letters + string.digits + "./ ", min_size=1, max_size=8).map(Path)
FLAG = st.booleans()
DTYPE = st.sampled_from(["half", "bf16", "float32"])


def maybe(strategy: Any) -> Any:
    return st.none() | strategy


START = maybe(st.fractions(0, 50) | st.floats(0, 50) | st.sampled_from(["3", "0:07.5", "9/8"]))
END = maybe(st.fractions(51, 90) | st.integers(51, 90) | st.just("00:01:20"))
VIDEO = st.builds(
    VideoOptions,
    codec=TEXT,
    codec_options=st.dictionaries(TEXT, TEXT, max_size=2),
    pix_fmt=maybe(TEXT),
    segment=COUNT,
    deinterlace=st.sampled_from(["auto", "off"]),
    on_corrupt=st.sampled_from(["error", "skip"]),
    start=START,
    end=END,
)
PICTURE = st.builds(PictureOptions, quality=maybe(st.integers(1, 100)), format=maybe(TEXT))
SIZES = st.fixed_dictionaries({"scale": st.floats(0.1, 8)}) | st.fixed_dictionaries(
    {"height": maybe(COUNT), "width": maybe(COUNT)}
)
UPSCALE = st.builds(
    lambda size, **rest: UpscaleOptions(**size, **rest),
    SIZES,
    tile=maybe(COUNT),
    overlap=maybe(st.integers(0, 99)),
    batch=maybe(COUNT),
    multiple=maybe(COUNT),
)
SWAP = st.builds(
    SwapOptions,
    faces=st.sampled_from(["all", "largest"]),
    similarity=st.floats(-1, 1),
    score=st.floats(0.01, 1),
    on_no_face=st.sampled_from(["pass", "error"]),
    feather=st.floats(0, 0.5),
    batch=COUNT,
)
SESSION = st.builds(
    SessionOptions,
    budget=maybe(COUNT | st.just("4GiB")),
    device=maybe(st.integers(0, 7) | st.sampled_from(["cuda", "cuda:3"])),
    backend=st.sampled_from(["auto", "mapped", "managed", "simulated"]),
    policy=st.sampled_from(["adaptive", "clairvoyant", "lru", "mru"]),
    block=st.just("1MiB"),
    reserve=COUNT | st.just("1GiB"),
    host_limit=maybe(COUNT),
    on_missing=st.sampled_from(["error", "cpu"]),
    on_unpinned=st.sampled_from(["error", "warn"]),
)
MODEL = st.builds(
    FaceModelSpec,
    TEXT,
    size=maybe(COUNT),
    template=maybe(COUNT),
    value_range=maybe(st.tuples(st.floats(-9, 0), st.floats(1, 9))),
    order=maybe(TEXT),
    classes=maybe(st.lists(COUNT, max_size=3).map(tuple)),
    dtype=maybe(DTYPE),
)
MODELS = st.builds(FaceModels, MODEL, MODEL, maybe(MODEL), maybe(MODEL), maybe(MODEL))
COMMON = {"overwrite": FLAG, "session": SESSION}
FILES = {"picture": PICTURE, "video": VIDEO, "preview": FLAG}
TASK = st.one_of(
    st.builds(
        UpscaleTask,
        source=PATH,
        target=PATH,
        model=st.builds(UpscalerSpec, TEXT, maybe(DTYPE), maybe(PATH)),
        upscale=UPSCALE,
        **FILES,
        **COMMON,
    ),
    st.builds(
        SwapTask,
        source=PATH | st.lists(PATH, max_size=3).map(tuple),
        target=PATH,
        out=PATH,
        models=MODELS,
        references=st.lists(PATH, max_size=3).map(tuple),
        swap=SWAP,
        **FILES,
        **COMMON,
    ),
    st.builds(FacesTask, target=PATH, folder=PATH, models=MODELS, swap=SWAP, **COMMON),
)


@given(TASK)
def test_a_task_is_the_same_after_json_and_after_pickling(task: Any) -> None:
    assert type(task).from_dict(json.loads(json.dumps(task.to_dict(), allow_nan=False))) == task
    assert pickle.loads(pickle.dumps(task)) == task
    assert hash(task) == hash(pickle.loads(pickle.dumps(task)))


def test_settings_stay_as_they_are() -> None:
    options = {"crf": "18"}
    video = VideoOptions(codec_options=options)
    options["crf"] = "0"
    assert video.codec_options == {"crf": "18"}
    with pytest.raises(FrozenInstanceError):
        video.codec = "ffv1"  # type: ignore[misc]


TASK_FIELDS = {
    "task": "UpscaleTask",
    "source": "a.png",
    "target": "b.png",
    "model": {"name": "x:y"},
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"overwrite": "yes"}, "overwrite 'yes' is not true or false"),
        ({"overwrite": 1}, "overwrite 1 is not true or false"),
        ({"source": 3}, "source 3 is not a path"),
        ({"video": {"segment": "9"}}, "^video: segment '9' is not a whole number"),
        ({"video": {"codec": None}}, "^video: codec None is not text"),
        ({"video": {"codec_options": {"crf": 1}}}, "is not a mapping of text to text"),
        ({"video": {"start": 9, "end": 3}}, "end 3.0 s is not after start 9.0 s"),
        ({"video": {"start": "1/0"}}, "start '1/0' is no time"),
        ({"video": {"speed": 2}}, "^video: VideoOptions has no speed; it has codec, "),
        ({"video": 5}, "video 5 is not VideoOptions"),
        ({"upscale": {"scale": 2, "width": 9}}, "^upscale: scale= says the size already"),
        ({"upscale": {"overlap": -1}}, "overlap -1 is not"),
        ({"upscale": {"tile": False}}, "tile False is not"),
        ({"picture": {"quality": 101}}, "from 1 to 100, not 101"),
        ({"session": {"budget": "much"}}, "^session: .*much"),
        ({"model": {"name": "x:y", "dtype": "int8"}}, "^model: dtype 'int8' is not one of half"),
        ({"model": {}}, "^model: UpscalerSpec lacks name"),
        ({"model": [1]}, r"model \[1\] is not UpscalerSpec"),
        ({"frames": 2}, "UpscaleTask has no frames"),
    ],
)
def test_a_field_that_is_not_allowed_is_told_by_its_name(fields: Any, message: str) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        UpscaleTask.from_dict({**TASK_FIELDS, **fields})


def test_what_is_left_out_is_told_and_what_is_no_mapping() -> None:
    with pytest.raises(vramx.ConfigError, match="UpscaleTask lacks target, model"):
        UpscaleTask.from_dict({"task": "UpscaleTask", "source": "a.png"})
    with pytest.raises(vramx.ConfigError, match="is not a mapping of UpscaleTask's fields"):
        UpscaleTask.from_dict([])  # type: ignore[arg-type]


@given(TASK, st.sampled_from([FacesTask, SwapTask, UpscaleTask]))
def test_a_task_says_which_it_is_and_is_read_as_no_other(task: Any, read_as: Any) -> None:
    written = task.to_dict()
    assert written["task"] == type(task).__name__
    if read_as is not type(task):
        with pytest.raises(vramx.ConfigError, match=f"task '{type(task).__name__}' is not"):
            read_as.from_dict(written)
    del written["task"]
    with pytest.raises(vramx.ConfigError, match="task None is not"):
        read_as.from_dict(written)


@dataclass(frozen=True)
class _Pair(Settings):
    pair: tuple[float, int] = (0.5, 1)
    part: Fraction | None = None


def test_lists_of_another_length_or_kind_are_refused() -> None:
    assert _Pair.from_dict({"pair": [1, 2]}) == _Pair((1.0, 2))
    for wrong in ([1], [1, 2, 3], [1, 2.5], ["1", 2], 3):
        with pytest.raises(vramx.ConfigError, match=r"^pair "):
            _Pair(pair=wrong)  # type: ignore[arg-type]
    with pytest.raises(vramx.ConfigError, match="part 'half' is not a fraction or none"):
        _Pair(part="half")  # type: ignore[arg-type]
