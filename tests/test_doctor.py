"""What the doctor finds on machines that are not there."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import vramx
from loopback.control import Loopback
from vramx.cards.nvml import CardMemory
from vramx.checkpoints import read_checkpoint
from vramx.doctor import EXIT_CODES, Finding, Severity, ThisMachine, examine, exit_code
from vramx.doctor.machine import Card, HostMemory, LinkRates, Torch, UnknownFactError
from vramx.doctor.versions import (
    FAMILY_DRIVERS,
    TOOLKIT_DRIVERS,
    Code,
    Compatibility,
    code_for,
    compatibility,
    format_version,
    parse_version,
)
from vramx.hostram import group_limits

pytest_plugins = ("loopback.fixture",)

GIB = 2**30
CARD = Card(0, "Card", "GPU-1", 12 * GIB, (8, 6), 4, 16, 16)
TORCH = Torch("2.13.0", "13.0", ("sm_80", "sm_90", "compute_90"), True)
HOST = HostMemory(64 * GIB, 60 * GIB)
RATES = LinkRates(25e9, 24e9, "GPU-1")
HELD = CardMemory(12 * GIB, 11 * GIB, {})
METHODS = [
    "system",
    "python",
    "requirements",
    "installed",
    "packing_kernels",
    "driver",
    "cards",
    "torch",
    "open_managed",
    "open_mapped",
    "host_memory",
    "link",
    "card_memory",
    "serves_processes",
]


@dataclass
class MadeUp:
    """A machine with a card, in order unless told otherwise; facts are given as attributes."""

    the_system: str = "Linux 6.8.0 x86_64"
    the_python: str = "3.12.3"
    lines: tuple[str, ...] = ("numpy>=1.26", 'torch>=2.8; extra == "torch"', 'rich; extra == "x"')
    packages: dict[str, str] = field(default_factory=lambda: {"numpy": "2.3", "torch": "2.13.0"})
    kernels: tuple[bool, str] = (True, "NVRTC 12.0 for compute_60")
    the_driver: str | None = "580.159.03"
    card: Card = CARD
    count: int = 1
    the_torch: Torch | None = TORCH
    managed: str = ""
    mapped: str = ""
    memory: HostMemory = HOST
    rates: LinkRates | None = RATES
    held: CardMemory = HELD
    mps: bool = False

    def system(self) -> str:
        return self.the_system

    def python(self) -> str:
        return self.the_python

    def requirements(self) -> tuple[str, list[str]]:
        return ">=3.10", list(self.lines)

    def installed(self, package: str) -> str | None:
        return self.packages.get(package)

    def packing_kernels(self) -> tuple[bool, str]:
        return self.kernels

    def driver(self) -> str | None:
        return self.the_driver

    def cards(self) -> list[Card]:
        return [self.card] * self.count

    def torch(self) -> Torch | None:
        return self.the_torch

    def open_managed(self, ordinal: int) -> None:
        if self.managed:
            raise vramx.NoDeviceError(f"card {ordinal} {self.managed}")

    def open_mapped(self, ordinal: int) -> None:
        if self.mapped:
            raise vramx.NoDeviceError(f"card {ordinal} {self.mapped}")

    def host_memory(self) -> HostMemory:
        return self.memory

    def link(self, ordinal: int) -> LinkRates:
        if self.rates is None:
            raise UnknownFactError(f"no copy to card {ordinal}")
        return self.rates

    def card_memory(self, uuid: str) -> CardMemory:
        assert uuid == self.card.uuid
        return self.held

    def serves_processes(self) -> bool:
        return self.mps


def worst(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding.severity)


def test_a_machine_in_order_has_nothing_worse_than_ok() -> None:
    findings = examine(machine=MadeUp())
    assert {finding.severity for finding in findings} == {Severity.OK}
    assert exit_code(findings) == 0


@pytest.mark.parametrize(
    ("machine", "check", "severity", "text"),
    [
        (MadeUp(the_system="Linux 5.15-microsoft-standard-WSL2"), "system", "NOTE", "WSL"),
        (MadeUp(the_system="Windows 11"), "system", "ERROR", "Windows"),
        (MadeUp(the_python="3.9.1"), "python", "ERROR", "needs >=3.10"),
        (MadeUp(packages={"numpy": "1.20"}), "packages", "ERROR", "numpy is 1.20"),
        (MadeUp(packages={}), "packages", "ERROR", "not installed"),
        (
            MadeUp(kernels=(False, "built without NVRTC")),
            "packing",
            "WARNING",
            "built without NVRTC",
        ),
        (MadeUp(the_driver=None), "driver", "ERROR", "no NVIDIA driver"),
        (MadeUp(the_driver="570.26"), "driver", "ERROR", "needs a newer driver"),
        (
            MadeUp(the_torch=Torch("2.9", "12.8", ("sm_80",), True), the_driver="535.54.03"),
            "driver",
            "NOTE",
            "minor version",
        ),
        (MadeUp(the_torch=Torch("9", "99.0", ("sm_80",), True)), "driver", "NOTE", "not know"),
        (MadeUp(the_torch=None), "torch", "NOTE", "pip install"),
        (MadeUp(the_torch=Torch("2.13", None, (), False)), "torch", "ERROR", "without CUDA"),
        (
            MadeUp(the_torch=Torch("9.0", "13.0", ("sm_80",), True, ("storages hide",))),
            "torch",
            "WARNING",
            "torch 9.0: storages hide",
        ),
        (MadeUp(the_torch=Torch("2.13", "13.0", (), False)), "torch", "ERROR", "finds no card"),
        (MadeUp(the_torch=Torch("2.13", "13.0", ("sm_90",), True)), "torch", "ERROR", "no kernel"),
        (
            MadeUp(the_torch=Torch("2.13", "13.0", ("compute_80",), True)),
            "torch",
            "NOTE",
            "compiles kernels",
        ),
        (
            MadeUp(the_torch=Torch("2.9", "12.8", ("compute_80",), True), the_driver="535.54.03"),
            "torch",
            "ERROR",
            "only PTX",
        ),
        (MadeUp(count=0), "cards", "ERROR", "finds no card"),
        (MadeUp(managed="has no concurrent access"), "managed memory", "NOTE", "no concurrent"),
        (
            MadeUp(managed="has no concurrent access", mapped="cannot map memory"),
            "managed memory",
            "UNUSABLE",
            "no usable GPU",
        ),
        (MadeUp(mapped="cannot map memory"), "mapped memory", "NOTE", "cannot map memory"),
        (MadeUp(memory=HostMemory(8 * GIB, 6 * GIB)), "host memory", "WARNING", "6.00 GiB of"),
        (
            MadeUp(memory=HostMemory(64 * GIB, 60 * GIB, group_limit=4 * GIB)),
            "host memory",
            "WARNING",
            "control group",
        ),
        (
            MadeUp(memory=HostMemory(64 * GIB, 60 * GIB, lock_limit=65536)),
            "pinned memory",
            "NOTE",
            "64.00 KiB",
        ),
        (MadeUp(rates=LinkRates(6e9, 25e9, "GPU-1")), "link", "WARNING", "27.7 GB/s"),
        (MadeUp(rates=LinkRates(25e9, 6e9, "GPU-1")), "link", "WARNING", "6.0 GB/s back"),
        (MadeUp(rates=None), "link", "NOTE", "not looked at: no copy to card 0"),
        (
            MadeUp(card=replace(CARD, lanes=4)),
            "link",
            "WARNING",
            "4 of 16 lanes",
        ),
        (
            MadeUp(held=CardMemory(12 * GIB, 2 * GIB, {77: 9 * GIB})),
            "card memory",
            "WARNING",
            "processes 77",
        ),
        (MadeUp(mps=True), "processes", "NOTE", "MPS"),
    ],
)
def test_what_is_wrong_is_found_and_says_why_and_what_to_do(
    machine: MadeUp, check: str, severity: str, text: str
) -> None:
    findings = [
        each
        for each in examine(machine=machine)
        if each.check == check and each.severity is Severity[severity]
    ]
    assert len(findings) == 1
    said = findings[0]
    assert text in f"{said.what} {said.why} {said.advice}"
    if not said.what.startswith("not looked at"):
        assert said.why
    if said.severity > Severity.NOTE:
        assert said.advice


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [RuntimeError("it broke"), UnknownFactError("nobody knows")])
def test_no_failing_fact_stops_the_other_checks(
    method: str, error: Exception, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MadeUp()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(machine, method, fail)
    findings = examine(weights, machine=machine)
    told = [each for each in findings if str(error) in each.what]
    expected = Severity.NOTE if isinstance(error, UnknownFactError) else Severity.WARNING
    assert {each.severity for each in told} == {expected}
    failed = {each.check for each in told}
    missing = {each.check for each in examine(weights, machine=MadeUp())} - {
        each.check for each in findings
    }
    assert missing <= {"python", "card memory", "mapped memory", "link"}
    assert {"system", "model"} <= failed | {each.check for each in findings}


def test_this_machine_without_a_card_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "libno_such_driver.so")
    findings = examine(machine=ThisMachine())
    assert worst(findings).severity is Severity.UNUSABLE
    assert "no usable GPU" in worst(findings).what
    assert exit_code(findings) == 5


def test_what_the_driver_says_of_a_card_is_found(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", loopback.path)

    def said(check: str) -> list[Finding]:
        return [each for each in examine(machine=ThisMachine()) if each.check == check]

    assert [each.severity for each in said("managed memory")] == [Severity.OK]
    assert [each.severity for each in said("mapped memory")] == [Severity.OK]
    loopback.set_maps_memory(0)
    assert [each.severity for each in said("mapped memory")] == [Severity.NOTE]
    loopback.set_maps_memory(1)
    loopback.set_concurrent_access(0)
    (finding,) = said("managed memory")
    assert finding.severity is Severity.NOTE
    assert "concurrent managed access" in finding.what
    assert "vramx.install() cannot be had" in finding.why
    assert [each.severity for each in said("mapped memory")] == [Severity.OK]
    loopback.set_maps_memory(0)
    (finding,) = said("managed memory")
    assert finding.severity is Severity.UNUSABLE
    assert "concurrent managed access" in finding.what
    loopback.set_cards(0)
    assert said("managed memory")[0].severity is Severity.UNUSABLE


def test_the_tightest_limit_of_the_control_groups_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("4096\n")
    (tmp_path / "memory.max").write_text("8192\n")
    (tmp_path.parent / "memory.max").write_text("1\n")  # above the mount: not a group
    assert sorted(group_limits(tmp_path, "0::/a/b\n")) == [4096, 8192]
    old = tmp_path / "memory" / "c"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("512\n")
    groups = "7:cpu,cpuacct:/c\n5:memory:/c\n1:name=systemd:/c\n"
    assert list(group_limits(tmp_path, groups)) == [512]
    assert list(group_limits(tmp_path / "none", "0::/\n")) == []


class Nvml(ModuleType):
    """NVML with one card, as far as it is asked."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: object) -> int:  # noqa: N802
        raise self.NVMLError(f"{handle} does not say")

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": "Card",
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=12 * GIB),
            "nvmlDeviceGetCudaComputeCapability": (8, 6),
            "nvmlDeviceGetMaxPcieLinkGeneration": 4,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: answers[name]


