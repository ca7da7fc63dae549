"""Runs what is measured in processes of their own, so that nobody has another's memory."""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import failure

#: Takes figures as they are known, before what has made them is closed.
Write = Callable[[dict[str, Any]], None]


def ended(done: subprocess.CompletedProcess[str]) -> str:
    """Say how a process ended that wrote no figures."""
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def measure_apart(module: str, asked: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Call a module's ``measure`` in a process of its own, for so many seconds at most.

    That takes what is asked, and what to call with its figures. Returned are these, with a note if
    it ended badly after them; or an error, or why it was skipped.
    """
    own = [sys.executable, "-m", "benchmarks.apart"]
    environment = {"VRAMX_MANAGED_LIMIT": "48GiB", **os.environ}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        try:
            done = subprocess.run(
                [*own, module, json.dumps(asked, default=str), str(file)],
                cwd=Path(__file__).parents[1],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            how = "" if done.returncode == 0 else ended(done)
        except subprocess.TimeoutExpired:
            how = f"not done after {timeout:g} s"
        if not file.exists():
            return {"error": how or "wrote no figures"}
        figures: dict[str, Any] = json.loads(file.read_text())
    return {**figures, "note": f"after its passes: {how}"} if how else figures


def main() -> None:
    """Measure what `measure_apart` asked for."""
    module, asked, file = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    try:
        importlib.import_module(module).measure(
            asked, lambda figures: file.write_text(json.dumps(figures)) and None
        )
    except Exception as error:
        if file.exists():  # measured; it ended badly
            raise
        traceback.print_exc()
        file.write_text(json.dumps(failure(error)))


if __name__ == "__main__":
    main()
