"""What runs in processes that are killed at any moment."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def video(folder: str, begun: Connection) -> None:
    """Double the frames of ``in.mp4``; tell when that begins, and how long it took."""
    from vramx import VideoOptions
    from vramx.pipelines.video import transform_video

    from .clips import X264

    def double(frames: Any) -> Iterator[Any]:
        for frame in frames:
            yield frame.repeat(2, axis=0).repeat(2, axis=1)

    source, target = Path(folder, "in.mp4"), Path(folder, "out.mp4")
    options = VideoOptions(segment=5, codec_options=X264)
    begun.send("go")
    start = time.perf_counter()
    transform_video(source, target, double, identity={"model": "doubling"}, options=options)
    begun.send(time.perf_counter() - start)


def pictures(folder: str, begun: Connection) -> None:
    """Double the pictures in ``in``; note each that is about to be written."""
    import torch

    import vramx
    from vramx.pipelines.enlarging import enlarge_folder
    from vramx.pipelines.pictures import through

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    picture_target = through.picture_target

    def noted(path: Path, *rest: Any, **options: Any) -> Any:
        with Path(folder, "log").open("a") as log:
            log.write(f"{path.name} {os.getpid()}\n")
        return picture_target(path, *rest, **options)

    through.picture_target = noted
    vramx.simulate(capacity="64MiB", granule="4KiB")
    network = torch.nn.Upsample(scale_factor=2)
    options = {"budget": "32MiB", "block": 2**16, "backend": "simulated"}
    with vramx.super_resolution(network, **options) as enlarger:
        begun.send("go")
        start = time.perf_counter()
        result = enlarge_folder(enlarger, Path(folder, "in"), Path(folder, "out"))
        assert not result.failed, result.failed
        begun.send(time.perf_counter() - start)


def pictures_until_one_is_there(folder: str, begun: Connection) -> None:
    """Double the pictures in ``in``, and die at once when the first is in its place."""
    from vramx import writing

    writing._keep = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    pictures(folder, begun)
