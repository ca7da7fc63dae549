"""Count unified-memory page faults of this process with CUPTI; needs nvcc and a card."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FaultCounts:
    """What the driver reported since the last look.

    Attributes
    ----------
    gpu_fault_groups : int
        Groups of page faults that kernels took.
    bytes_to_device, bytes_to_host : int
        Unified memory migrated or duplicated, by whatever cause.
    """

    gpu_fault_groups: int
    bytes_to_device: int
    bytes_to_host: int


class PageFaults:
    """Counts from its making on; make it before anything uses CUDA.

    Raises
    ------
    RuntimeError
        If there is no nvcc, or CUPTI refuses.
    """

    def __init__(self) -> None:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise RuntimeError("counting page faults needs nvcc on the PATH")
        home = Path(nvcc).resolve().parent.parent
        if not (home / "include").is_dir():
            home = Path("/usr/local/cuda")
        places = [home, *home.glob("targets/*"), *home.glob("extras/CUPTI")]
        library = Path(tempfile.mkdtemp()) / "page_faults.so"
        subprocess.run(
            [
                nvcc, "-shared", "-Xcompiler", "-fPIC", "-O2", "-cudart", "none",
                *(f"-I{place / 'include'}" for place in places),
                *(f"-L{place / name}" for place in places for name in ("lib", "lib64")),
                *(f"-Xlinker=-rpath={p / name}" for p in places for name in ("lib", "lib64")),
                str(Path(__file__).with_name("page_faults.cpp")), "-lcupti", "-lcuda",
                "-o", str(library),
            ],
            check=True,
        )  # fmt: skip
        self._library = ctypes.CDLL(str(library))
        result = self._library.page_faults_start()
        if result != 0:
            raise RuntimeError(f"CUPTI refused to count page faults: error {result}")

    def read(self) -> FaultCounts:
        """Return the counts since the last call, or since the start."""
        out = (ctypes.c_uint64 * 3)()
        self._library.page_faults_read(out)
        return FaultCounts(*out)
