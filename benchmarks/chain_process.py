"""One way to run the face chain, in a process of its own that `face_chain.py` starts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vramx
from chain_models import Step, build_models, build_steps
from frames import Frame, make_frames, time_frames, wait_for_card, watch_memory
from peer_kinds import offload, refuse_more_than_is_free
from processes import answer
from vramx.bench.layers import bytes_of
from vramx.bench.measuring import host_bytes
from vramx_ways import card_for, ways_of


class Chain:
    """The models with everything resident; the other ways change how a step finds its weights.

    Parameters
    ----------
    models : dict of str to torch.nn.Module
        On the CPU.
    asked : dict
        The benchmark's options.
    """

    def __init__(self, models: dict[str, nn.Module], asked: dict[str, Any]) -> None:
        self.models = models
        self.asked = asked
        self.device: str = asked["device"]
        self.steps: dict[str, Step] = build_steps(models, self.device, asked["smaller"])
        self.scope = contextlib.ExitStack()

    def prepare(self) -> None:
        """Set up."""
        for model in self.models.values():
            model.to(self.device)

    @torch.no_grad()  # in inference mode weights that move could not be written again
    def run(self, frames: Sequence[Frame]) -> list[Frame]:
        """Run a batch."""
        values: list[Any] = [*frames]
        for name, step in self.steps.items():
            values = self.step(name, step, values)
        return values

    def step(self, name: str, step: Step, values: list[Any]) -> list[Any]:  # noqa: ARG002
        """Run a step."""
        return step(values)

    def stats(self) -> vramx.Stats | None:
        """Return the session's figures, where there is one."""
        return None


class OneAtATime(Chain):
    """Each model comes to the card for its step and leaves after it."""

    def prepare(self) -> None:
        """Leave everything on the CPU."""

    def step(self, name: str, step: Step, values: list[Any]) -> list[Any]:
        """Run a step with its model on the card."""
        self.models[name].to(self.device)
        try:
            return step(values)
        finally:
            self.models[name].to("cpu")


class Accelerate(Chain):
    """accelerate's ``cpu_offload`` of each model."""

    def prepare(self) -> None:
        """Hook the models."""
        for model in self.models.values():
            offload(model, self.device)


class Vramx(Chain):
    """`vramx.pipeline` with its defaults, everything in one budget.

    Parameters
    ----------
    models : dict of str to torch.nn.Module
        On the CPU.
    asked : dict
        The benchmark's options.
    backend : str
        Where the session keeps memory.
    """

    def __init__(self, models: dict[str, nn.Module], asked: dict[str, Any], backend: str) -> None:
        super().__init__(models, asked)
        self.backend = backend

    def prepare(self) -> None:
        """Open the pipeline."""
        self.scope.enter_context(card_for(self.backend, self.asked["budget"]))
        if self.backend == "managed":
            refuse_more_than_is_free(sum(map(bytes_of, self.models.values())))
        stages = {
            name: vramx.Stage(step, [self.models[name]], batched=True)
            for name, step in self.steps.items()
        }
        self.pipeline = self.scope.enter_context(
            vramx.pipeline(
                stages,
                budget=self.asked["budget"],
                backend=self.backend,
                block=self.asked["block"],
            )
        )

    def run(self, frames: Sequence[Frame]) -> list[Frame]:
        """Run a batch."""
        self.pipeline.batch = len(frames)
        return [*self.pipeline.run(frames)]

    def stats(self) -> vramx.Stats:
        """Return the session's figures."""
        return self.pipeline.session.stats()


#: Every way by its name.
WAYS: dict[str, Callable[[dict[str, nn.Module], dict[str, Any]], Chain]] = {
    "stock": Chain,
    "one-at-a-time": OneAtATime,
    "accelerate": Accelerate,
    **ways_of(Vramx),
}


def digest(frames: Sequence[Frame]) -> str:
    """Return a digest of frames, by which processes compare what they made."""
    found = hashlib.sha256()
    for frame in frames:
        found.update(frame.tobytes())
    return found.hexdigest()


def measure_batch(chain: Chain, frames: list[Frame], batch: int) -> dict[str, Any]:
    """Measure with so many frames a batch."""
    seconds, device = chain.asked["seconds"], chain.device
    digests = [digest(chain.run(frames[:batch]))]
    before = chain.stats()
    figures = time_frames(chain.run, frames, batch=batch, seconds=seconds, device=device)
    after = chain.stats()
    digests.append(digest(chain.run(frames[:batch])))
    if before is not None and after is not None:
        # Three batches come before those that are timed.
        figures["moved_in"] = (after.moved_in - before.moved_in) / (figures["batches"] + 3)
        figures["moved_out"] = (after.moved_out - before.moved_out) / (figures["batches"] + 3)
    return {"batch": batch, "digests": digests, **figures}


def card_share(chain: Chain, frames: list[Frame], batch_s: float) -> float:
    """Return the part of a batch's time in which the card's kernels run."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        chain.run(frames)
        torch.cuda.synchronize()
    kernels = (
        each.self_device_time_total
        for each in profile.key_averages()
        if each.device_type == torch.autograd.DeviceType.CUDA and not each.key.startswith("Mem")
    )
    return sum(kernels) / 1e6 / batch_s


def measure(asked: dict[str, Any], report: Path) -> None:
    """Measure a way to run the chain; write bytes and seconds."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    on_card = asked["device"] != "cpu"
    models = build_models(asked["weights"], asked["depth"])
    frames = make_frames(asked["height"], asked["width"])
    while len(frames) < max(asked["batches"]):
        frames += frames
    link = None
    if asked["peer"] == "stock" and on_card:
        from vramx.integrations.torch.timing import PinnedCopies

        copies = PinnedCopies()
        link = max(copies.to_card() for _ in range(3))
        del copies
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    chain = WAYS[asked["peer"]](models, asked)
    began = time.perf_counter()
    chain.prepare()
    wait_for_card(chain.device)
    figures: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if on_card else "CPU",
        "torch": torch.__version__,
        "link": link,
        "weights": sum(map(bytes_of, models.values())),
        "parts": {name: bytes_of(model) for name, model in models.items()},
        "setup_s": time.perf_counter() - began,
        "batches": [measure_batch(chain, frames, batch) for batch in asked["batches"]],
        "torch_peak": torch.cuda.max_memory_allocated() if on_card else None,
        "rss": host_bytes(),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if link is not None:
        for own in figures["batches"]:
            own["card_share"] = card_share(chain, frames[: own["batch"]], own["batch_s"])
    if asked["frames"]:
        figures["memory"] = watch_memory(
            chain.run,
            frames,
            batch=max(asked["batches"]),
            count=asked["frames"],
            every=asked["every"],
            device=chain.device,
        )
    stats = chain.stats()
    figures["peak_resident"] = None if stats is None else stats.peak_resident
    report.write_text(json.dumps(figures))
    chain.scope.close()


if __name__ == "__main__":
    sys.exit(answer(measure))
