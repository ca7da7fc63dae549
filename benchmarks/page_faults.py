"""Counts unified-memory page faults of this process with CUPTI; needs nvcc and a card."""

import contextlib
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import vramx
from benchmarks.report import SkippedError


class PageFaults:
    """Counts groups of faults from its making on; make it before anything uses CUDA."""

    def __init__(self) -> None:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise SkippedError("counting page faults needs nvcc on the PATH")
        home = Path(nvcc).resolve().parent.parent
        if not (home / "include").is_dir():
            home = Path("/usr/local/cuda")
        places = [home, *home.glob("targets/*"), *home.glob("extras/CUPTI")]
        library = Path(tempfile.mkdtemp()) / "page_faults.so"
        source = Path(__file__).with_name("page_faults.cpp")
        libraries = [place / name for place in places for name in ("lib", "lib64")]
        paths = [f"-I{place / 'include'}" for place in places]
        paths += [f"{flag}{each}" for each in libraries for flag in ("-L", "-Xlinker=-rpath=")]
        flags = ["-shared", "-Xcompiler", "-fPIC", "-O2", "-cudart", "none", *paths]
        building = [nvcc, *flags, source, "-lcupti", "-lcuda", "-o", library]
        if subprocess.run(building, check=False).returncode != 0:
            raise SkippedError("nvcc cannot build what counts page faults")
        self._library = ctypes.CDLL(str(library))
        self._library.page_faults_taken.restype = ctypes.c_uint64
        if (result := self._library.page_faults_start()) != 0:
            raise SkippedError(f"CUPTI refused to count page faults: error {result}")
        self.steady = self.control = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count those of a scope."""
        self._library.page_faults_taken()
        yield
        self.steady = self._library.page_faults_taken()

    def provoke(self, used: nn.Module, session: vramx.Session, x: torch.Tensor) -> None:
        """Use a weight that vramx is not told of."""
        session.evict(used)
        self._library.page_faults_taken()
        nn.functional.linear(x, used[0].linear.weight)
        torch.cuda.synchronize()
        self.control = self._library.page_faults_taken()
