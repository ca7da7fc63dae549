"""ONNX Runtime's weights on a card: the same bits as stock, in less memory than they need."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401  # before onnxruntime, which then finds its CUDA libraries
from benchmarks.scenarios.onnx import sides, write_model

import vramx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx", reason="vramx reads models with onnx: pip install 'vramx[onnx]'")
from onnx_models import feed  # noqa: E402
from onnx_models import write_model as write_layers  # noqa: E402
from vramx.integrations.onnxruntime import inference_session  # noqa: E402

CUDA = "CUDAExecutionProvider"
if CUDA not in onnxruntime.get_available_providers():
    pytest.skip(f"this onnxruntime has no {CUDA}", allow_module_level=True)

MODELS, LAYERS, WIDTH = 4, 8, 1024  # 16 MiB of fp16 each
SEARCH = {"cudnn_conv_algo_search": "HEURISTIC"}


def stock(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=[(CUDA, SEARCH)])


@pytest.mark.parametrize("side", [0, 16])
def test_models_by_turns_give_the_bits_of_stock_and_nothing_is_written_back(
    side: int, tmp_path: Path
) -> None:
    width = 256 if side else WIDTH
    paths = [tmp_path / f"{number}.onnx" for number in range(MODELS)]
    for seed, path in enumerate(paths):
        write_model(path, seed, LAYERS, width, side)
    x = np.random.default_rng(9).standard_normal(sides(width, side)).astype(np.float16)
    expected = [stock(path).run(None, {"x": x})[0] for path in paths]
    gc.collect()
    with vramx.oversubscribe("40MiB" if not side else "24MiB", block="2MiB") as session:
        models = [inference_session(session, path, **SEARCH) for path in paths]
        before = session.stats()
        for _ in range(6):
            for model, out in zip(models, expected):
                assert np.array_equal(model.run(None, {"x": x})[0], out)
        after = session.stats()
        assert [row.uses for row in session.modules()] == [6] * MODELS
        assert after.moved_in > before.moved_in
        assert sum(row.moved_out for row in session.modules()) == 0
        assert after.peak_resident <= after.budget
        print(session.report())


def test_graphs_with_operations_on_the_cpu_and_branches_give_the_bits_of_stock(
    tmp_path: Path,
) -> None:
    for number, layers in enumerate(
        (["matmul", "gemm", "conv"], ["lstm", "shared"], ["half", "branches"], ["quantised"])
    ):
        path = write_layers(tmp_path / f"{number}.onnx", layers, number)
        expected = [stock(path).run(None, feed(turn))[0] for turn in range(2)]
        with vramx.oversubscribe("32MiB", block="2MiB") as session:
            model = inference_session(session, path, **SEARCH)
            for turn in range(2):
                assert np.array_equal(model.run(None, feed(turn))[0], expected[turn]), layers


PROGRAM = """
import hashlib, sys
import torch
from onnxruntime import InferenceSession
import numpy as np
options = {"cudnn_conv_algo_search": "HEURISTIC"}
providers = [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
models = [InferenceSession(path, providers=providers) for path in sys.argv[1:]]
x = np.ones((16, 1024), np.float16)
for turn in range(6):
    for model in models:
        x = model.run(None, {"x": x})[0]
    x = torch.from_numpy(x).cuda().tanh().cpu().numpy()
print(hashlib.sha256(x.tobytes()).hexdigest())
"""


def test_an_unedited_program_prints_the_same(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.onnx") for number in range(MODELS)]
    for seed, path in enumerate(paths):
        write_model(Path(path), seed, LAYERS, WIDTH, 0)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *command, str(program), *paths],
            capture_output=True,
            text=True,
            env=os.environ,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done

    served = run("-m", "vramx", "run", "--budget", "40MiB", "--block", "2MiB")
    assert served.stdout == run().stdout
    assert served.stderr.count(".onnx ") == MODELS


TORCH_PROGRAM = """
import hashlib
import torch
generator = torch.Generator().manual_seed(7)
layers = [torch.nn.Linear(1024, 1024, bias=False) for _ in range(16)]
for layer in layers:
    layer.weight.data = torch.randn(1024, 1024, generator=generator) / 32
model = torch.nn.Sequential(*layers).half().cuda()
x = torch.ones(16, 1024, dtype=torch.float16, device="cuda")
with torch.inference_mode():
    for _ in range(20):
        x = model(x).tanh()
print(hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest())
"""


def test_programs_share_a_card_by_a_queue_each_in_its_budget(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.onnx") for number in range(MODELS)]
    for seed, path in enumerate(paths):
        write_model(Path(path), seed, LAYERS, WIDTH, 0)
    onnx_program, torch_program = tmp_path / "models.py", tmp_path / "layers.py"
    onnx_program.write_text(PROGRAM, encoding="utf-8")
    torch_program.write_text(TORCH_PROGRAM, encoding="utf-8")
    programs = {
        "first": (onnx_program, *paths[:3]),
        "second": (onnx_program, *paths[1:]),
        "torch": (torch_program,),
    }

    def run(*command: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(program: tuple[object, ...]) -> str:
        budget = vramx.current_job().budget
        return run("-m", "vramx", "run", "--budget", budget, "--block", "2MiB", *program)

    expected = {name: run(*program) for name, program in programs.items()}
    with vramx.Queue("80MiB") as queue:  # for two of them at a time
        jobs = {
            name: queue.submit(serve, program, footprint="40MiB")
            for name, program in programs.items()
        }
        assert {name: job.result(240) for name, job in jobs.items()} == expected
