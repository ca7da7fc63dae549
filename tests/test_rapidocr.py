"""A program that people use, unedited, in a budget smaller than its models: rapidocr reads a page.

The package ships a detector, a classifier and a recognizer as ONNX files, each of which it gives a
session of its own.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

NEEDED = ("onnx", "cv2", "rapidocr")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"not installed: {', '.join(missing)}; make installs them"
)

LINES = ("Budgets are never exceeded", "Weights leave without a copy", "Page 42 of 1234")
READ = """
import json, sys
from rapidocr import RapidOCR
engine = RapidOCR()
for _ in range(2):
    found = engine(sys.argv[1])
with open(sys.argv[2], "w") as told:
    json.dump([found.txts, [float(score) for score in found.scores]], told)
"""
#: Its models have 30 MiB of weights, the largest of them 20.
BUDGET = ("--budget", "21MiB", "--block", "1MiB")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    picture = Image.new("RGB", (640, 260), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(LINES):
        place = (20, 20 + 70 * number)
        draw.text(place, line, fill="black", font=ImageFont.load_default(28))
    path = tmp_path / "page.png"
    picture.save(path)
    return path


def read(page: Path, *command: str) -> tuple[Any, str]:
    program, told = page.parent / "read.py", page.parent / "told.json"
    program.write_text(READ, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *command, str(program), str(page), str(told)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(told.read_text(encoding="utf-8")), done.stderr


def test_rapidocr_reads_the_same_in_less_memory_than_its_weights(page: Path) -> None:
    (texts, scores), _ = read(page)
    served, told = read(page, "-m", "vramx", "run", "--backend", "simulated", *BUDGET)
    assert served[0] == texts == list(LINES)
    # Without packed weights of its own onnxruntime's CPU provider sums in another order.
    assert served[1] == pytest.approx(scores, abs=1e-5)
    rows = [line.split() for line in told.splitlines() if ".onnx " in line]
    assert len(rows) == 3
    assert all(int(row[3]) >= 2 for row in rows)  # uses
    counts = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  "))
    assert counts["peak_resident"] == "21.00 MiB"
    assert counts["moved_out"] == counts["over_link"] == "0 B"
