"""The command: exit codes, JSON, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

import vramx
from vramx.cli import main
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
    assert started[0][2:] == ["--simulated", "--crop", "24x24"]
    assert Path(started[0][1]).name == "super_resolution.py"


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


def test_without_its_sources_the_demo_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vramx, "__file__", str(tmp_path / "a" / "b" / "vramx" / "__init__.py"))
    done = run("demo")
    assert done.exit_code == 1
    assert "make demo" in done.stderr


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vramx", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert vramx.__version__ in done.stdout
