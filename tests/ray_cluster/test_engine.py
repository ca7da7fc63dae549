"""A video made by a Ray cluster is that of one machine to the byte, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import vramx
from pipelines.clips import X264, write_clip
from pipelines.face_networks import background, draw_face, portrait
from vramx.cli import main
from vramx.engines import ray as engine
from vramx.engines.ray import RayOptions
from vramx.tasks import (
    SwapTask,
    TaskError,
    UpscalerSpec,
    UpscaleTask,
    run,
)

from . import nodes
from .conftest import TESTS
from .jobs import FACE_MODELS, FACE_NETWORKS, LOCAL, SESSION

FRAMES, SEGMENT = 40, 4
VIDEO = vramx.VideoOptions(segment=SEGMENT, codec_options=X264)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, and what one machine makes of it."""
    folder = tmp_path_factory.mktemp("shared")
    write_clip(folder / "in.mp4", FRAMES, options={"g": "6", "bf": "2"})
    run(upscaling(folder, "wanted.mp4", session=LOCAL))
    return folder


def upscaling(folder: Path, target: str, **more: Any) -> UpscaleTask:
    options: dict[str, Any] = {"session": SESSION, "video": VIDEO, **more}
    options.setdefault("model", UpscalerSpec("pipelines.networks:enlarger"))
    return UpscaleTask(source=folder / "in.mp4", target=folder / target, **options)


def test_a_clip_is_enlarged_to_the_bytes_of_one_machine(cluster: Any, folder: Path) -> None:
    assert cluster.address
    told: list[vramx.Progress] = []
    made = engine.run(upscaling(folder, "out.mp4"), RayOptions(gpus=0.5), on_progress=told.append)
    assert (folder / "out.mp4").read_bytes() == (folder / "wanted.mp4").read_bytes()
    assert not (folder / "out.mp4.parts").exists()
    assert [each["frames"] for each in made.files] == [FRAMES]
    assert sum(each.made for each in made.actors) == FRAMES == told[-1].done == told[-1].total
    assert len({each.machine for each in made.actors}) == 1
    assert {each.budget for each in made.actors} == {1020 * 2**20}


def test_a_swap_goes_on_after_the_local_engine_and_the_command_writes_a_table(
    cluster: Any, tmp_path: Path
) -> None:
    assert cluster.address

    def frame(number: int) -> Any:
        return draw_face(background(), "red", 10 + number, 50)

    write_clip(tmp_path / "in.mp4", FRAMES, draw=frame, options={"g": "6"})
    Image.fromarray(portrait("blue")).save(tmp_path / "me.png")
    task = SwapTask(
        source=tmp_path / "me.png",
        target=tmp_path / "in.mp4",
        out=tmp_path / "wanted.mp4",
        models=FACE_MODELS,
        video=VIDEO,
        session=LOCAL,
    )
    done = run(task)
    stop = vramx.Stop()
    begun = SwapTask.from_dict({**task.to_dict(), "out": str(tmp_path / "out.mp4")})
    with pytest.raises(vramx.StoppedError):
        run(begun, on_progress=lambda told: told.done < 9 or stop.stop(), stop=stop)
    command = ["swap", *map(str, (tmp_path / "me.png", tmp_path / "in.mp4", begun.out))]
    for role, name in FACE_NETWORKS.items():
        command += [f"--{role}", name]
    command += ["--backend", "simulated", "--block", "64KiB", "--segment", str(SEGMENT)]
    command += [word for name in X264 for word in ("--codec-option", f"{name}={X264[name]}")]
    ended = CliRunner().invoke(main, [*command, "--engine", "ray"])
    assert ended.exit_code == 0, ended.stderr
    assert begun.out.read_bytes() == task.out.read_bytes()
    first, head, *rows = ended.stdout.splitlines()
    swapped = done.result.made[0].result
    assert first.startswith(f"{begun.out}: {FRAMES} frames, {swapped.faces} faces found")
    assert head.split() == ["made", "seconds", "machine", "card"]
    assert 1 <= len(rows) <= 2  # one may have made all before the other was ready
    assert sum(int(row.split()[0]) for row in rows) == FRAMES - 2 * SEGMENT


