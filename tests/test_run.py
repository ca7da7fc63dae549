"""`vramx run`: a program runs as under plain python, with its inference sessions in a budget."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from loopback.control import Loopback

pytest.importorskip("onnx", reason="vramx reads models with onnx: pip install 'vramx[onnx]'")
pytest.importorskip("onnxruntime", minversion="1.28")
from onnx_models import write_model

pytest_plugins = ("loopback.fixture",)

CARD = ("--backend", "simulated", "--block", "64KiB")
#: What of a program's models fits at once, of two.
BUDGET = ("--budget", "64KiB")
REPORT = "vramx on simulated card"


def start(
    *command: Any, budget: tuple[str, ...] = BUDGET, folder: Path, **how: Any
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vramx", "run", *CARD, *budget, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        **how,
    )


def run(*command: Any, folder: Path, mark: str = REPORT, **how: Any) -> tuple[int, str, str, str]:
    """Exit code, output, errors before the report, and the report."""
    process = start(*command, folder=folder, **how)
    out, error = process.communicate(timeout=120)
    said, begins, report = error.partition(mark)
    return process.returncode, out, said, begins + report


def plain(*command: Any, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models, neither of which fits with the other."""
    for number in range(2):
        write_model(tmp_path / f"{number}.onnx", ["matmul", "matmul"], number)
    return tmp_path


def program(folder: Path, code: str, name: str = "program.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


#: A program like those that people have: a subclass, a name imported before, two models by turns.
MODELS = r"""
    import sys, threading
    from onnxruntime import InferenceSession, SessionOptions
    import numpy as np

    class Picklable(InferenceSession):
        def __init__(self, path, **options):
            super().__init__(path, **options)
            self.path = path

    options = SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    first = Picklable("0.onnx", sess_options=options, providers=["CPUExecutionProvider"])
    second = InferenceSession("1.onnx", options, providers=["CPUExecutionProvider"])
    x = np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 64)
    feed = lambda x: {"x": x, "flag": np.array(True)}

    def work():
        y = x
        for _ in range(3):
            y = second.run(None, feed(first.run(None, feed(y))[0]))[0]
        sys.stdout.write(f"{y.tobytes().hex()[:64]} {y.sum()}\n")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for each in threads: each.start()
    for each in threads: each.join()
"""


def test_an_unedited_program_prints_the_same_and_its_models_take_turns(folder: Path) -> None:
    path = program(folder, MODELS)
    code, out, said, report = run(path, folder=folder)
    assert (code, out, said) == plain(path, folder=folder)
    rows = {line.split()[0]: line.split() for line in report.splitlines() if ".onnx " in line}
    assert sorted(rows) == ["0.onnx", "1.onnx"]
    for row in rows.values():
        assert row[3] == "6"  # uses
    assert "peak_resident     64.00 KiB" in report
    assert "moved_out         0 B" in report


ALIKE = {
    "arguments": """
        import sys, os
        print(sys.argv, __name__, __file__, sys.path[0], os.getcwd())
        import __main__
        print(__main__.__dict__ is globals(), __spec__)
    """,
    "exit code": "import sys; sys.exit(7)",
    "exit text": "raise SystemExit('no luck')",
    "imports beside it": "import helper; print(helper.__file__)",
    "exception": """
        def fail(): raise ValueError("inner")
        try:
            fail()
        except ValueError as error:
            raise KeyError("outer") from error
    """,
    "warning": "import warnings; warnings.warn('beware', stacklevel=1); print('on')",
    "syntax error": "print(1",
    "at exit": "import atexit; atexit.register(print, 'last'); print('first')",
    "thread that goes on": """
        import threading
        gate = threading.Event()
        threading.Thread(target=lambda: (gate.wait(), print("on"))).start()
        gate.set()
    """,
    "interrupted": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_program_ends_and_says_what_it_says_under_plain_python(name: str, folder: Path) -> None:
    program(folder, "", "sub/helper.py")
    path = program(folder, ALIKE[name], "sub/program.py").relative_to(folder)
    arguments = ("--budget", "1", "-m", "x")
    code, out, said, report = run(path, *arguments, folder=folder)
    assert (code, out, said) == plain(path, *arguments, folder=folder)
    assert report.startswith(REPORT)


def test_a_module_is_run_as_by_python_m(folder: Path) -> None:
    program(folder, "", "package/__init__.py")
    program(folder, "import sys; print(sys.argv, sys.path[0], __package__)", "package/__main__.py")
    arguments = ("-m", "package", "-m", "--budget", "1")
    assert run(*arguments, folder=folder)[:3] == plain(*arguments, folder=folder)
    code, _, said, _ = run("-m", "no_such", folder=folder)
    assert (code, "No module named no_such" in said) == (1, True)


def test_what_is_wrong_with_the_command_is_one_line_before_the_program_runs(folder: Path) -> None:
    path = program(folder, "print('ran')")
    for arguments, expected, ends in (
        (("nowhere.py",), "there is no file nowhere.py", 1),
        (("--budgets", "1", path), "No such option", 2),
        (("--budget", "much", path), "much", 1),
        ((), "Missing argument", 2),
    ):
        code, out, said, report = run(*arguments, folder=folder)
        assert (code, out, report) == (ends, "", "")
        assert expected in said
        assert "Traceback" not in said


def test_a_model_larger_than_the_budget_fails_as_itself(folder: Path) -> None:
    path = program(folder, MODELS)
    write_model(folder / "1.onnx", ["matmul"] * 5)
    code, _, said, _ = run(path, folder=folder)
    assert code == 1
    assert "OutOfMemoryError: 1.onnx has weights of 80.00 KiB" in said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_killed_programs_leave_no_process_and_no_file(
    how: signal.Signals, folder: Path
) -> None:
    busy = program(
        folder,
        """
        import onnxruntime, tempfile
        options = onnxruntime.SessionOptions()
        tempfile.gettempdir()  # Python tries it once, with a file that a kill can leave
        print("ready", flush=True)
        while True:
            onnxruntime.InferenceSession("0.onnx", options, providers=["CPUExecutionProvider"])
        """,
    )
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", "import onnxruntime"], env=environment, check=True)
    its_own = [*temporary.iterdir()]
    process = start(busy, folder=folder, env=environment, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    said = None
    for _ in range(6):  # Python loses an interrupt that comes while it runs a finalizer
        process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, said = process.communicate(timeout=20)
            break
    assert said is not None
    assert process.returncode == -how
    assert ("KeyboardInterrupt" in said and REPORT in said) == (how == signal.SIGINT)
    assert [*temporary.iterdir()] == its_own
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_sessions_for_the_cpu_are_left_alone_beside_a_card(
    folder: Path, loopback: Loopback
) -> None:
    path = program(folder, "import torch" + textwrap.dedent(MODELS))
    without_torch = program(folder, MODELS, "without_torch.py")  # which is seconds sooner
    environment = {**os.environ, "VRAMX_CUDA_DRIVER": str(loopback.path)}
    budget = ("--backend", "auto", "--budget", "64MiB", "--block", "2MiB")
    code, out, said, report = run(
        path, folder=folder, budget=budget, env=environment, mark="vramx on "
    )
    assert (code, out, said) == plain(without_torch, folder=folder)
    assert "simulated" not in report
    assert ".onnx" not in report


def test_a_program_without_onnxruntime_loads_neither_it_nor_torch(folder: Path) -> None:
    path = program(folder, "import sys; print({'torch', 'onnxruntime', 'onnx'} & {*sys.modules})")
    assert run(path, folder=folder)[1] == "set()\n"
