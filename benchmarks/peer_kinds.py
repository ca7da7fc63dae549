"""The ways to run a model in a budget that are compared, each behind the same two calls."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vramx
from leaf_streaming import OneByOne, PrefixAndLeaves
from processes import NotInstalledError
from vramx.bench.layers import bytes_of
from vramx.bench.limits import BLOCK
from vramx.units import format_size

Run = Callable[..., Any]

#: The most weights that are put into managed memory with no policy, on a card that others may use.
NAIVE_LIMIT = 40 * 2**30


class RefusedError(Exception):
    """A peer that might exhaust a card that others use."""


@dataclass(frozen=True)
class Budget:
    """What a peer may have on the card.

    Attributes
    ----------
    weights : int
        Bytes of weights.
    activations : int
        Bytes for all else: what stock torch was seen to need besides the weights.
    """

    weights: int
    activations: int


class Peer:
    """One way to run a model.

    Attributes
    ----------
    takes_all : bool
        Whether all weights are on the card whatever the budget.
    heeds_budget : bool
        Whether the budget changes what it does. If not, one run serves every ratio.
    """

    takes_all = False
    heeds_budget = True

    def prepare(self, module: nn.Module, budget: Budget) -> Run:
        """Set up a module made on the CPU; return what is called with inputs on the card."""
        raise NotImplementedError

    def moved(self) -> int | None:
        """Return the bytes brought to the card so far, where they are known."""
        return None

    def bytes_beside_torch(self) -> int:
        """Return the most bytes on the card that torch does not count."""
        return 0

    def copying(self) -> float:
        """Return the seconds so far that are not to be counted as computing."""
        return 0.0

    def close(self) -> None:
        """Undo what must not be left to the end of the process."""


class Stock(Peer):
    """Everything resident; a model larger than the card leaf by leaf, less the time of copying."""

    takes_all = True

    def __init__(self) -> None:
        self._leaves: OneByOne | None = None

    def prepare(self, module: nn.Module, budget: Budget) -> Run:  # noqa: ARG002
        """Put the module on the card."""
        free, _ = torch.cuda.mem_get_info()
        if 1.1 * bytes_of(module) < free:
            return module.to("cuda")
        self._leaves = OneByOne(module)
        return module

    def copying(self) -> float:
        """Return the seconds spent bringing leaves."""
        return 0.0 if self._leaves is None else self._leaves.copying


class CappedStock(Peer):
    """Stock torch that may not take more than the budget."""

    def prepare(self, module: nn.Module, budget: Budget) -> Run:
        """Put the module on the card; meant to fail."""
        allowed = torch.cuda.memory_reserved() + budget.weights + budget.activations
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
        return module.to("cuda")


def offload(module: nn.Module, device: str) -> nn.Module:
    """Hook a module with accelerate's ``cpu_offload``, and return it."""
    try:
        from accelerate import cpu_offload
    except ImportError as error:
        raise NotInstalledError(f"accelerate ({error})") from error
    hooked: nn.Module = cpu_offload(module, execution_device=torch.device(device))
    return hooked


class Accelerate(Peer):
    """accelerate's ``cpu_offload``."""

    heeds_budget = False

    def prepare(self, module: nn.Module, budget: Budget) -> Run:  # noqa: ARG002
        """Hook the module."""
        return offload(module, "cuda")


class GroupOffload(Peer):
    """diffusers' group offload with a stream.

    Parameters
    ----------
    level : str
        ``"block_level"`` or ``"leaf_level"``.
    record_stream : bool
        Whether memory is freed by ``record_stream`` in place of waiting for the compute stream.
    """

    heeds_budget = False

    def __init__(self, level: str, *, record_stream: bool) -> None:
        self._level = level
        self._record_stream = record_stream

    def prepare(self, module: nn.Module, budget: Budget) -> Run:  # noqa: ARG002
        """Hook the module."""
        try:
            import accelerate  # noqa: F401  # diffusers' hooks fail without it, once they run
            from diffusers.hooks import apply_group_offloading
        except ImportError as error:
            raise NotInstalledError(f"diffusers and accelerate ({error})") from error
        apply_group_offloading(
            module,
            onload_device=torch.device("cuda"),
            offload_device=torch.device("cpu"),
            offload_type=self._level,
            num_blocks_per_group=1 if self._level == "block_level" else None,
            use_stream=True,
            record_stream=self._record_stream,
        )
        return module


