"""Folders of pictures made by a Ray cluster are those of one machine, and little is sent about."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vramx
from pipelines.face_networks import background, draw_face, portrait
from vramx.engines import ray as engine
from vramx.tasks import (
    SwapTask,
    UpscalerSpec,
    UpscaleTask,
    run,
)

from . import nodes
from .jobs import FACE_MODELS, LOCAL, SESSION

#: 10000 before a release.
COUNT = int(os.environ.get("VRAMX_TEST_PICTURES", "60"))
#: What may be sent about a picture, which itself has 27 KiB, and 108 when it is made.
LITTLE = 8 * 2**10

pytestmark = pytest.mark.filterwarnings("ignore")


def write_pictures(folder: Path, count: int, side: int = 16) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (side, side + number % 3, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.png")
    return folder


def enlarging(source: Path, target: Path, **more: Any) -> UpscaleTask:
    options: dict[str, Any] = {
        "model": UpscalerSpec("pipelines.networks:enlarger"),
        "session": SESSION,
        **more,
    }
    return UpscaleTask(source=source, target=target, **options)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def test_a_folder_is_made_as_by_one_machine_and_gone_on_with(cluster: Any, tmp_path: Path) -> None:
    assert cluster.address
    source = write_pictures(tmp_path / "in", 9)
    (source / "00004.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (source / "notes.txt").write_text("no picture")
    wanted = run(enlarging(source, tmp_path / "wanted", session=LOCAL)).result
    out = tmp_path / "out"
    out.mkdir()
    (out / "00001.png").write_bytes((tmp_path / "wanted" / "00001.png").read_bytes())
    told: list[vramx.Progress] = []
    done = engine.run(enlarging(source, out), on_progress=told.append)
    assert bytes_in(out) == bytes_in(tmp_path / "wanted")
    assert done.result.skipped == [out / "00001.png"]
    assert done.result.passed_by == wanted.passed_by
    ((failed, why),) = done.result.failed
    assert (failed, re.sub(r"^on \S+: ", "", why)) == wanted.failed[0]
    assert sorted(each.source for each in done.result.made) == [
        each.source for each in wanted.made if each.source.name != "00001.png"
    ]
    assert (told[-1].done, told[-1].total, told[-1].unit) == (9, 9, "picture")
    assert sum(each.made for each in done.actors) == 7


def test_a_picture_is_swapped_as_by_one_machine_or_its_error_has_its_type(
    cluster: Any, tmp_path: Path
) -> None:
    assert cluster.address
    Image.fromarray(portrait("blue")).save(tmp_path / "me.png")
    Image.fromarray(draw_face(background(), "red", 20, 50)).save(tmp_path / "in.png")
    task = SwapTask(
        source=tmp_path / "me.png",
        target=tmp_path / "in.png",
        out=tmp_path / "wanted.png",
        models=FACE_MODELS,
        session=LOCAL,
    )
    run(task)
    there = {**task.to_dict(), "session": SESSION.to_dict(), "out": str(tmp_path / "out.png")}
    made = engine.run(SwapTask.from_dict(there))
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "wanted.png").read_bytes()
    assert made.files[0]["swapped"] == 1
    Image.fromarray(background()).save(tmp_path / "nobody.png")
    nobody = {**there, "source": str(tmp_path / "nobody.png"), "out": str(tmp_path / "no.png")}
    with pytest.raises(vramx.NoFaceError, match=r"^on "):
        engine.run(SwapTask.from_dict(nobody))
    assert not (tmp_path / "no.png").exists()


def test_a_picture_that_kills_its_actors_fails_alone(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vramx.engines import actors

    assert cluster.address
    monkeypatch.setattr(actors, "_TRIES", 1)  # `test_sharing_out` counts them
    source = write_pictures(tmp_path / "in", 4)
    Image.new("RGB", (16, 16), "white").save(source / "00002.png")
    model = UpscalerSpec("ray_cluster.whiteness:Fatal")
    done = engine.run(enlarging(source, tmp_path / "out", model=model))
    assert {each.source.name for each in done.result.made} == {
        "00000.png",
        "00001.png",
        "00003.png",
    }
    ((failed, why),) = done.result.failed
    assert failed == source / "00002.png"
    assert "1 actors died of piece 2" in why


def test_a_folder_that_is_not_shared_is_told(another: Any, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "in", 1)
    with another(alone=True, **{nodes.DOING: "write_elsewhere"}):
        task = enlarging(source / "00000.png", tmp_path / "out.png")
        with pytest.raises(vramx.MediaError, match="need the same folder at that path"):
            engine.run(task)


def test_no_picture_passes_through_the_driver_whose_memory_stays(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vramx.engines import actors

    assert cluster.address
    source = write_pictures(tmp_path / "in", COUNT, side=96)
    largest = 0
    result = actors._result

    def counted(call: Any) -> Any:
        nonlocal largest
        value = result(call)
        largest = max(largest, len(pickle.dumps(value)))
        return value

    resident: dict[int, int] = {}

    def look(told: vramx.Progress) -> None:
        status = Path("/proc/self/status").read_text()
        resident[told.done] = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    monkeypatch.setattr(actors, "_result", counted)
    done = engine.run(enlarging(source, tmp_path / "out"), on_progress=look)
    assert len(done.result.made) == COUNT
    assert 0 < largest <= LITTLE
    grown = resident[COUNT] - resident[COUNT // 6]
    print(f"{COUNT} pictures: at most {largest} bytes at once, {grown / 2**20:.1f} MiB more")
    assert grown <= COUNT * LITTLE + 4 * 2**20
