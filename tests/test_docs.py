"""What the pages say is so: their code runs, their links lead somewhere, what they name exists."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import re
import runpy
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import vramx
from markdown_pages import Block, Page
from vramx.cli import main

pytest.importorskip("torch")
pytest.importorskip("av")
pytest.importorskip("skimage")

import docs_names
import vramx.config
from vramx.pipelines.chain import Pipeline
from vramx.pipelines.enlarger import SuperResolution
from vramx.pipelines.swapping.swap import FaceSwap

ROOT = Path(__file__).resolve().parents[1]
PAGES = [Page(path) for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]]
BLOCKS = [block for page in PAGES for block in page.blocks()]
PYTHON = [block for block in BLOCKS if block.language == "python"]

#: What the pages call things, and whose attributes those have.
KINDS: dict[str, Any] = {
    "session": vramx.Session,
    "trace": vramx.Trace,
    "queue": vramx.Queue,
    "job": vramx.Job,
    "sr": SuperResolution,
    "fs": FaceSwap,
    "chain": Pipeline,
    "Session": vramx.Session,
    "Job": vramx.Job,
    "Stage": vramx.Stage,
    "FaceModel": vramx.FaceModel,
}


def place_of(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@pytest.fixture(scope="module")
def page_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name."""
    folder = tmp_path_factory.mktemp("files")
    docs_names.write_files(folder)
    return folder


@pytest.fixture
def small_world(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    page_files: Path,
    one_thread: None,  # noqa: ARG001
    no_open_session: None,  # noqa: ARG001
    model_cache: None,  # noqa: ARG001
) -> Iterator[None]:
    """A folder with the files that the pages name, and a simulated card."""
    shutil.copytree(page_files, tmp_path, dirs_exist_ok=True)
    docs_names.simulate_small(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for package, module in docs_names.packages().items():
        monkeypatch.setitem(sys.modules, package, module)
    with vramx.simulate(granule="4KiB", unpack_rate="1TB/s"), docs_names.CudaIsTheCpu():
        yield


def compiled(block: Block) -> Any:
    """Compile a block so that errors name the page and its line."""
    text = docs_names.shrunk(block.text)
    return compile("\n" * (block.line - 1) + text, str(block.page), "exec")


@pytest.mark.parametrize("block", [each for each in PYTHON if each.not_run is None], ids=place_of)
@pytest.mark.usefixtures("small_world")
def test_a_block_of_python_runs_and_prints_what_the_page_says(block: Block) -> None:
    code = compiled(block)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, docs_names.namespace_for(code))
    if block.output is not None:
        assert printed.getvalue() == block.output


@pytest.mark.parametrize("block", [each for each in PYTHON if each.not_run], ids=place_of)
def test_a_block_that_is_not_run_says_why_and_names_only_what_exists(block: Block) -> None:
    assert len(block.not_run or "") > 10, f"{block.place}: say why it is not run"
    tree = compile(block.text, str(block.page), "exec", flags=ast.PyCF_ONLY_AST)
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("vramx"):
            package = ROOT / "src" / statement.module.replace(".", "/")
            source = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
            defined = {
                each.name
                for each in ast.walk(ast.parse(source.read_text("utf-8")))
                if isinstance(each, (ast.FunctionDef, ast.ClassDef))
            }
            if package.is_dir():  # which may offer what is defined in its files
                defined |= {
                    alias.name
                    for each in ast.walk(ast.parse(source.read_text("utf-8")))
                    if isinstance(each, ast.ImportFrom)
                    for alias in each.names
                }
            assert {each.name for each in statement.names} <= defined, block.place
    wrong = [fault for call in expressions(tree) if (fault := fault_of(call))]
    assert not wrong, f"{block.place}: {'; '.join(wrong)}"


def expressions(tree: ast.AST) -> Iterator[ast.expr]:
    """Go through the calls and attributes in code, the outermost first."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Call, ast.Attribute)):
            yield node


def attribute_of(owner: Any, name: str) -> Any:
    """Look an attribute up, of a class also one that its objects get as they are made."""
    if inspect.ismodule(owner):
        try:
            return importlib.import_module(f"{owner.__name__}.{name}")
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("vramx"):
                return None  # a package that it needs is not installed
    if hasattr(owner, name) or not inspect.isclass(owner):
        return getattr(owner, name)
    written = any(f"self.{name}" in inspect.getsource(each) for each in owner.__mro__[:-1])
    if written or name in getattr(owner, "__annotations__", ()):
        return None
    raise AttributeError(f"{owner.__name__} has no {name}")


def value_of(node: ast.expr) -> Any:
    """Find what a dotted name means, None where it is not vramx's to say."""
    if isinstance(node, ast.Name):
        return vramx if node.id == "vramx" else KINDS.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = value_of(node.value)
        is_known = owner is not None and (inspect.ismodule(owner) or inspect.isclass(owner))
        return attribute_of(owner, node.attr) if is_known else None
    return None


