"""How the card's kernels are compiled as the library is built."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vramx import _core

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "cmake" / "kernels.py"
NAMES = (
    *(f"survey_{words}" for words in ("bf16", "fp16", "fp32")),
    *(
        f"{work}_{words}"
        for work in ("count", "pack", "unpack")
        for words in ("bf16", "fp16", "fp16_7", "fp32", "fp32_10", "fp32_7")
    ),
    *("place", "compare", "digest", "verify"),
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="session")
def nvrtc() -> str:
    found = run("find").stdout.strip()
    if not found:
        pytest.skip("there is no NVRTC library to compile kernels with")
    return found


def test_the_library_has_all_kernels_for_the_oldest_cards(nvrtc: str, tmp_path: Path) -> None:
    output = tmp_path / "kernels.cpp"
    forms = (ROOT / "csrc" / "forms").iterdir()
    headers = [f"forms/{each.name}" for each in forms if each.suffix in (".cuh", ".hpp")]
    done = run("compile", nvrtc, output, ROOT / "csrc", "forms/kernels.cu", *headers)
    assert done.returncode == 0, done.stderr
    text = output.read_text(encoding="utf-8")
    assert set(re.findall(r"\.entry vramx_(\w+)\(", text)) == set(NAMES)
    assert _core.packing_kernels()[1] in done.stdout


def test_what_does_not_compile_fails_the_build_with_the_compilers_words(
    nvrtc: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong.cu").write_text('#include "absent.hpp"\n', encoding="utf-8")
    done = run("compile", nvrtc, tmp_path / "kernels.cpp", tmp_path, "wrong.cu")
    assert done.returncode == 1
    assert "absent.hpp" in done.stderr
    assert not (tmp_path / "kernels.cpp").exists()


def test_without_nvrtc_the_build_has_no_kernels_and_says_so(tmp_path: Path) -> None:
    done = run("compile", "", tmp_path / "kernels.cpp", ROOT / "csrc", "forms/kernels.cu")
    assert done.returncode == 0, done.stderr
    assert "built without NVRTC, 0 bytes" in done.stdout
