"""One way to enlarge frames, in a process of its own that `enlarge.py` starts."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import vramx
from frames import Frame, make_frames, time_frames, wait_for_card, watch_memory
from peer_kinds import offload
from processes import NotInstalledError, answer
from vramx.bench.layers import bytes_of
from vramx.bench.measuring import host_bytes
from vramx.pipelines.images import Home, to_planes
from vramx.pipelines.pretrained.rrdbnet import RRDBNet
from vramx.pipelines.upscaling.tiles import Canvas, Grid, cut
from vramx.pipelines.upscaling.ways import InBands
from vramx_ways import card_for, ways_of

GAIN = 0.02


class Enlarger(nn.Module):
    """RRDBNet, which enlarges four times; twice of a picture folded to half its size, as published.

    Parameters
    ----------
    scale : int
        2 or 4.
    features, blocks : int
        Of the network.
    """

    def __init__(self, scale: int, features: int, blocks: int) -> None:
        super().__init__()
        self.scale = scale
        self.fold = 4 // scale
        self.network = RRDBNet(features, blocks, features // 2)
        self.network.conv_first = nn.Conv2d(3 * self.fold**2, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Enlarge pictures (n, 3, h, w), whose sides are even where it enlarges twice."""
        smooth = functional.interpolate(x, scale_factor=self.scale, mode="bilinear")
        return smooth + GAIN * self.network(functional.pixel_unshuffle(x, self.fold))


def build_enlarger(asked: dict[str, Any]) -> Enlarger:
    """Build it with seeded weights, on the CPU."""
    torch.manual_seed(0)
    model = Enlarger(asked["scale"], asked["features"], asked["blocks"])
    return model.to(getattr(torch, asked["dtype"])).eval().requires_grad_(False)


def as_floats(frame: Frame) -> torch.Tensor:
    """Return a frame as float32 (3, h, w) with values from 0 to 1."""
    return torch.from_numpy(frame).permute(2, 0, 1).float() / 255


