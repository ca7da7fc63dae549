"""Programs that people use, unedited, in a budget smaller than the models that they hold."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("onnx", reason="vramx reads models with onnx: pip install 'vramx[onnx]'")
pytest.importorskip("onnxruntime", minversion="1.28")
import onnx
from onnx import numpy_helper

from onnx_networks import write_detector, write_recognizer, write_swapper


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"{package} is not installed; make installs it",
    )


class Report:
    """What `vramx run` says at the end: counts, and the columns of each model."""

    def __init__(self, told: str) -> None:
        lines = told.partition("vramx on simulated card")[2].splitlines()
        self.counts = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
        table = lines[[line.startswith("module ") for line in lines].index(True) + 1 : -1]
        self.uses = {
            name: int(line[len(name) :].split()[2])
            for line in table
            if (name := line.split("  ")[0])
        }


def told_by(program: str, folder: Path, *command: str) -> tuple[dict[str, Any], str]:
    """Run a program that saves arrays in `told.npz`; return them, and its errors."""
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *command, str(path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "told.npz") as arrays:
        return dict(arrays), done.stderr


def plain_and_served(
    program: str, folder: Path, budget: str, block: str
) -> tuple[dict[str, Any], dict[str, Any], Report]:
    expected, _ = told_by(program, folder)
    card = ("--backend", "simulated", "--budget", budget, "--block", block)
    served, said = told_by(program, folder, "-m", "vramx", "run", *card)
    report = Report(said)
    assert report.counts["budget"] == report.counts["peak_resident"]
    assert report.counts["moved_out"] == report.counts["over_link"] == "0 B"
    assert served.keys() == expected.keys()
    return expected, served, report


LINES = ("Budgets are never exceeded", "Weights leave without a copy", "Page 42 of 1234")
READ = """
import numpy as np
from rapidocr import RapidOCR
sizes = {"EngineConfig.onnxruntime.intra_op_num_threads": 1, "Det.limit_side_len": 256}
engine = RapidOCR(params=sizes)
for _ in range(2):
    found = engine("page.png")
np.savez("told.npz", texts=found.txts, scores=found.scores)
"""


@needs("rapidocr")
def test_rapidocr_reads_the_same(tmp_path: Path) -> None:
    picture = Image.new("RGB", (440, 260), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(LINES):
        place = (20, 20 + 70 * number)
        draw.text(place, line, fill="black", font=ImageFont.load_default(28))
    picture.save(tmp_path / "page.png")
    # Its detector, classifier and recognizer have 30 MiB of weights, the largest 20.
    expected, served, report = plain_and_served(READ, tmp_path, "21.00 MiB", "1MiB")
    assert [*served["texts"]] == [*expected["texts"]] == [*LINES]
    # Without packed weights of its own onnxruntime's CPU provider sums in another order.
    assert served["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert len(report.uses) == 3
    assert min(report.uses.values()) >= 2


SWAP = """
import numpy as np
from onnxruntime import SessionOptions
from insightface.app import FaceAnalysis
from insightface.data import get_image
from insightface.model_zoo import get_model

options = SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.disable_prepacking", "1")
how = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
analysis = FaceAnalysis(name="models", **how)
analysis.prepare(ctx_id=0)
swapper = get_model("inswapper.onnx", **how)
picture = get_image("t1")
for _ in range(2):
    source, *targets = faces = analysis.get(picture, max_num=3)
    swapped = picture
    for target in targets:
        swapped = swapper.get(swapped, target, source)
np.savez("told.npz", picture=picture, swapped=swapped, **{
    name: [face[name] for face in faces] for name in ("bbox", "kps", "det_score", "embedding")
})
"""


@needs("insightface")
def test_insightface_finds_recognizes_and_swaps_the_same_faces(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_detector(tmp_path / "models" / "det.onnx")
    write_recognizer(tmp_path / "models" / "rec.onnx")
    write_swapper(tmp_path / "inswapper.onnx")
    # Of 4.4 MiB; the largest, the recognizer, has 1.6.
    expected, served, report = plain_and_served(SWAP, tmp_path, "2.00 MiB", "64KiB")
    for name, value in expected.items():
        assert np.array_equal(served[name], value), name
    assert len(expected["bbox"]) == 3
    assert not np.array_equal(expected["swapped"], expected["picture"])
    # It makes the detector anew, of bytes, for each of two sizes of pictures.
    assert report.uses == {
        "det.onnx": 0, "rec.onnx": 6, "inswapper.onnx": 4, "model": 2, "model (2)": 2,
    }  # fmt: skip


FIND = """
import numpy as np
from nudenet import NudeDetector
from skimage.data import astronaut
picture = np.ascontiguousarray(astronaut()[..., ::-1])
detectors = [NudeDetector(), NudeDetector("another.onnx")]
for _ in range(2):
    found = [each.detect(picture) for each in detectors]
np.savez("told.npz", **{
    f"{name} {n}": [each[name] for each in some]
    for n, some in enumerate(found) for name in ("class", "score", "box")
})
"""


@needs("nudenet")
def test_detectors_of_nudenet_find_the_same(tmp_path: Path) -> None:
    found = importlib.util.find_spec("nudenet")
    assert found is not None
    assert found.origin is not None
    model = onnx.load(Path(found.origin).parent / "320n.onnx")
    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values * values.dtype.type(1.05), weight.name))
    onnx.save(model, tmp_path / "another.onnx")
    # Each has 11.5 MiB of weights.
    expected, served, report = plain_and_served(FIND, tmp_path, "12.00 MiB", "512KiB")
    for n in range(2):
        assert [*served[f"class {n}"]] == [*expected[f"class {n}"]] == ["FACE_FEMALE"]
        assert np.abs(served[f"box {n}"] - expected[f"box {n}"]).max() <= 1
        # As with rapidocr.
        assert served[f"score {n}"] == pytest.approx(expected[f"score {n}"], abs=1e-5)
    assert report.uses == {"320n.onnx": 2, "another.onnx": 2}
