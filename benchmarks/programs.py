"""Programs of several models that take one frame after another, and the ways to run them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import vramx
from benchmarks.faces import Step, build_networks, build_steps
from benchmarks.footage import Frame
from benchmarks.quantised import bytes_held
from benchmarks.ways import offload, refuse_more_than_is_free
from benchmarks.workloads import call, noise, picture_decoder, unet

#: Models, and the steps that call them, by the same names and in order.
Program = tuple[dict[str, nn.Module], dict[str, Step]]


def chain(asked: dict[str, Any]) -> Program:
    """Make five models of a face swap."""
    models = build_networks(asked["weights"], asked["depth"])
    return models, build_steps(models, asked["device"], asked["smaller"])


def images(asked: dict[str, Any]) -> Program:
    """Make SDXL's U-Net, some passes an image, and its decoder.

    That has few weights, but for a moment takes gigabytes, for which the U-Net's have to leave;
    then these have to come back, and torch keeps what the decoder took for its next image. Frames
    tell nothing but how many images to make.
    """
    device, on_card = asked["device"], asked["device"] != "cpu"
    side = 128 if on_card else 8
    workload = unet(0, side**2) if on_card else unet(0, side**2, 32, (1, 1, 1))
    decoder = picture_decoder() if on_card else picture_decoder((32, 64))
    inputs, latents = workload.inputs_on(device), noise(1, 4, side, side).to(device)

    def denoise(frames: list[Any]) -> list[Any]:
        made = []
        for _ in frames:
            for _ in range(asked["steps"]):
                out = call(workload.module, inputs).float().cpu()  # as a sampler's step would
            made.append(out.numpy())
        return made

    def decode(made: list[Any]) -> list[Any]:
        pictures = [decoder(latents).float().cpu().numpy() for _ in made]
        return [np.append(one, other) for one, other in zip(made, pictures)]

    models = {"unet": workload.module, "decode": decoder}
    return models, {"unet": denoise, "decode": decode}


PROGRAMS = {"chain": chain, "images": images}
#: Ways besides stock torch, with everything resident, and vramx.
OTHERS = ["one-at-a-time", "accelerate"]


class Running:
    """A program that runs in one way: ``"stock"``, one of `OTHERS`, ``"vramx-"`` and a backend."""

    def __init__(self, program: Program, peer: str, device: str) -> None:
        self._models, self._steps = program
        self.weights = sum(map(bytes_held, self._models.values()))
        self._peer = peer
        self._device = device
        self._pipeline: Any = None

    @contextlib.contextmanager
    def prepared(self, budget: int, block: int) -> Iterator[None]:
        """Set up for a scope."""
        for model in self._models.values():
            if self._peer == "stock":
                model.to(self._device)
            if self._peer == "accelerate":
                offload(model, self._device)
        backend = self._peer.removeprefix("vramx-")
        if backend == self._peer:
            yield
            return
        if backend == "managed":
            refuse_more_than_is_free(self.weights)
        stages = {
            name: vramx.Stage(step, [self._models[name]], batched=True)
            for name, step in self._steps.items()
        }
        opened = vramx.pipeline(stages, budget=budget, backend=backend, block=block)
        with contextlib.ExitStack() as stack:
            if backend == "simulated":
                stack.enter_context(vramx.simulate(2 * budget, granule="4KiB"))
            self._pipeline = stack.enter_context(opened)
            yield

    @torch.no_grad()  # in inference mode weights that move could not be written again
    def run(self, frames: Sequence[Frame]) -> list[Any]:
        """Run a batch."""
        if self._pipeline is not None:
            self._pipeline.batch = len(frames)
            return [*self._pipeline.run(frames)]
        values: list[Any] = [*frames]
        for name, step in self._steps.items():
            if self._peer == "one-at-a-time":
                self._models[name].to(self._device)
            values = step(values)
            if self._peer == "one-at-a-time":
                self._models[name].to("cpu")
        return values

    def stats(self) -> vramx.Stats | None:
        """Return the session's figures, where there is one."""
        return None if self._pipeline is None else self._pipeline.session.stats()
