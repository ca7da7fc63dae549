"""A room uses only rooms on floors below its own; see CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "vramx"

NATIVE = (
    "base",
    "forms",
    "device",
    "mover",
    "table",
    "plan",
    "strategy",
    "residency",
    "pool",
    "core",
    "calls",
    "abi",
    "bind",
)
# A strategy decides and never acts, so it does not see what acts, although that lies lower.
NATIVE_ONLY = {"plan": {"base"}, "strategy": {"base", "device", "table", "plan"}}
NATIVE_FOREIGN = {"cuda.h": {"device"}, "nvtx3": {"device"}, "nanobind": {"calls", "bind"}}
# What a leased call reads are Python objects, but Python sees nothing of that floor itself.
BINDS = re.compile(r"\b(class_|enum_|module_|NB_MODULE)\b")

PYTHON = (
    {"_core", "errors", "units"},
    {"importing", "program"},
    {"arrays", "checkpoints", "config", "hostram", "progress", "settings", "stopping", "uses"},
    {"processes"},
    {"cards", "writing"},
    {"seeing"},
    {"session"},
    {"queue"},
    {"integrations"},
    {"pipelines"},
    {"tasks"},
    {"integrations/ray"},
    {"engines"},
    {"doctor"},
    {"forecast", "monitor"},
    {"bench"},
    {"__init__"},
    {"demo", "service"},
    {"cli", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(PYTHON) for room in rooms}
# Files of one floor know nothing of each other, not by types either.
TORCH = (
    {"components", "history", "internals", "modelspec", "naming", "precision", "tensors", "timing"},
    {"allocator", "core", "memory"},
    {"caching", "digests", "storages", "unleased"},
    {"fusing", "loading", "moving", "passes"},
    {"places", "root_call"},
    {"module_memory"},
    {"units"},
    {"leases", "sample"},
    {"managed"},
    {"bridge"},
    {"__init__"},
)
TORCH_FLOOR = {name: floor for floor, names in enumerate(TORCH) for name in names}
# Reached from below too, but only inside functions: a framework is loaded when it is used.
LAZY = "integrations"
FRAMEWORKS = {
    "torch": ("integrations/torch", "pipelines/", "bench/", "demo/"),
    "cupy": ("integrations/cupy",),
    "onnxruntime": ("integrations/onnxruntime/",),
    "onnx": (),
    "PIL": ("pipelines/pictures/", "demo/"),
    "av": ("pipelines/pictures/", "pipelines/video/"),
    "skimage": ("pipelines/faces.py",),
    "tqdm": (),
    "ray": ("integrations/ray/", "engines/actors.py"),
    "anyio": ("service/",),
    "fastapi": ("service/",),
    "prometheus_client": ("service/",),
    "pydantic": ("service/",),
    "starlette": ("service/",),
    "uvicorn": ("service/",),
}

ENVIRONMENT = re.compile(r"\b(environ|getenv)\b")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)


def room_of(name: str) -> str:
    """The room of a file by its path in the package; that for Ray in `integrations` is higher."""
    inside = name.removesuffix(".py").split("/")
    pair = "/".join(inside[:2])
    return pair if pair in FLOOR else inside[0]


def native_violations(csrc: Path) -> list[str]:
    """What in the C++ sources breaks the floor rule, one line each."""
    found = []
    for path in sorted(csrc.rglob("*.[hc]*")):
        name = path.relative_to(csrc)
        room = name.parts[0]
        where = f"{csrc.name}/{name.as_posix()}"
        if room not in NATIVE:
            found.append(f"{where}: room {room!r} has no floor; give it one in NATIVE")
            continue
        below = NATIVE_ONLY.get(room, set(NATIVE[: NATIVE.index(room)]))
        text = path.read_text(encoding="utf-8")
        if room != "bind" and (binds := BINDS.search(text)):
            found.append(f"{where}: {binds[0]} defines what Python sees, which only bind may")
        for quote, target in INCLUDE.findall(text):
            other = target.split("/")[0]
            if other in NATIVE:
                if other != room and other not in below:
                    found.append(
                        f'{where}: includes "{target}", but {room} may include only '
                        f"{sorted(below)} and itself"
                    )
            elif other in NATIVE_FOREIGN:
                if room not in NATIVE_FOREIGN[other]:
                    only = " and ".join(sorted(NATIVE_FOREIGN[other]))
                    found.append(f"{where}: includes <{target}>, which only {only} may")
            elif quote == '"':
                found.append(f'{where}: includes "{target}", which is not of the form "room/file"')
    return found


def imports(
    node: ast.AST, package: tuple[str, ...], inside: bool = False, *, types: bool = False
) -> Iterator[tuple[str, int, bool]]:
    """Every dotted name imported under `node`, its line, and whether inside a function.

    With `types`, what is imported for types alone too.
    """
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield alias.name, node.lineno, inside
        case ast.ImportFrom(module=module, names=names, level=level):
            source = [*package[: len(package) - level + 1]] if level else []
            for alias in names:
                name = ".".join([*source, *([module] if module else []), alias.name])
                yield name, node.lineno, inside
        case ast.If(test=ast.Name("TYPE_CHECKING"), orelse=otherwise) if not types:
            yield from imports(ast.Module(otherwise, []), package, inside)
        case _:
            inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for child in ast.iter_child_nodes(node):
                yield from imports(child, package, inside, types=types)


def torch_violations(package: Path) -> list[str]:
    """What in the room for torch breaks its own order, one line each."""
    room = package / "integrations/torch"
    parents = (PACKAGE, "integrations", "torch")
    found = []
    for path in sorted(room.rglob("*.py")):
        name, *inner = path.relative_to(room).with_suffix("").parts
        if name not in TORCH_FLOOR:
            found.append(f"torch/{name}.py: has no floor; give it one in TORCH")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for target, line, _ in imports(tree, (*parents, name) if inner else parents, types=True):
            if not target.startswith(f"{'.'.join(parents)}."):
                continue
            other = target.split(".")[len(parents)]
            if other not in TORCH_FLOOR:
                other = "__init__"
            if other != name and TORCH_FLOOR[other] >= TORCH_FLOOR[name]:
                found.append(f"torch/{name}.py:{line}: imports {target}, not from below {name}")
    return found


def python_violations(package: Path) -> list[str]:
    """What in the Python sources breaks the floor rule, one line each."""
    found = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        room = room_of(name)
        if room not in FLOOR:
            found.append(f"{name}: room {room!r} has no floor; give it one in PYTHON")
            continue
        text = path.read_text(encoding="utf-8")
        if room != "config" and ENVIRONMENT.search(text):
            found.append(f"{name}: reads the environment, which only config may")
        tree = ast.parse(text, str(path))
        parents = (PACKAGE, *path.relative_to(package).parent.parts)
        for target, line, inside in imports(tree, parents):
            where = f"{name}:{line}"
            top, _, rest = target.partition(".")
            as_it_loads = f"{where}: imports {target} as the module loads; do it in a function"
            if not inside and not name.startswith(FRAMEWORKS.get(top, ("",))):
                found.append(as_it_loads)
            if top != PACKAGE:
                continue
            other = room_of(rest.replace(".", "/"))
            if other not in FLOOR:
                other = "__init__"  # `from vramx import name`: a name the package itself offers
            if other == LAZY and not name.startswith(LAZY):
                if not inside:
                    found.append(as_it_loads)
            elif other != room and FLOOR[other] > FLOOR[room]:
                found.append(f"{where}: imports {target}, which lies above {room}")
    return found


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_native_rooms_include_only_from_below() -> None:
    assert not (found := native_violations(ROOT / "csrc")), "\n".join(found)


def test_python_rooms_import_only_from_below() -> None:
    assert not (found := python_violations(ROOT / "src" / PACKAGE)), "\n".join(found)


def test_the_room_for_torch_is_a_chain_of_floors() -> None:
    assert not (found := torch_violations(ROOT / "src" / PACKAGE)), "\n".join(found)


LAWFUL_INCLUDES = {
    "device/device.hpp": '#include <memory>\n#include "base/bytes.hpp"\n',
    "device/driver.hpp": "#include <cuda.h>\n",
    "bind/module.cpp": '#include <nanobind/nanobind.h>\n#include "core/core.hpp"\n',
}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("base/bytes.hpp", '#include "device/device.hpp"', "base may include only"),
        ("device/driver.cpp", '#  include "mover/mover.hpp"', "device may include only"),
        ("plan/plan.hpp", '#include "device/device.hpp"', "plan may include only ['base']"),
        ("residency/moves.cpp", "#include <pool/pool.hpp>", "residency may include only"),
        ("abi/vramx.h", '#include "bind/module.cpp"', "abi may include only"),
        ("mover/mover.hpp", '#include "device.hpp"', 'not of the form "room/file"'),
        ("pool/pool.cpp", "#include <cuda.h>", "which only device may"),
        ("core/core.cpp", "#include <nanobind/nanobind.h>", "which only bind and calls may"),
        ("calls/leases.hpp", '#include "bind/bind.hpp"', "calls may include only"),
        ("calls/leases.cpp", 'nb::class_<Core>(module, "Core");', "which only bind may"),
        ("attic/old.cpp", "", "room 'attic' has no floor"),
        ("errors.py", "from vramx.config import read", "config.read, which lies above errors"),
        ("config.py", "from . import session", "vramx.session, which lies above config"),
        ("units.py", "def f():\n    import vramx.cli", "vramx.cli, which lies above units"),
        ("units.py", "from vramx import simulate", "vramx.simulate, which lies above units"),
        ("session.py", "from .integrations import torch", "torch as the module loads"),
        ("session.py", "try:\n    import torch\nfinally: ...", "torch as the module loads"),
        ("integrations/cupy.py", "import torch", "imports torch as the module loads"),
        ("cli.py", "import vramx.integrations.torch", "torch as the module loads"),
        (
            "session/opening.py",
            "from vramx.pipelines import chain",
            "chain, which lies above session",
        ),
        ("pipelines/chain.py", "import vramx.integrations.torch", "torch as the module loads"),
        ("pipelines/chain.py", "import av", "imports av as the module loads"),
        ("cards.py", "from os import getenv", "reads the environment"),
        ("attic.py", "", "room 'attic' has no floor"),
    ],
)
def test_a_planted_include_or_import_is_caught(
    tmp_path: Path, name: str, line: str, message: str
) -> None:
    native = not name.endswith(".py")
    root = plant(tmp_path, {**(LAWFUL_INCLUDES if native else {}), name: f"{line}\n"})
    assert len(found := (native_violations if native else python_violations)(root)) == 1
    assert name in found[0]
    assert message in found[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("units.py", "from vramx.integrations.torch.bridge import TorchBridge", "not from below"),
        (
            "places.py",
            "if TYPE_CHECKING:\n    from .managed import ManagedModule",
            "not from below",
        ),
        ("units.py", "def f():\n    from . import leases", "not from below"),
        ("internals/layout.py", "from vramx.integrations.torch import memory", "not from below"),
        ("attic.py", "", "has no floor"),
    ],
)
def test_a_planted_import_in_the_room_for_torch_is_caught(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    lawful = "from vramx import _core\nfrom vramx.integrations.torch.internals import layout\n"
    files = {"bridge.py": lawful, "internals/streams.py": "from .layout import tensors_on\n"}
    files[name] = f"{text}\n"
    package = plant(tmp_path, {f"integrations/torch/{each}": files[each] for each in files})
    assert len(found := torch_violations(package)) == 1
    assert name.split("/", maxsplit=1)[0].removesuffix(".py") in found[0]
    assert message in found[0]


def test_lawful_imports_pass(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "__init__.py": "from . import errors\nfrom .session import Session\n",
            "session.py": (
                "from typing import TYPE_CHECKING\n"
                "from . import _core, seeing\n"
                "if TYPE_CHECKING:\n"
                "    import torch\n"
                "def manage():\n"
                "    from .integrations import torch\n"
            ),
            "integrations/torch/hooks.py": "import torch\nfrom ...session import Session\n",
            "integrations/numpy.py": "def f():\n    import cupy\n",
            "pipelines/chain.py": "import torch\nfrom vramx import session\n",
        },
    )
    assert python_violations(package) == []