class Whole:
    """Stock torch with everything resident and each frame whole.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU.
    asked : dict
        The benchmark's options.
    """

    def __init__(self, model: Enlarger, asked: dict[str, Any]) -> None:
        self.model = model
        self.asked = asked
        self.device: str = asked["device"]
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.scope = contextlib.ExitStack()

    def prepare(self) -> None:
        """Set up."""
        self.model.to(self.device)

    @torch.inference_mode()
    def values(self, picture: torch.Tensor) -> torch.Tensor:
        """Enlarge a float32 picture (3, h, w) with values from 0 to 1."""
        made = self.model(picture[None].to(self.device, self.dtype))[0]
        return made.float().clamp(0, 1)

    @torch.inference_mode()
    def run(self, frames: Sequence[Frame]) -> list[Frame]:
        """Enlarge frames."""
        done = []
        for frame in frames:
            picture = torch.from_numpy(frame).to(self.device).permute(2, 0, 1)[None]
            made = self.model(picture.to(self.dtype) / 255)[0].permute(1, 2, 0).float()
            done.append((made * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy())
        return done

    def sizes(self) -> dict[str, Any] | None:
        """Return how frames are cut, where they are."""
        return None

    def stats(self) -> vramx.Stats | None:
        """Return the session's figures, where there is one."""
        return None


class OneAtATime(Whole):
    """The network comes to the card for each frame and leaves after it."""

    def prepare(self) -> None:
        """Leave it on the CPU."""

    def values(self, picture: torch.Tensor) -> torch.Tensor:
        """Enlarge a float32 picture (3, h, w) with values from 0 to 1."""
        return self._on_card(super().values, picture)

    def run(self, frames: Sequence[Frame]) -> list[Frame]:
        """Enlarge frames."""
        enlarge = super().run
        return [self._on_card(enlarge, [frame])[0] for frame in frames]

    def _on_card(self, work: Callable[[Any], Any], given: Any) -> Any:
        self.model.to(self.device)
        try:
            return work(given)
        finally:
            self.model.to("cpu")


class Accelerate(Whole):
    """accelerate's ``cpu_offload`` of the network."""

    def prepare(self) -> None:
        """Hook it."""
        offload(self.model, self.device)


class Tiled(Whole):
    """Stock torch with everything resident, and frames in the tiles that vramx takes."""

    @torch.inference_mode()
    def values(self, picture: torch.Tensor) -> torch.Tensor:
        """Enlarge a float32 picture (3, h, w) with values from 0 to 1."""
        sizes = self.asked["sizes"]
        rows, columns = (
            cut(length, tile, sizes["overlap"], sizes["multiple"])
            for length, tile in zip(picture.shape[1:], sizes["tile"])
        )
        grid = Grid(rows, columns)
        made_rows: list[torch.Tensor] = []
        canvas = Canvas(
            grid,
            3,
            self.model.scale,
            lambda _, rows: made_rows.append(rows[0].clamp(0, 1)),
            device=self.device,
        )
        tiles = enumerate(grid.tiles(picture))
        while group := [*itertools.islice(tiles, sizes["batch"])]:
            stacked = torch.stack([each for _, each in group])
            made = self.model(stacked.to(self.device, self.dtype))
            for (place, _), each in zip(group, made):
                canvas.add(place, each)
        canvas.finish()
        return torch.cat(made_rows, dim=1)

    def run(self, frames: Sequence[Frame]) -> list[Frame]:
        """Enlarge frames."""
        done = []
        for frame in frames:
            planes = to_planes(frame, Home(torch.device(self.device), frame.size))
            done.append(planes.restore(self.values(planes.colour[0])[None]))
        return done


class Vramx(Whole):
    """`vramx.super_resolution` with its defaults within the budget.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU.
    asked : dict
        The benchmark's options.
    backend : str
        Where the session keeps memory.
    """

    def __init__(self, model: Enlarger, asked: dict[str, Any], backend: str) -> None:
        super().__init__(model, asked)
        self.backend = backend

    def prepare(self) -> None:
        """Open it."""
        self.scope.enter_context(card_for(self.backend, self.asked["budget"]))
        self.enlarger = self.scope.enter_context(
            vramx.super_resolution(
                self.model,
                tile=self.asked["tile"] or "auto",
                budget=self.asked["budget"],
                backend=self.backend,
                block=self.asked["block"],
            )
        )

    def values(self, picture: torch.Tensor) -> torch.Tensor:
        """Enlarge a float32 picture (3, h, w)."""
        return self.enlarger(picture)

    def run(self, frames: Sequence[Frame]) -> list[Frame]:
        """Enlarge frames."""
        return [*self.enlarger(frames)]

    def sizes(self) -> dict[str, Any]:
        """Return how a frame is cut."""
        height, width = self.asked["height"], self.asked["width"]
        way = self.enlarger.forecast(as_floats(make_frames(height, width)[0]))
        if isinstance(way, InBands):
            return {"bands": list(way.order.bands), "pixels": height * width}
        return {
            "tile": [way.grid.rows.size, way.grid.columns.size],
            "overlap": way.overlap,
            "multiple": self.enlarger._ready.engine.shape.multiple,
            "batch": min(way.at_once, way.grid.count),
            "tiles": way.grid.count,
            "pixels": way.computed,
        }

    def stats(self) -> vramx.Stats:
        """Return the session's figures."""
        return self.enlarger.session.stats()


#: Every way by its name.
WAYS: dict[str, Callable[[Enlarger, dict[str, Any]], Whole]] = {
    "stock": Whole,
    "stock-tiled": Tiled,
    "one-at-a-time": OneAtATime,
    "accelerate": Accelerate,
    **ways_of(Vramx),
}


def through_video(way: Whole, frames: Sequence[Frame], count: int) -> float:
    """Enlarge a clip, decoding and encoding included; return frames a second."""
    assert isinstance(way, Vramx), "stock torch has no video of its own"
    if importlib.util.find_spec("av") is None:
        raise NotInstalledError("av")
    import av

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "clip.mp4", Path(folder) / "large.mp4"
        with av.open(str(source), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            for place in range(count):
                shown = av.VideoFrame.from_ndarray(frames[place % len(frames)], format="rgb24")
                container.mux(stream.encode(shown))
            container.mux(stream.encode(None))
        began = time.perf_counter()
        video = vramx.VideoOptions(codec_options={"preset": "ultrafast"})
        made = way.enlarger.enlarge_video(source, target, video)
        return made.frames / (time.perf_counter() - began)


def measure(asked: dict[str, Any], report: Path) -> None:
    """Measure a way to enlarge frames; write bytes and seconds."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    on_card = asked["device"] != "cpu"
    model = build_enlarger(asked)
    weights = bytes_of(model)
    frames = make_frames(asked["height"], asked["width"])
    way = WAYS[asked["peer"]](model, asked)
    began = time.perf_counter()
    way.prepare()
    wait_for_card(way.device)
    setup = time.perf_counter() - began
    picture = as_floats(frames[0])
    np.save(asked["output"], way.values(picture).cpu().numpy())
    figures: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if on_card else "CPU",
        "torch": torch.__version__,
        "weights": weights,
        "setup_s": setup,
        **time_frames(way.run, frames, batch=1, seconds=asked["seconds"], device=way.device),
        "sizes": way.sizes(),
        "torch_peak": torch.cuda.max_memory_allocated() if on_card else None,
    }
    if asked["frames"]:
        figures["memory"] = watch_memory(
            way.run, frames, batch=1, count=asked["frames"], every=asked["every"], device=way.device
        )
    if asked["video"] and isinstance(way, Vramx):
        figures["video_frames_per_second"] = through_video(way, frames, asked["video"])
    stats = way.stats()
    for name in ("peak_resident", "moved_in", "moved_out", "over_link"):
        figures[name] = None if stats is None else getattr(stats, name)
    figures["rss"] = host_bytes()
    figures["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report.write_text(json.dumps(figures))
    way.scope.close()


if __name__ == "__main__":
    sys.exit(answer(measure))
