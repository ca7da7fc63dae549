"""Children of a server that has loaded what they need, since each would take seconds to."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",  # which the first module that has weights loads
        "av",
        "PIL.Image",
        "skimage.data",
        "skimage.io._plugins.imageio_plugin",  # which the first of its pictures loads
        "hypothesis",
        "vramx.pipelines.enlarger",
        "vramx.pipelines.video",
        "vramx.queue",
    ]
)


def run_forked(code: str, *arguments: str, timeout: float = 120) -> str:
    """Run code as `child.run_child` does, where it uses torch and no fresh interpreter.

    Such a child ends as one of multiprocessing does, without the end of an interpreter.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = (folder, textwrap.dedent(code), arguments, dict(os.environ))
        process = processes.Process(target=_run, args=given)
        process.start()
        process.join(timeout)
        hangs = process.is_alive()
        process.kill()
        process.join()
        out, error = (Path(folder, name).read_text() for name in ("out", "error"))
    ended = "it hangs" if hangs else f"exit code {process.exitcode}"
    assert not hangs and process.exitcode == 0 and error == "", f"{ended}\n{out}{error}"  # noqa: PT018
    return out


SCRIPT = """
    import runpy, sys
    from pathlib import Path

    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(path: Path, *arguments: object) -> str:
    """Run a script in such a child."""
    return run_forked(SCRIPT, str(path), *map(str, arguments))


def _run(folder: str, code: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    for number, name in ((1, "out"), (2, "error")):
        with Path(folder, name).open("w") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    # From 3.12 on Python warns of a fork beside threads, which is what some children look at.
    warnings.filterwarnings("ignore", "This process .pid=", DeprecationWarning)
    exec(compile(code, "<child>", "exec"), {"__name__": "__main__"})
