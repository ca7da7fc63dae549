"""What a large result takes on the host is little more than its source, or what Pillow takes."""

from __future__ import annotations

import ctypes
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
from forkserver import processes  # noqa: E402

M_MMAP_THRESHOLD = -3  # of malloc.h

#: Widths and heights of sources, neither of which is enlarged whole; the network makes them four
#: times as large.
SMALL, LARGE = (400, 200), (400, 600)
#: The most bytes of memory that come with each byte that the network makes, as one of 256 steps;
#: those of the source included.
#: Pillow gathers a picture for JPEG, with four bytes for three.
MOST = {".png": 0.6, ".tif": 0.6, ".jpg": 1.8}


def measure(folder: str, way: str, scale: float, told: Connection) -> None:
    """Tell the most memory of this process while it makes each result."""
    import torch

    import vramx

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)  # what is freed goes back at once
    options: dict[str, Any] = {"budget": "16MiB", "block": 2**16, "backend": "simulated"}
    if way == "tiles":
        options |= {"tile": 128, "overlap": 8}
    took = {}
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        network = torch.nn.Upsample(scale_factor=4)
        with vramx.super_resolution(network, **options, scale=scale) as sr:
            for suffix in MOST:
                for size in ("small", "small", "large"):
                    Path("/proc/self/clear_refs").write_text("5")
                    sr.enlarge_picture(
                        f"{folder}/{size}.png", f"{folder}/out{suffix}", overwrite=True
                    )
                    took[suffix + size] = peak()
    told.send(took)


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("way", "scale"), [("bands", 4.0), ("tiles", 4.0), ("bands", 2.0), ("tiles", 1.7)]
)
def test_a_result_is_not_held_where_it_can_be_written_as_it_is_made(
    tmp_path: Path, way: str, scale: float
) -> None:
    for name, (width, height) in (("small", SMALL), ("large", LARGE)):
        ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) >> 7
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / f"{name}.png")
    heard, told = processes.Pipe(duplex=False)
    process = processes.Process(target=measure, args=(str(tmp_path), way, scale, told))
    process.start()
    told.close()
    took = heard.recv()
    process.join()
    more = 48 * (LARGE[0] * LARGE[1] - SMALL[0] * SMALL[1])  # bytes of pixels
    slopes = {each: (took[each + "large"] - took[each + "small"]) / more for each in MOST}
    assert all(slopes[each] <= most for each, most in MOST.items()), slopes
    assert scale < 4 or slopes[".jpg"] > 1  # it is measured at all
