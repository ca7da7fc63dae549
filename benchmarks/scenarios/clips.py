"""Clips to 4K through trained weights within a budget, beside a program that has all on the card.

A clip of H.264 that pans over a photograph is decoded, enlarged and encoded, by turns in one
process: by `SuperResolution.enlarge_video` within the budget, and by plain torch with each frame
whole, whose decoder and encoder have threads of their own too. Both encode with the same options,
plain torch's encoder with as many threads as it likes. Decoding, the network with frames from
memory to memory, and encoding are timed by themselves as well: the slowest of them is what bounds
the whole.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import torch

import vramx
from benchmarks import options as shared
from benchmarks.pictures import Pixels, Stock, median_seconds, photograph, told, trained
from benchmarks.report import Report
from vramx.pipelines.video.channel import Channel
from vramx.pipelines.video.source import VideoSource

#: Models, and the sizes that they bring to 4K.
CASES = {"realesrgan-x4plus": (960, 540), "realesr-animevideov3-x2": (1920, 1080)}
#: Frames that wait on either side of the network.
WAITING = 4
RATE = 25
#: The least of plain torch's frames a second.
OF_STOCK = 0.95

COLUMNS = """
model:model:text preset stock:stock~f/s:s vramx:vramx~f/s:s over_stock:/stock:ratio
decode:decode:s network_stock:stock~n:s network_vramx:vramx~n:s encode:encode:s bound:bound~by
peak:peak:size missed:holds:holds
"""


def options(add: shared.Add, card: bool) -> None:
    shared.pictures(add, card, 2)
    own = [*CASES] if card else ["realesr-animevideov3-x2"]
    add("--models", nargs="+", choices=[*CASES], default=own)
    add("--size", type=int, nargs=2, default=None if card else [64, 48])
    add("--frames", type=int, default=100 if card else 6)
    add("--few", type=int, default=16 if card else 2, help="in memory")
    add("--presets", nargs="+", default=["medium", "ultrafast"])
    add("--budget", type=shared.size, default="6GiB")


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure each model with each preset on each backend."""
    report.begin(budget=args.budget)
    for name, preset, backend in itertools.product(args.models, args.presets, args.backend):
        row = measure(name, preset, backend, args)
        report.add({"model": name, "preset": preset, "backend": backend, **row})


def measure(name: str, preset: str, backend: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a model; frames a second."""
    encoding = {"preset": preset}
    video = vramx.VideoOptions(codec_options=encoding)
    stock = Stock(trained(name, args.dtype), args.device)
    own = trained(name, args.dtype)
    width, height = args.size or CASES[name]
    frames = [*pan(photograph(width + 2 * args.frames, height + args.frames), args.frames)]
    few = frames[: args.few]
    with tempfile.TemporaryDirectory() as folder:
        source, target, other = (Path(folder) / each for each in ("in.mp4", "out.mp4", "stock.mp4"))
        write(frames, source, {"preset": "veryfast", "crf": "18"})
        through_stock = partial(stock_clip, stock.whole, source, other, encoding)
        through_stock()
        made = [stock.whole(each) for each in few]
        row: dict[str, Any] = {
            "network_stock": len(few) / median_seconds(lambda: [*map(stock.whole, few)], 3),
            "decode": rate(lambda: sum(1 for _ in VideoSource(source).frames())),
            "encode": rate(lambda: write(made, other, encoding)),
        }
        rates: dict[str, list[float]] = {"stock": [], "vramx": []}
        for _ in range(args.rounds):
            rates["stock"].append(rate(through_stock))
            torch.cuda.empty_cache()
            with vramx.super_resolution(own, budget=args.budget, backend=backend) as sr:
                row["network_vramx"] = len(few) / median_seconds(lambda: [*sr(few)], 3)
                enlarge = partial(sr.enlarge_video, source, target, video, overwrite=True)
                rates["vramx"].append(rate(lambda enlarge=enlarge: enlarge().frames))
                row |= told(sr, few[0])
    row |= {who: statistics.median(each) for who, each in rates.items()}
    bounds = {"decoding": row["decode"], "network": row["network_vramx"], "encoding": row["encode"]}
    row["bound"] = min(bounds, key=bounds.__getitem__)
    row["over_stock"] = row["vramx"] / row["stock"]
    row["missed"] = [f"< {OF_STOCK} of stock"] if row["over_stock"] < OF_STOCK else []
    return row


def pan(large: Pixels, count: int) -> Iterator[Pixels]:
    """Yield frames that move over a picture, two pixels from one to the next."""
    height, width = large.shape[0] - count, large.shape[1] - 2 * count
    for place in range(count):
        yield large[place : place + height, 2 * place : 2 * place + width].copy()


def write(frames: Iterable[Pixels], target: Path, options: dict[str, str]) -> int:
    """Encode frames as H.264; return how many there were."""
    count = 0
    with av.open(str(target), "w") as container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=RATE, options=options)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            count += 1
        container.mux(stream.encode(None))
    return count


def read(source: Path) -> Iterator[Pixels]:
    """Decode frames."""
    with av.open(str(source)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def fill(channel: Channel[Any], items: Iterable[Any]) -> None:
    """Put items into a channel, and end it."""
    for item in items:
        channel.put(item)
    channel.end()


def stock_clip(
    whole: Callable[[Pixels], Pixels], source: Path, target: Path, options: dict[str, str]
) -> int:
    """Enlarge a clip with plain torch, while threads decode and encode."""
    decoded, made = Channel[Pixels](WAITING), Channel[Pixels](WAITING)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(fill, decoded, read(source))
        count = pool.submit(write, made, target, options)
        fill(made, map(whole, decoded))
    return count.result()


def rate(run: Callable[[], int]) -> float:
    """Return the frames a second of something that says how many it did."""
    began = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - began)
