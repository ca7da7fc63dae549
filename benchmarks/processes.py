"""Runs what is measured in processes of their own, so that nobody has another's memory."""

from __future__ import annotations

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


class NotInstalledError(Exception):
    """What a peer needs is not installed; says what."""


def ended(done: subprocess.CompletedProcess[str]) -> str:
    """Say how a process ended that wrote no figures."""
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def run_script(script: str, asked: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Run a script of this folder that calls `answer`.

    Parameters
    ----------
    script : str
        Its file's name.
    asked : dict
        What to measure.
    timeout : float
        Seconds that it may take.

    Returns
    -------
    dict
        Its figures, with a note if it ended badly after them; or an error.
    """
    path = Path(__file__).with_name(script)
    environment = {"VRAMX_MANAGED_LIMIT": "48GiB", **os.environ}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "figures.json"
        try:
            done = subprocess.run(
                [sys.executable, str(path), json.dumps(asked), str(report)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            how = "" if done.returncode == 0 else ended(done)
        except subprocess.TimeoutExpired:
            how = f"not done after {timeout:g} s"
        if not report.exists():
            return {"error": how or "wrote no figures"}
        figures = json.loads(report.read_text())
    return {**figures, "note": f"after its passes: {how}"} if how else figures


def answer(measure: Callable[[dict[str, Any], Path], None]) -> int:
    """Measure what `run_script` asked for.

    Parameters
    ----------
    measure : callable
        Takes what was asked, and the file to which it writes its figures.
    """
    asked, report = json.loads(sys.argv[1]), Path(sys.argv[2])
    try:
        measure(asked, report)
    except NotInstalledError as error:
        report.write_text(json.dumps({"error": f"not installed: {error}"}))
    except Exception as error:
        if report.exists():  # measured; it ended badly
            raise
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        report.write_text(json.dumps({"error": f"{type(error).__name__}: {said[0]}"}))
    return 0