def test_nvml_is_asked_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml := Nvml())
    machine = ThisMachine()
    assert machine.driver() == "580.65.06"
    assert machine.cards() == [Card(0, "Card", "GPU-1", 12 * GIB, (8, 6), 4, 0, 16)]
    assert nvml.open == 0


def test_a_wrong_setting_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMX_MANAGED_LIMIT", "much")
    assert any("VRAMX_MANAGED_LIMIT" in each.what for each in examine(machine=ThisMachine()))


def test_exit_codes_rise_with_severity_and_leave_1_and_2_alone() -> None:
    codes = [exit_code([Finding("x", severity, "")]) for severity in Severity]
    assert codes == sorted(codes) == list(EXIT_CODES.values())
    assert not {1, 2} & set(codes)
    assert exit_code([]) == 0
    assert exit_code([Finding("x", each, "") for each in Severity]) == max(codes)


# Versions

numbers = st.integers(0, 999)
drivers = st.tuples(st.integers(300, 700), numbers, st.integers(0, 99))
toolkits = st.sampled_from(sorted(TOOLKIT_DRIVERS))


@given(toolkits)
def test_a_toolkits_own_driver_runs_it_fully_and_the_one_before_does_not(
    cuda: tuple[int, int],
) -> None:
    own = TOOLKIT_DRIVERS[cuda]
    assert compatibility(own, cuda) is Compatibility.FULL
    just_older = (*own[:-1], own[-1] - 1, 999)
    assert compatibility(just_older, cuda) < Compatibility.FULL