def keywords_of(function: Callable[..., Any]) -> set[str]:
    """Tell the keywords that a function takes; further options are those of a session."""
    parameters = inspect.signature(function).parameters.values()
    found = {each.name for each in parameters}
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        found |= set(inspect.signature(vramx.oversubscribe).parameters)
    return found


def fault_of(node: ast.expr) -> str | None:
    """Say what of a call or a dotted name does not exist."""
    try:
        value = value_of(node.func if isinstance(node, ast.Call) else node)
    except AttributeError as error:
        return str(error)
    if isinstance(node, ast.Call) and callable(value):
        unknown = {each.arg for each in node.keywords if each.arg} - keywords_of(value)
        if unknown and value is not vramx.Queue.submit:
            return f"{ast.unparse(node)}: there is no {', '.join(sorted(unknown))}"
    return None


def fault_in(code: str) -> str | None:
    """Say what is wrong with words in backticks, None where nothing is or vramx is not meant."""
    if code.startswith("vramx "):
        return fault_in_command(code)
    if re.fullmatch(r"VRAMX_[A-Z_]+(=\S+)?", code):
        known = code.split("=", maxsplit=1)[0] in Path(vramx.config.__file__).read_text("utf-8")
        return None if known else f"{code} is not read by vramx.config"
    try:
        tree = ast.parse(code, mode="eval")
    except SyntaxError:
        return None
    return next((fault for each in expressions(tree) if (fault := fault_of(each))), None)


def fault_in_command(line: str) -> str | None:
    """Say what subcommand or option of a command does not exist."""
    words = iter(shlex.split(line, comments=True)[1:])
    command: click.Command = main
    taken = {option for each in main.params for option in each.opts}
    for word in words:
        ends = not command.context_settings.get("allow_interspersed_args", True)
        if isinstance(command, click.Group) and not word.startswith("-") and word != "…":
            if word not in command.commands:
                return f"there is no command vramx {word}"
            command = command.commands[word]
            taken = {option for each in command.params for option in each.opts} | {"--help", "-h"}
        elif word == "--" or (ends and not word.startswith("-")):
            break  # what follows is another program's
        elif ends and any(word in each.opts and not each.is_flag for each in command.params):
            next(words)
        elif re.match(r"--?[a-z]", word) and word not in taken:
            return f"vramx {command.name} has no {word}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path.relative_to(ROOT)))
def test_what_stands_in_backticks_exists(page: Page) -> None:
    wrong = [
        f"{page.path}:{line}: {fault}" for code, line in page.code() if (fault := fault_in(code))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path.relative_to(ROOT)))
def test_commands_in_the_pages_have_the_options_that_are_given(page: Page) -> None:
    wrong = []
    for block in page.blocks():
        text = textwrap.dedent(block.text).replace("\\\n", " ")
        lines = [
            line.split("=", 1)[-1] if line.startswith("VRAMX_") else line
            for line in text.splitlines()
        ]
        commands = [
            line[line.index("vramx ") :] for line in lines if re.match(r"(\S+ )?vramx ", line)
        ]
        if block.language == "sh":
            wrong += [f"{block.place}: {fault}" for c in commands if (fault := fault_in_command(c))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings_that_exist(page: Page) -> None:
    wrong = []
    for target, line in page.links():
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        is_there = path.exists() and (not anchor or anchor in Page(path).anchors())
        if not is_there:
            wrong.append(f"{page.path}:{line}: {target}")
    assert not wrong, "\n".join(wrong)


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target, _ in Page(index).links()}
    assert {page.path for page in PAGES if page.path.parent == index.parent} - linked == {index}


@pytest.mark.usefixtures("one_thread", "no_open_session")
def test_reports_in_the_pages_are_those_of_the_example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = str(ROOT / "examples" / "residency.py")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for options in ([], ["--unpack-rate", "1TB/s"]):
        picture = str(tmp_path / "residency.html")
        monkeypatch.setattr(sys, "argv", [example, *options, "--picture", picture])
        runpy.run_path(example, run_name="__main__")
    printed = capsys.readouterr().out
    reports = [block for block in BLOCKS if block.text.startswith("plan from")]
    assert len(reports) >= 3
    for report in reports:
        assert report.text in printed, report.place


def literals() -> str:
    """All text in the sources, with what is filled in left out."""
    found = []
    for path in (ROOT / "src" / "vramx").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    for path in (ROOT / "csrc").rglob("*.cpp"):
        joined = re.sub(r'"\s*\n\s*"', "", path.read_text("utf-8"))
        found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', joined)
    return "\n".join(found)


def test_messages_in_the_headings_of_troubleshooting_are_those_of_the_code() -> None:
    text = literals()
    page = Page(ROOT / "docs" / "troubleshooting.md")
    messages = [*page.code_in_headings()]
    assert len(messages) > 20
    wrong = [
        f"{page.path}:{line}: {piece}"
        for message, line in messages
        for piece in message.split("…")
        if piece.strip(" ,.;:()") not in text
    ]
    assert not wrong, "\n".join(wrong)
