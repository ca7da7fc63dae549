"""Fixtures that build the stand-in driver and hand out fresh instances of it."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vramx
from loopback.control import Loopback

ROOT = Path(__file__).resolve().parents[2]
NATIVE, BUILD = ROOT / "tests" / "native", ROOT / "build" / "native"


@pytest.fixture(scope="session")
def loopback_build() -> Path:
    """The folder with the built libraries: the one of `make native`, which has them already."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    cmake = shutil.which("cmake", path=path)
    if cmake is None:
        pytest.fail("the loopback driver is built with cmake, which is not installed")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of this run want the same
        for command in (
            [
                cmake,
                "-S",
                NATIVE,
                "-B",
                BUILD,
                "-G",
                "Ninja",
                f"-DPython_EXECUTABLE={sys.executable}",
            ],
            [cmake, "--build", BUILD, "--target", "loopback", "loopback_old", "profiler"],
        ):
            done = subprocess.run(
                command,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            if done.returncode != 0:
                pytest.fail(f"the loopback driver cannot be built:\n{done.stdout}{done.stderr}")
    return BUILD / "loopback"


def _instance(library: Path, folder: Path) -> Loopback:
    # A copy is another library to the loader, with a state of its own.
    for number in itertools.count():
        path = folder / f"libcuda{number}.so"
        if not path.exists():
            return Loopback(Path(shutil.copy(library, path)))
    raise AssertionError


@pytest.fixture
def loopback(loopback_build: Path, tmp_path: Path) -> Iterator[Loopback]:
    """A fresh driver, which holds nothing once the test has let go of what it made."""
    yield (one := _instance(loopback_build / "libloopback.so", tmp_path))
    gc.collect()  # what pytest.raises caught keeps its test's variables
    assert one.holds == {}


@pytest.fixture
def old_loopback(loopback_build: Path, tmp_path: Path) -> Loopback:
    """A driver that lacks cuMemPrefetchAsync."""
    return _instance(loopback_build / "libloopback_old.so", tmp_path)


@pytest.fixture
def on_card(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], vramx.Session]]:
    """Open a session on the stand-in driver; the test alone holds it, and it is closed after."""
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)
    yield lambda: vramx.oversubscribe("16MiB", block="2MiB", host_limit="64MiB")
    with contextlib.suppress(vramx.Error):
        vramx.current_session().close()
