"""`import vramx` needs neither a GPU nor any framework, and offers what it promises."""

import re
from pathlib import Path

import vramx
from child import run_child

PROMISED = {
    "Advice",
    "ConfigError",
    "DeviceError",
    "Error",
    "MediaError",
    "NoDeviceError",
    "OutOfMemoryError",
    "Session",
    "Stats",
    "advise",
    "empty",
    "evict",
    "face_swap",
    "install",
    "oversubscribe",
    "pin",
    "pipeline",
    "prefetch",
    "simulate",
    "stats",
    "super_resolution",
}

FORBID = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "cupy", "onnxruntime", "pynvml", "PIL", "av"}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Forbid())
"""


def test_import_works_where_no_framework_is_installed() -> None:
    names = run_child(
        FORBID + "import vramx\nprint(*[n for n in vramx.__all__ if hasattr(vramx, n)])"
    )
    assert set(names.split()) == set(vramx.__all__)


def test_import_loads_no_framework() -> None:
    loaded = run_child(
        "import sys, vramx, vramx.tasks\nprint(*{name.partition('.')[0] for name in sys.modules})"
    )
    frameworks = {
        "torch", "cupy", "onnx", "onnxruntime", "pynvml", "PIL", "av", "skimage", "tqdm",
    }  # fmt: skip
    assert not frameworks & set(loaded.split())


#: What the extras of the demo do not install, itself or by what they need.
BESIDE_THE_DEMO = {"av", "cupy", "diffusers", "onnxruntime", "matplotlib", "rich", "transformers"}


def test_the_demo_needs_no_more_than_its_extra_installs(tmp_path: Path) -> None:
    forbid = re.sub(r"in \{.*\}", f"in {BESIDE_THE_DEMO}", FORBID)
    read = run_child(
        forbid
        + """
from pathlib import Path
import numpy as np
import vramx.demo.super_resolution
from vramx.pipelines.pictures import load_picture
from PIL import Image
path = Path(sys.argv[1])
Image.fromarray(np.full((5, 7, 3), 9, np.uint8)).save(path)
print(load_picture(path).pixels.shape)
""",
        str(tmp_path / "picture.png"),
    )
    assert read.strip() == "(5, 7, 3)"


def test_public_names() -> None:
    assert set(vramx.__all__) >= PROMISED
    assert [name for name in vramx.__all__ if not hasattr(vramx, name)] == []


def test_errors_are_also_what_python_calls_them() -> None:
    for name in ("OutOfMemoryError", "NoDeviceError", "DeviceError", "ConfigError"):
        assert issubclass(getattr(vramx, name), vramx.Error), name
    assert issubclass(vramx.OutOfMemoryError, MemoryError)
    assert issubclass(vramx.ConfigError, ValueError)
