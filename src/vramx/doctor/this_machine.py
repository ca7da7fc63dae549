"""The machine that the program runs on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vramx import _core
from vramx.cards.nvml import CardMemory, card_memory, open_nvml
from vramx.config import from_environment
from vramx.doctor.machine import Card, HostMemory, LinkRates, Torch, UnknownFactError
from vramx.hostram import host_ram

_MAPPED_UNIT = 32 * 2**20
_COPY = 256 * 2**20
_COPIES = 4


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    with contextlib.ExitStack() as scope:
        try:
            nvml = scope.enter_context(open_nvml())
        except pynvml.NVMLError as error:
            raise UnknownFactError(
                f"NVML, which comes with NVIDIA's driver, says: {error}"
            ) from error
        yield nvml


def _or_zero(ask: Callable[[Any], int], handle: Any) -> int:
    import pynvml

    try:
        return int(ask(handle))
    except pynvml.NVMLError:
        return 0


class ThisMachine:
    """The facts of the machine that the program runs on; see `Machine`."""

    def system(self) -> str:
        """Tell the operating system's name and release."""
        return f"{platform.system()} {platform.release()} {platform.machine()}"

    def python(self) -> str:
        """Tell the interpreter's version."""
        return platform.python_version()

    def requirements(self) -> tuple[str, list[str]]:
        """Tell what vramx declares; see `Machine.requirements`."""
        try:
            about = importlib.metadata.metadata("vramx")
        except importlib.metadata.PackageNotFoundError as error:
            raise UnknownFactError(
                "vramx runs from a folder and is not an installed package"
            ) from error
        return about["Requires-Python"] or "", importlib.metadata.requires("vramx") or []

    def installed(self, package: str) -> str | None:
        """Tell a package's version; None where it is not installed."""
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def packing_kernels(self) -> tuple[bool, str]:
        """Tell whether vramx is built with kernels that pack weights, and by what, or why not."""
        return _core.packing_kernels()

    def driver(self) -> str | None:
        """Tell the driver's version; None where there is no driver."""
        try:
            with _nvml() as nvml:
                return str(nvml.nvmlSystemGetDriverVersion())
        except UnknownFactError:
            return None

    def cards(self) -> list[Card]:
        """List the cards by NVML."""
        with _nvml() as nvml:
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            return [
                Card(
                    ordinal=ordinal,
                    name=nvml.nvmlDeviceGetName(handle),
                    uuid=nvml.nvmlDeviceGetUUID(handle),
                    total=nvml.nvmlDeviceGetMemoryInfo(handle).total,
                    capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
                    generation=_or_zero(nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
                    lanes=_or_zero(nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
                    most_lanes=_or_zero(nvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
                )
                for ordinal, handle in enumerate(handles)
            ]

    def torch(self) -> Torch | None:
        """Describe torch; None where it is not installed."""
        if importlib.util.find_spec("torch") is None:
            return None
        import torch

        from vramx.integrations.torch.internals import unexpected

        return Torch(
            version=torch.__version__,
            cuda=torch.version.cuda,
            architectures=tuple(torch.cuda.get_arch_list()),
            available=torch.cuda.is_available(),
            unexpected=tuple(unexpected()),
        )

    def open_managed(self, ordinal: int) -> None:
        """Open a card for managed memory."""
        config = from_environment()
        _core.open_managed(
            driver=config.cuda_driver, ordinal=ordinal, deny_managed=config.deny_managed
        )

    def open_mapped(self, ordinal: int) -> None:
        """Open a card for mapped memory."""
        config = from_environment()
        _core.open_mapped(
            driver=config.cuda_driver,
            ordinal=ordinal,
            unit=_MAPPED_UNIT,
            deny_managed=config.deny_managed,
        )

    def host_memory(self) -> HostMemory:
        """Describe the host's memory."""
        import resource

        ram = host_ram()
        if ram is None:
            raise UnknownFactError("this system does not tell its memory as Linux does")
        lock, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return HostMemory(
            **asdict(ram), lock_limit=None if lock == resource.RLIM_INFINITY else lock
        )

    def link(self, ordinal: int) -> LinkRates:
        """Measure the link with pinned copies of 256 MiB by torch."""
        if importlib.util.find_spec("torch") is None:
            raise UnknownFactError("torch is not installed, with which the link is measured")
        import torch

        if not torch.cuda.is_available():
            raise UnknownFactError("torch finds no card, so there is no link to measure")
        from vramx.integrations.torch.timing import PinnedCopies

        copies = PinnedCopies(_COPY, ordinal)
        uuid = f"GPU-{torch.cuda.get_device_properties(ordinal).uuid}"
        return LinkRates(
            to_card=max(copies.to_card() for _ in range(_COPIES)),
            to_host=max(copies.to_host() for _ in range(_COPIES)),
            uuid=uuid,
        )

    def card_memory(self, uuid: str) -> CardMemory:
        """Tell a card's memory and who holds it."""
        return card_memory(uuid)

    def serves_processes(self) -> bool:
        """Look among the processes for the daemon of NVIDIA's multi-process service."""
        names = set()
        for path in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):  # it has ended
                names.add(path.read_text(encoding="utf-8", errors="replace").strip())
        return any(name.startswith("nvidia-cuda-mps") for name in names)
