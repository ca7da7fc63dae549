"""A fresh interpreter, for what needs a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

# From 3.12 on Python warns of a fork beside threads, which is what some children look at.
FORKS_BESIDE_THREADS = "ignore:This process (pid=:DeprecationWarning"


def run_child(code: str, *arguments: str, timeout: float = 120) -> str:
    """What a fresh interpreter prints; it fails if that complains, ends badly or takes too long."""
    done = subprocess.run(
        [sys.executable, "-W", FORKS_BESIDE_THREADS, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout
