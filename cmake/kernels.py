"""Compiles the card's kernels to PTX as the library is built, with NVRTC and no CUDA toolkit.

``kernels.py find`` prints an NVRTC library, or nothing where there is none. ``kernels.py compile
NVRTC OUTPUT ROOT SOURCE HEADERS...`` writes a C++ file with the PTX, or with none where NVRTC is
empty; files are named as from ROOT, and the source includes no others.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# What every card of CUDA 12 runs, and what the driver compiles for any later one.
OLDEST_ARCHITECTURE = 60

CPP = """// Made by cmake/kernels.py.
#include "forms/packing_kernels.hpp"

namespace vramx {{

PackingKernels packing_kernels() {{
  static constexpr char ptx[] = R"ptx({ptx})ptx";
  return {{{{ptx, sizeof ptx - 1}}, "{origin}"}};
}}

}}  // namespace vramx
"""


class Nvrtc:
    """A library, opened."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def _call(self, name: str, *arguments: object) -> None:
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            said = self._library.nvrtcGetErrorString(result).decode()
            raise RuntimeError(f"{name} failed: {said}")

    def architecture(self) -> int:
        """Tell the oldest architecture that it compiles for and that matters."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        return min(each for each in known if each >= OLDEST_ARCHITECTURE)

    def _text(self, name: str, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(name, program, text)
        return text.value.decode()

    def compile(self, name: str, source: str, headers: dict[str, str], options: list[str]) -> str:
        """Return the PTX of a source; exits with the compiler's words where it does not compile."""

        def strings(texts: list[str]) -> ctypes.Array[ctypes.c_char_p]:
            return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))

        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.encode(),
            name.encode(),
            len(headers),
            strings(list(headers.values())),
            strings(list(headers)),
        )
        try:
            self._call("nvrtcCompileProgram", program, len(options), strings(options))
        except RuntimeError as error:
            sys.exit(f"{error}\n{self._text('nvrtcGetProgramLog', program)}")
        return self._text("nvrtcGetPTX", program)


def candidates() -> Iterator[Path]:
    """List NVRTC libraries: those of packages, older first, then those of toolkits."""
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    for folders, pattern in (
        (sys.path, "nvidia/*/lib/libnvrtc.so.{}"),
        ([*filter(None, toolkits), "/opt/cuda"], "lib64/libnvrtc.so.{}"),
    ):
        for version in (12, 13):
            for folder in folders:
                yield from sorted(Path(folder).glob(pattern.format(version)))


def find() -> str:
    """Return the first library that opens; empty where none does."""
    for path in candidates():
        try:
            Nvrtc(str(path))
        except (OSError, AttributeError, RuntimeError) as error:
            print(f"{path} is passed over: {error}", file=sys.stderr)
        else:
            return str(path)
    return ""


def compile_kernels(library: str, output: str, root: str, names: list[str]) -> None:
    """Write the C++ file with the kernels' PTX."""
    ptx, origin = "", "built without NVRTC"
    if library:
        nvrtc = Nvrtc(library)
        architecture = f"compute_{nvrtc.architecture()}"
        source, *headers = (Path(root, name).read_text(encoding="utf-8") for name in names)
        options = [f"--gpu-architecture={architecture}", "--std=c++17"]
        ptx = nvrtc.compile(names[0], source, dict(zip(names[1:], headers)), options)
        origin = f"NVRTC {nvrtc.version} for {architecture}"
    print(f"kernels: {origin}, {len(ptx)} bytes")
    Path(output).write_text(CPP.format(ptx=ptx, origin=origin), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "find":
        print(find())
    else:
        compile_kernels(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
