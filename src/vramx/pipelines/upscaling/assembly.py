"""From a network and a budget to what enlarges pictures."""

from __future__ import annotations

from dataclasses import replace

import torch

from vramx.pipelines.images import Home
from vramx.pipelines.options import UpscaleOptions
from vramx.pipelines.upscalers import Network
from vramx.pipelines.upscaling.by_bands import Bands
from vramx.pipelines.upscaling.engine import Engine
from vramx.pipelines.upscaling.footprint import bytes_per_pixel, find_shape
from vramx.pipelines.upscaling.sizing import (
    PICTURES,
    UNEVEN,
    WHOLE,
    Sizes,
    bytes_beside_bands,
    bytes_beside_tiles,
    room_for_activations,
)
from vramx.pipelines.upscaling.streaming import PictureStream
from vramx.pipelines.upscaling.stride import find_stride
from vramx.pipelines.upscaling.ways import Runner


def assemble(
    network: Network, runner: Runner, budget: int, device: torch.device, asked: UpscaleOptions
) -> PictureStream:
    """Try a network on small pictures, and put together what enlarges others with it.

    Parameters
    ----------
    network : Network
        The network, whose module is managed and in evaluation mode.
    runner : Runner
        Runs it.
    budget : int
        Bytes that it and what it computes may take.
    device : torch.device
        Where it computes.
    asked : UpscaleOptions
        What must not be chosen.

    Returns
    -------
    PictureStream
        Of the fastest way that fits.

    Raises
    ------
    ConfigError
        If it is no network that enlarges pictures, or a tile is asked for that it does not take.
    """
    multiple = network.multiple if asked.multiple is None else asked.multiple
    fixed = None if network.file is None else network.file.tile
    shape = find_shape(
        runner.call,
        runner.place,
        scale=network.scale,
        multiple=multiple,
        most=min(fixed) if fixed else None,
    )
    whole = network.whole and asked.tile is None
    by_tiles = whole or asked.tile is not None or asked.overlap is not None
    module = network.module
    bands = None if by_tiles or module is None else Bands(module, runner, shape)
    if fixed is None and asked.multiple is None and (bands is None or bands.refusal is not None):
        shape = replace(shape, stride=find_stride(runner.call, runner.place, shape))
    room = room_for_activations(budget, network.weight_bytes)
    if network.file is None:
        pixel_bytes = in_torch = UNEVEN * bytes_per_pixel(runner.call, runner.place, shape)
    else:
        pixel_bytes, in_torch = UNEVEN * network.file.pixel_bytes(), 0.0
    sizes = Sizes(
        WHOLE * shape.stride if whole else asked.tile,
        network.batch if asked.batch is None else asked.batch,
        shape.multiple,
        int(room / pixel_bytes),
        stride=shape.stride,
        scale=shape.scale,
        fixed=fixed,
    )
    engine = Engine(
        runner,
        shape=shape,
        sizes=sizes,
        overlap=asked.overlap,
        bands=bands,
        room=room,
        pixel_bytes=in_torch,
    )
    if engine.in_tiles:
        most = room // (2 * bytes_beside_tiles(shape.scale))
    else:
        most = room // (PICTURES * bytes_beside_bands(shape.scale))
    if asked.resizes:  # float32 until it is resized, and bytes otherwise
        most //= 4
    return PictureStream(engine, Home(device, most), asked)
