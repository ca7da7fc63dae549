"""What a large result takes on the host is little more than its source, or what Pillow takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

#: Widths and heights of sources; the network makes them four times as large.
SMALL, LARGE = (400, 300), (400, 1500)
#: The most bytes of memory that come with each byte that the network makes, as one of 256 steps;
#: those of the source included.
#: Pillow gathers a picture for JPEG, with four bytes for three.
MOST = {".png": 0.6, ".tif": 0.6, ".jpg": 1.8}

CHILD = """
import json, sys
import torch
import vramx
torch.set_num_threads(1)

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

folder, way, scale, *suffixes = sys.argv[1:]
options = dict(budget="16MiB", block=2**16, backend="simulated")
if way == "tiles":
    options.update(tile=128, overlap=8)
options["scale"] = float(scale)
took = {}
with vramx.simulate(capacity="64MiB", granule="4KiB"):
    network = torch.nn.Upsample(scale_factor=4)
    with vramx.super_resolution(network, **options) as sr:
        for suffix in suffixes:
            for size in ("small", "small", "large"):
                open("/proc/self/clear_refs", "w").write("5")
                sr.enlarge_picture(f"{folder}/{size}.png", f"{folder}/out{suffix}", overwrite=True)
                took[suffix + size] = peak()
print(json.dumps(took))
"""


@pytest.mark.parametrize(
    ("way", "scale"), [("bands", 4), ("tiles", 4), ("bands", 2), ("tiles", 1.7)]
)
def test_a_result_is_not_held_where_it_can_be_written_as_it_is_made(
    tmp_path: Path, way: str, scale: float
) -> None:
    for name, (width, height) in (("small", SMALL), ("large", LARGE)):
        ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) >> 7
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(tmp_path), way, str(scale), *MOST],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "PATH": "/usr/bin"},
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)
    more = 48 * (LARGE[0] * LARGE[1] - SMALL[0] * SMALL[1])  # bytes of pixels
    slopes = {each: (took[each + "large"] - took[each + "small"]) / more for each in MOST}
    assert all(slopes[each] <= most for each, most in MOST.items()), slopes
    assert scale < 4 or slopes[".jpg"] > 1  # it is measured at all