@given(st.sampled_from(sorted(FAMILY_DRIVERS)), st.integers(0, 30))
def test_a_familys_first_driver_runs_all_its_toolkits_and_the_one_before_none(
    major: int, minor: int
) -> None:
    first = FAMILY_DRIVERS[major]
    assert compatibility(first, (major, minor)) >= Compatibility.MINOR
    older = (first[0] - 1, 999)
    assert compatibility(older, (major, minor)) is Compatibility.TOO_OLD


@given(drivers, drivers, toolkits)
def test_a_newer_driver_is_never_worse(
    one: tuple[int, ...], other: tuple[int, ...], cuda: tuple[int, int]
) -> None:
    assert compatibility(max(one, other), cuda) >= compatibility(min(one, other), cuda)


@given(drivers, st.sampled_from([11, 12, 13]), st.integers(0, 20), st.integers(0, 20))
def test_a_newer_toolkit_of_a_family_is_never_easier(
    driver: tuple[int, ...], major: int, one: int, other: int
) -> None:
    newer, older = (major, max(one, other)), (major, min(one, other))
    assert compatibility(driver, newer) <= compatibility(driver, older)


@given(drivers)
def test_versions_survive_being_written(version: tuple[int, ...]) -> None:
    assert parse_version(format_version(version)) == version
    assert parse_version(f" {format_version(version)}+cu130") == version


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(vramx.ConfigError, match=r"580\.65\.06"):
        parse_version("new")