class Prefix(Peer):
    """The first leaves pinned on the card, the others streamed: see `PrefixAndLeaves`."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        self._streaming: PrefixAndLeaves | None = None

    def prepare(self, module: nn.Module, budget: Budget) -> Run:
        """Hook the module."""
        self._streaming = PrefixAndLeaves(module, budget.weights, self._device)
        return module

    def moved(self) -> int | None:
        """Return the bytes brought."""
        return None if self._streaming is None else self._streaming.moved


def refuse_more_than_is_free(weights: int, most: int | None = None) -> None:
    """Keep managed memory below what the card has free.

    Raises
    ------
    RefusedError
        If the weights are more than that, or than `most`.
    """
    free, _ = torch.cuda.mem_get_info()
    if weights > free or (most is not None and weights > most):
        limit = "" if most is None else f", and {format_size(most)} at most are allowed"
        raise RefusedError(
            f"{format_size(weights)} of managed memory, and the card has {format_size(free)} "
            f"free{limit}: give fewer weights"
        )


class NaiveManaged(Peer):
    """A pool of unified memory with no advice and no policy.

    Nothing holds it to a budget but the end of the card's memory, which is not to be reached on a
    card that others use; so it is measured with all weights on the card.
    """

    takes_all = True

    def prepare(self, module: nn.Module, budget: Budget) -> Run:  # noqa: ARG002
        """Put the module into the pool."""
        refuse_more_than_is_free(bytes_of(module), NAIVE_LIMIT)
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise NotInstalledError("a C++ compiler, as c++ or g++")
        library = Path(tempfile.mkdtemp()) / "naive_managed.so"
        source = Path(__file__).with_name("naive_managed.cpp")
        subprocess.run(
            [compiler, "-std=c++17", "-shared", "-fPIC", "-O2", source, "-o", library, "-ldl"],
            check=True,
        )
        self._allocator = torch.cuda.memory.CUDAPluggableAllocator(
            str(library), "naive_malloc", "naive_free"
        )
        # Torch crashes if a pool goes while its tensors live, so the peer keeps it.
        self._pool = torch.cuda.MemPool(self._allocator.allocator())
        with torch.cuda.use_mem_pool(self._pool):
            return module.to("cuda")


class Vramx(Peer):
    """vramx with its default policy; torch's activations are left to torch's own allocator.

    Parameters
    ----------
    backend : str
        Of the session.
    block : int
        Bytes of its blocks.

    Attributes
    ----------
    session : vramx.Session
        Once it is prepared.
    """

    def __init__(self, backend: str, block: int = BLOCK) -> None:
        self._backend = backend
        self._block = block
        self.session: Any = None

    def prepare(self, module: nn.Module, budget: Budget) -> Run:
        """Manage the module."""
        if self._backend == "managed":
            refuse_more_than_is_free(bytes_of(module))
        self.session = vramx.oversubscribe(budget.weights, backend=self._backend, block=self._block)
        return self.session.manage(module)

    def moved(self) -> int | None:
        """Return the bytes brought."""
        return self.session.stats().moved_in

    def bytes_beside_torch(self) -> int:
        """Return the most bytes of blocks that were on the card."""
        return self.session.stats().peak_resident

    def close(self) -> None:
        """Close the session."""
        self.session.close()


#: Every peer by its name, in the order of the table.
PEERS: dict[str, Callable[[], Peer]] = {
    "stock": Stock,
    "stock-capped": CappedStock,
    "accelerate": Accelerate,
    "group-block": lambda: GroupOffload("block_level", record_stream=False),
    "group-block-record": lambda: GroupOffload("block_level", record_stream=True),
    "group-leaf": lambda: GroupOffload("leaf_level", record_stream=False),
    "group-leaf-record": lambda: GroupOffload("leaf_level", record_stream=True),
    "prefix-leaf": Prefix,
    "naive-managed": NaiveManaged,
    "vramx-managed": lambda: Vramx("managed"),
    "vramx-mapped": lambda: Vramx("mapped"),
}
