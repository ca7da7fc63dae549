"""`import vramx` needs neither a GPU nor any framework, and offers what it promises."""

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
    frameworks = {"torch", "cupy", "onnxruntime", "pynvml", "PIL", "av", "skimage", "tqdm"}
    assert not frameworks & set(loaded.split())


def test_public_names() -> None:
    assert set(vramx.__all__) >= PROMISED
    assert [name for name in vramx.__all__ if not hasattr(vramx, name)] == []


def test_errors_are_also_what_python_calls_them() -> None:
    for name in ("OutOfMemoryError", "NoDeviceError", "DeviceError", "ConfigError"):
        assert issubclass(getattr(vramx, name), vramx.Error), name
    assert issubclass(vramx.OutOfMemoryError, MemoryError)
    assert issubclass(vramx.ConfigError, ValueError)
