"""Pipelines whose networks are ONNX files on a card: what they make, in less than their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401  # before onnxruntime, which then finds its CUDA libraries

import vramx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx", reason="vramx reads models with onnx: pip install 'vramx[onnx]'")
pytest.importorskip("skimage.data")
from onnx_networks import (  # noqa: E402
    write_detector,
    write_enhancer,
    write_recognizer,
    write_swapper,
    write_upscaler,
)
from pipelines.onnx_running import SIDE, photograph  # noqa: E402

CUDA = "CUDAExecutionProvider"
if CUDA not in onnxruntime.get_available_providers():
    pytest.skip(f"this onnxruntime has no {CUDA}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:.*what the detector took for a face")

WRITERS = {
    "detector": write_detector,
    "recognizer": write_recognizer,
    "swapper": write_swapper,
    "enhancer": lambda path: write_enhancer(path, SIDE),
}


def test_faces_are_swapped_by_files_as_on_the_cpu_and_in_a_small_budget(tmp_path: Path) -> None:
    paths = {role: tmp_path / f"{role}.onnx" for role in WRITERS}
    for role, write in WRITERS.items():
        write(paths[role])
    models = {**paths, "detector": vramx.FaceModel(paths["detector"], size=SIDE)}
    pictures = [photograph(seed=seed) for seed in range(3)]
    made = {}
    cards = {"cpu": {"budget": "64MiB", "backend": "simulated"}}
    cards |= {budget: {"budget": budget} for budget in ("64MiB", "6MiB")}
    for name, card in cards.items():
        with vramx.face_swap(**models, **card, block="2MiB", score=0.95, batch=2) as fs:
            made[name] = [*fs(pictures[0], pictures)]
            stats = fs.session.stats()
            assert stats.peak_resident <= stats.budget
            rows = fs.session.modules()
            assert {row.name for row in rows if row.uses} == {path.name for path in paths.values()}
    assert stats.evictions > 0
    assert sum(row.moved_out for row in rows) == 0
    for cpu, large, small, picture in zip(*made.values(), pictures, strict=True):
        assert np.array_equal(large, small)
        # The card sums in another order, and in TF32.
        assert np.abs(large.astype(int) - cpu).mean() < 1
        assert np.abs(large.astype(int) - picture).mean() > 2


def test_pictures_are_enlarged_by_a_file_whole_and_in_tiles(tmp_path: Path) -> None:
    path = tmp_path / "enlarge.onnx"
    write_upscaler(path, features=64)
    providers = [(CUDA, {"cudnn_conv_algo_search": "HEURISTIC"})]
    stock = onnxruntime.InferenceSession(path, providers=providers)
    fed = photograph().transpose(2, 0, 1)[None].astype(np.float32) / 255
    wanted = stock.run(None, {"input": fed})[0][0].transpose(1, 2, 0) * 255
    del stock
    planned = set()
    for budget in ("128MiB", "12MiB"):
        with vramx.super_resolution(path, budget=budget, block="2MiB") as sr:
            planned.add(sr.forecast(photograph()).describe())
            made = sr(photograph())
            stats = sr.session.stats()
        assert stats.peak_resident <= stats.budget
        # Half a step is the rounding to bytes; other sizes are summed in other orders, in TF32.
        assert np.abs(made - wanted).max() < 1.5
    assert len(planned) == 2
