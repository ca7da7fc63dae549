"""Clips to 4K through trained weights within a budget, beside a program that has all on the card.

A clip of H.264 that pans over a photograph is decoded, enlarged and encoded, by turns in one
process: by `SuperResolution.enlarge_video` within the budget, and by plain torch with each frame
whole, whose decoder and encoder have threads of their own too. Both encode with the same options,
plain torch's encoder with as many threads as it likes. Decoding, the network with frames from
memory to memory, and encoding are timed by themselves as well: the slowest of them is what bounds
the whole.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import torch
from safetensors.torch import load_file

import vramx
from photograph import Pixels, Stock, empty_cache, photograph, told
from reporting import Report
from vramx import VideoOptions
from vramx.pipelines import pretrained
from vramx.pipelines.video.channel import Channel
from vramx.pipelines.video.source import VideoSource
from vramx.units import format_size, parse_size

#: Models, and the sizes that they bring to 4K.
CASES = {"realesrgan-x4plus": (960, 540), "realesr-animevideov3-x2": (1920, 1080)}
#: Frames that wait on either side of the network.
WAITING = 4
RATE = 25
OF_STOCK = 0.95


def pan(path: Path | None, width: int, height: int, count: int) -> Iterator[Pixels]:
    """Yield frames that move over a photograph, two pixels from one to the next."""
    large = photograph(path, width + 2 * count, height + count)
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


def beside(items: Iterable[Any], scope: list[threading.Thread]) -> Channel[Any]:
    """Take items on a thread of its own, a few ahead."""
    channel: Channel[Any] = Channel(WAITING)

    def run() -> None:
        for item in items:
            channel.put(item)
        channel.end()

    scope.append(threading.Thread(target=run))
    scope[-1].start()
    return channel


def stock_clip(
    whole: Callable[[Pixels], Pixels], source: Path, target: Path, options: dict[str, str]
) -> int:
    """Enlarge a clip with plain torch."""
    threads: list[threading.Thread] = []
    made: Channel[Pixels] = Channel(WAITING)
    writer = threading.Thread(target=write, args=(made, target, options))
    writer.start()
    count = 0
    for frame in beside(read(source), threads):
        made.put(whole(frame))
        count += 1
    made.end()
    for thread in (*threads, writer):
        thread.join()
    return count


def rate(run: Callable[[], int]) -> float:
    """Return the frames a second of something that says how many it did."""
    began = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - began)


def median_rate(run: Callable[[], int], rounds: int) -> float:
    """Return the median of its frames a second, after one run."""
    run()
    return statistics.median(rate(run) for _ in range(rounds))


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    return (
        f"{row['model']:<25}{row['options']:<20}{row['stock']:<8.2f}{row['vramx']:<8.2f}"
        f"{row['vramx'] / row['stock']:<8.3f}{row['decode']:<8.1f}{row['network_stock']:<8.1f}"
        f"{row['network_vramx']:<8.1f}{row['encode']:<8.1f}{row['bound']:<9}"
        f"{format_size(row['peak']):<10}{row['note']}"
    )


def head(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, torch {shared['torch']}: clips to 4K, frames a second, budget "
        f"{format_size(shared['budget'])}\n{'model':<25}{'encoder':<20}{'stock':<8}"
        f"{'vramx':<8}{'/stock':<8}{'decode':<8}{'stock n':<8}{'vramx n':<8}{'encode':<8}"
        f"{'bound by':<9}{'peak':<10}"
    )


@torch.no_grad()
def measure(
    name: str, size: tuple[int, int], options: dict[str, str], args: Any, report: Report
) -> None:
    """Measure a model."""
    card = torch.cuda.is_available()
    dtype = getattr(torch, args.dtype)
    network, own = (pretrained.build(name).requires_grad_(False) for _ in range(2))
    for each in (network, own):
        each.load_state_dict(load_file(pretrained.weights(name)))
    stock = Stock(network.to(dtype), "cuda" if card else "cpu")
    frames = [*pan(args.picture, *size, args.frames)]
    few = frames[: args.few]
    with tempfile.TemporaryDirectory() as folder:
        source, target, other = (Path(folder) / each for each in ("in.mp4", "out.mp4", "stock.mp4"))
        write(frames, source, {"preset": "veryfast", "crf": "18"})
        stock_rate = [rate(lambda: stock_clip(stock.whole, source, other, options))]
        made = [stock.whole(each) for each in few]
        row: dict[str, Any] = {
            "model": name,
            "options": " ".join(options.values()) or "as usual",
            "network_stock": median_rate(lambda: len([stock.whole(each) for each in few]), 3),
            "decode": rate(lambda: sum(1 for _ in VideoSource(source).frames())),
            "encode": rate(lambda: write(made, other, options)),
        }
        own_rate = []
        for _ in range(args.rounds):
            stock_rate.append(rate(lambda: stock_clip(stock.whole, source, other, options)))
            empty_cache()
            with vramx.super_resolution(
                own.to(dtype), budget=parse_size(args.budget, "budget"), backend=args.backend
            ) as sr:
                row["network_vramx"] = median_rate(lambda: len([*sr(few)]), 3)

                def enlarge() -> int:
                    return sr.enlarge_video(
                        source, target, VideoOptions(codec_options=options), overwrite=True
                    ).frames

                own_rate.append(rate(enlarge))
                row["peak"] = sr.session.stats().peak_resident
                row["note"] = told(sr, few[0])["note"]
    row["stock"] = statistics.median(stock_rate[1:])
    row["vramx"] = statistics.median(own_rate)
    bounds = {"decoding": row["decode"], "network": row["network_vramx"], "encoding": row["encode"]}
    row["bound"] = min(bounds, key=bounds.__getitem__)
    report.add(row)


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--picture", type=Path, help="another than the astronaut")
    parser.add_argument("--frames", type=int, default=100 if card else 6)
    parser.add_argument("--few", type=int, default=16 if card else 2, help="in memory")
    parser.add_argument("--presets", nargs="+", default=["medium", "ultrafast"])
    parser.add_argument("--budget", default="6GiB")
    parser.add_argument("--dtype", default="float16" if card else "float32")
    parser.add_argument("--backend", default="auto" if card else "simulated")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = Report(args.json, head, line)
    report.begin(
        machine=torch.cuda.get_device_name() if card else "CPU",
        torch=torch.__version__,
        budget=parse_size(args.budget, "budget"),
    )
    for name in args.models:
        for preset in args.presets:
            size = tuple(args.size) if args.size else CASES[name]
            measure(name, size, {"preset": preset}, args, report)
    return 0 if all(row["vramx"] >= OF_STOCK * row["stock"] for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
