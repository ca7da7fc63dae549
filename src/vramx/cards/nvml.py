"""What NVML says about a card's memory."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vramx.cards.pcie import link_rate
from vramx.errors import ConfigError, NoDeviceError


@dataclass(frozen=True)
class CardMemory:
    """A card's memory as NVML reports it.

    Attributes
    ----------
    total, free : int
        Bytes.
    others : dict of int to int
        Bytes that other processes hold, by process number; empty where NVML cannot tell.
    """

    total: int
    free: int
    others: dict[int, int]


@contextlib.contextmanager
def open_nvml() -> Iterator[Any]:
    """Open NVML for a scope, which may lie in another.

    Yields
    ------
    module
        pynvml.

    Raises
    ------
    ImportError
        If nvidia-ml-py is not installed.
    pynvml.NVMLError
        If NVML, which comes with NVIDIA's driver, is absent.
    """
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def card_memory(uuid: str) -> CardMemory:
    """Ask NVML for a card's memory and who holds it.

    Parameters
    ----------
    uuid : str
        The card's UUID, ``"GPU-…"``.

    Returns
    -------
    CardMemory
        What NVML says now.

    Raises
    ------
    ImportError
        If nvidia-ml-py is not installed.
    pynvml.NVMLError
        If NVML is absent or does not know the card.
    """
    with open_nvml() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        others = {
            each.pid: each.usedGpuMemory
            for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if each.pid != os.getpid() and each.usedGpuMemory is not None
        }
        return CardMemory(total=memory.total, free=memory.free, others=others)


@functools.lru_cache
def pinned_rate(uuid: str) -> float | None:
    """Estimate what pinned copies reach over a card's link, from the widest it can be here.

    Parameters
    ----------
    uuid : str
        The card's UUID, ``"GPU-…"``.

    Returns
    -------
    float or None
        Bytes a second, one direction; None where NVML is absent or cannot tell.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        with open_nvml() as nvml:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            generation = nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)
            lanes = nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)
    except pynvml.NVMLError:
        return None
    return link_rate(generation, lanes) if generation and lanes else None


class NvmlCard:
    """A card's free memory as NVML reports it: kept open, so that asking again is cheap.

    Parameters
    ----------
    uuid : str
        The card's UUID, ``"GPU-…"``; CUDA's numbers are permuted by ``CUDA_VISIBLE_DEVICES``.

    Raises
    ------
    ConfigError
        If nvidia-ml-py is not installed.
    NoDeviceError
        If NVML is absent or does not know the card.
    """

    def __init__(self, uuid: str) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise ConfigError(
                "NVML is read through nvidia-ml-py, which is not installed: "
                "pip install nvidia-ml-py"
            ) from error
        self._uuid = uuid
        self._scope = contextlib.ExitStack()
        self._opened: tuple[Any, Any] | None = None
        try:
            self.free()
        except pynvml.NVMLError as error:
            raise NoDeviceError(
                f"NVML cannot tell what is free on the card {uuid} ({error}): it comes with "
                "NVIDIA's driver, as libnvidia-ml.so.1"
            ) from error

    def free(self) -> int:
        """Ask for the bytes that no process holds.

        Returns
        -------
        int
            Bytes.

        Raises
        ------
        pynvml.NVMLError
            If NVML fails. The next call opens it again.
        """
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._close)
            if self._opened is None:
                nvml = self._scope.enter_context(open_nvml())
                self._opened = nvml, nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            nvml, handle = self._opened
            free = int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
            on_failure.pop_all()
        return free

    def _close(self) -> None:
        self._opened = None
        self._scope.close()