def test_a_node_that_is_killed_in_mid_job_changes_no_byte(
    cluster: Any, another: Any, folder: Path
) -> None:
    killed = threading.Event()
    with another() as node:

        def kill(told: vramx.Progress) -> None:
            if told.done >= SEGMENT and not killed.is_set():
                killed.set()
                cluster.remove_node(node, allow_graceful=False)

        made = engine.run(upscaling(folder, "out2.mp4"), on_progress=kill)
    assert killed.is_set()
    assert (folder / "out2.mp4").read_bytes() == (folder / "wanted.mp4").read_bytes()
    assert made.files[0]["frames"] == FRAMES


def test_a_machine_with_a_smaller_card_makes_the_same_bytes_in_tiles_of_its_own(
    another: Any, folder: Path
) -> None:
    with another(alone=True, **{nodes.CAPACITY: "5MiB"}):
        made = engine.run(upscaling(folder, "small.mp4"))
    assert [each.budget for each in made.actors] == [2**20]
    assert (folder / "small.mp4").read_bytes() == (folder / "wanted.mp4").read_bytes()


def test_machines_with_other_models_are_told_of_and_nothing_is_mixed(
    another: Any, tmp_path: Path
) -> None:
    write_clip(tmp_path / "in.mp4", SEGMENT, draw=lambda _: np.full((48, 64, 3), 255, np.uint8))
    task = upscaling(tmp_path, "never.mp4", model=UpscalerSpec("ray_cluster.whiteness:Held"))
    with another(**{nodes.SEED: "1"}):
        with pytest.raises(
            vramx.ConfigError, match=r"has other models than .* need the same files"
        ):
            engine.run(task)
    assert not (tmp_path / "never.mp4").exists()


def test_a_machine_without_the_shared_files_is_named(cluster: Any, tmp_path: Path) -> None:
    from vramx.engines.worker import Worker

    assert cluster.address
    for source, target in (("no/in.mp4", "out.mp4"), ("in.mp4", "no/out.mp4")):
        (tmp_path / "in.mp4").touch()
        task = UpscaleTask(
            source=tmp_path / source,
            target=tmp_path / target,
            model=UpscalerSpec("pipelines.networks:enlarger"),
        )
        worker = Worker(UpscaleTask, task.to_dict(), version("vramx"), of_video=True)
        with pytest.raises(vramx.MediaError, match=r"^on .*/no\S* is not there: all machines need"):
            worker.about()