capabilities = st.tuples(st.integers(5, 12), st.integers(0, 9))


@given(capabilities, capabilities)
def test_machine_code_runs_within_its_major_and_ptx_on_all_newer(
    card: tuple[int, int], of: tuple[int, int]
) -> None:
    name = f"{of[0]}{of[1]}"
    machine_code = code_for(card, [f"sm_{name}"])
    assert machine_code == (Code.MACHINE if card[0] == of[0] and card[1] >= of[1] else Code.NONE)
    assert code_for(card, [f"compute_{name}"]) == (Code.PTX if card >= of else Code.NONE)
    assert code_for(card, [f"sm_{name}a"]) == (Code.MACHINE if card == of else Code.NONE)
    assert code_for(card, [f"compute_{name}", f"sm_{name}"]) == max(
        machine_code, code_for(card, [f"compute_{name}"])
    )


def test_names_of_architectures_that_are_not_known_count_as_nothing() -> None:
    assert code_for((9, 0), ["gfx90a", "", "sm_"]) is Code.NONE


# Files of weights


def model_findings(path: Path, **arguments: object) -> list[Finding]:
    found = examine(path, machine=MadeUp(), **arguments)
    return [each for each in found if each.check == "model"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": np.ones((64, 64), np.float32), "a.bias": np.ones(64, np.float16)}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    tied = torch.ones(64, 64)
    torch.save({"state": {"a.weight": tied, "b.weight": tied, "c": torch.ones(9).half()}}, path)
    return path


def test_a_whole_file_is_in_order(weights: Path, checkpoint: Path) -> None:
    for path in (weights, checkpoint):
        (finding,) = model_findings(path)
        assert finding.severity is Severity.OK
        assert "2 tensors" in finding.what


@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_anywhere_is_found(part: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({"a": np.ones(500, np.float32)}, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        (finding,) = model_findings(path)
        assert finding.severity is Severity.ERROR
        assert str(path) in finding.what


def test_a_checkpoint_cut_short_or_changed_is_found(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in model_findings(checkpoint)[0].what
    checkpoint.write_bytes(whole)
    with zipfile.ZipFile(checkpoint) as archive:
        data = max(archive.infolist(), key=lambda info: info.file_size)
    changed = bytearray(whole)
    changed[data.header_offset + data.file_size // 2] ^= 1
    checkpoint.write_bytes(bytes(changed))
    assert "checksum" in model_findings(checkpoint)[0].what


def test_a_checkpoint_with_more_than_weights_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    (finding,) = model_findings(path)
    assert finding.severity is Severity.ERROR
    assert "plain weights" in finding.what


def test_a_digest_is_compared(weights: Path) -> None:
    import hashlib

    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert worst(model_findings(weights, sha256=right.upper())).severity is Severity.OK
    assert worst(model_findings(weights, sha256="0" * 64)).severity is Severity.ERROR


def test_a_model_that_the_host_cannot_hold_is_found(weights: Path) -> None:
    small = MadeUp(memory=HostMemory(64 * GIB, 2**14))
    found = [each for each in examine(weights, machine=small) if each.check == "model"]
    assert "host memory" in worst(found).what


def test_an_index_leads_to_its_files(weights: Path) -> None:
    index = weights.parent / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": weights.name, "a.bias": weights.name}}))
    assert {each.name for each in read_checkpoint(index)} == {"a.weight", "a.bias"}
    index.write_text(json.dumps({"weight_map": {"a.weight": "gone.safetensors"}}))
    with pytest.raises(vramx.ConfigError, match=r"gone\.safetensors"):
        read_checkpoint(index)
    index.write_text("[]")
    with pytest.raises(vramx.ConfigError, match="not an index"):
        read_checkpoint(index)


def test_sizes_are_those_of_the_file(weights: Path, checkpoint: Path) -> None:
    assert sum(each.nbytes for each in read_checkpoint(weights)) == 64 * 64 * 4 + 64 * 2
    assert sum(each.nbytes for each in read_checkpoint(checkpoint)) == 64 * 64 * 4 + 9 * 2


@pytest.mark.parametrize("name", ["no.safetensors", "no.pt", "no.xyz"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    assert name in model_findings(tmp_path / name)[0].what


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    (path := tmp_path / "model.xyz").write_bytes(b"data")
    assert "neither safetensors nor a torch checkpoint" in model_findings(path)[0].what


@pytest.mark.parametrize(
    ("torchvision", "severity"), [("0.28.1", None), ("0.29.1", Severity.WARNING), (None, None)]
)
def test_a_torchvision_of_another_torch_is_told(
    torchvision: str | None, severity: Severity | None
) -> None:
    packages = {"numpy": "2.3", "torch": "2.13.0"}
    if torchvision is not None:
        packages["torchvision"] = torchvision
    found = [each for each in examine(machine=MadeUp(packages=packages)) if "vision" in each.what]  # type: ignore[arg-type]
    assert [each.severity for each in found] == ([] if severity is None else [severity])
    assert all("torchvision==0.28.*" in each.advice for each in found)