def command(folder: Path, target: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Enlarge the clip by the command, in a process that finds no cluster by itself."""
    words = ["upscale", str(folder / "in.mp4"), str(folder / target), "--segment", str(SEGMENT)]
    words += ["--model", "pipelines.networks:enlarger", "--engine", "ray", *more]
    words += [word for name in X264 for word in ("--codec-option", f"{name}={X264[name]}")]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as own:  # sockets want short names
        return subprocess.run(
            [sys.executable, "-m", "vramx", *words],
            cwd=TESTS,
            env={**os.environ, "RAY_TMPDIR": own},
            capture_output=True,
            text=True,
            timeout=120,
        )


def test_a_command_on_this_machine_alone_computes_on_the_simulated_card(folder: Path) -> None:
    made = command(folder, "alone.mp4", "--backend", "simulated")
    assert made.returncode == 0, made.stderr
    assert (folder / "alone.mp4").read_bytes() == (folder / "wanted.mp4").read_bytes()


def test_a_command_without_a_card_is_refused(
    cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vramx.engines import actors

    assert cluster.address
    monkeypatch.setattr(actors, "_nodes", lambda: [{"CPU": 4.0}])
    words = ["upscale", str(folder / "in.mp4"), str(folder / "never.mp4"), "--engine", "ray"]
    refused = CliRunner().invoke(main, [*words, "--model", "pipelines.networks:enlarger"])
    assert refused.exit_code == 1
    assert "no node of the Ray cluster has 1 of a GPU" in refused.stderr


def test_an_address_is_that_of_a_cluster_or_a_typed_error(cluster: Any, folder: Path) -> None:
    simulated = ("--backend", "simulated", "--address")
    made = command(folder, "there.mp4", *simulated, cluster.address)
    assert made.returncode == 0, made.stderr
    assert (folder / "there.mp4").read_bytes() == (folder / "wanted.mp4").read_bytes()
    refused = command(folder, "never.mp4", *simulated, "127.0.0.1:1")
    assert refused.returncode == 1
    assert "address '127.0.0.1:1': there is no Ray cluster" in refused.stderr


DRIVER = """
import os, signal, sys
import ray
from ray_cluster import nodes
from vramx.engines import ray as engine
from vramx.tasks import UpscaleTask
import json
import os

ray.init(
    address=sys.argv[2],
    log_to_driver=False,
    runtime_env={"worker_process_setup_hook": nodes.set_up},
)

def kill(told):
    if told.done >= 12:
        os.kill(os.getpid(), signal.SIGKILL)

engine.run(UpscaleTask.from_dict(json.loads(sys.argv[1])), on_progress=kill)
"""


def test_what_a_killed_driver_had_is_gone_on_from(cluster: Any, folder: Path) -> None:
    task = upscaling(folder, "killed.mp4")
    child = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(task.to_dict()), cluster.address],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    shutil.copytree(folder / "killed.mp4.parts", folder / "locally.mp4.parts")
    wanted = (folder / "wanted.mp4").read_bytes()
    run(upscaling(folder, "locally.mp4", session=LOCAL))
    assert (folder / "locally.mp4").read_bytes() == wanted
    told: list[vramx.Progress] = []
    engine.run(task, on_progress=told.append)
    assert (folder / "killed.mp4").read_bytes() == wanted
    assert told[0].done >= 12


def test_errors_of_actors_have_their_type_and_name_the_machine(cluster: Any, folder: Path) -> None:
    import ray

    from vramx.engines.worker import Worker

    assert cluster.address
    task = upscaling(folder, "never.mp4")
    other = ray.remote(num_gpus=0.5)(Worker).remote(
        UpscaleTask, task.to_dict(), "0.0", of_video=True
    )
    with pytest.raises(vramx.ConfigError, match=r"is .* there and 0\.0 here: install the same"):
        ray.get(other.about.remote())
    ray.kill(other)
    missing = upscaling(folder, "never.mp4", model=UpscalerSpec("no.such:network"))
    with pytest.raises(vramx.ConfigError, match=r"^on .*: no\.such:network: importing"):
        engine.run(missing)
    assert not (folder / "never.mp4").exists()


def test_what_ray_does_not_make_is_refused_before_any_work(tmp_path: Path) -> None:
    Image.fromarray(portrait("red")).save(tmp_path / "in.png")
    model = UpscalerSpec("pipelines.networks:enlarger")
    task = UpscaleTask(source=tmp_path / "in.png", target=tmp_path / "out.png", model=model)
    with pytest.raises(TaskError, match="preview=True is of one frame: use the local engine"):
        engine.run(replace(task, preview=True))
    for gpus in (0.0, 1.5, -1.0):
        with pytest.raises(vramx.ConfigError, match="no part of a card"):
            RayOptions(gpus=gpus)
    ended = CliRunner().invoke(
        main, ["upscale", str(tmp_path / "in.png"), "o.png", "--model", "m:n", "--gpus", "0.5"]
    )
    assert ended.exit_code == 2
    assert "--address and --gpus belong to --engine ray" in ended.stderr
