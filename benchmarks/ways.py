"""The ways to run a model in a budget, besides stock torch, each behind the same call."""

import copy
import functools
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import vramx
from benchmarks.leaves import Streaming
from benchmarks.quantised import bytes_held
from benchmarks.report import SkippedError
from vramx.bench.limits import BLOCK
from vramx.units import format_size


@dataclass(frozen=True)
class Ready:
    """A model that is set up: what is called, and what is known of it.

    That are the bytes brought so far, and the most on the card that torch does not count.
    """

    run: Callable[..., Any]
    moved: Callable[[], int | None] = lambda: None
    beside_torch: Callable[[], int] = lambda: 0
    session: Any = None

    def close(self) -> None:
        """Undo what must not be left to the end of the process."""
        if self.session is not None:
            self.session.close()


#: Sets up a module made on the CPU, whose weights may take so many bytes of the card.
Way = Callable[[nn.Module, int], Ready]


def offload(module: nn.Module, device: str) -> nn.Module:
    """Hook a module with accelerate's ``cpu_offload``, and return it."""
    from accelerate import cpu_offload

    return cpu_offload(module, execution_device=torch.device(device))


def group(level: str, record_stream: bool, module: nn.Module, _: int) -> Ready:
    """Hook a module with diffusers' group offload and a stream, block by block or leaf by leaf.

    Memory is freed by ``record_stream``, or after waiting for the compute stream.
    """
    import accelerate  # noqa: F401  # diffusers' hooks fail without it, once they run
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        module,
        onload_device=torch.device("cuda"),
        offload_device=torch.device("cpu"),
        offload_type=level,
        num_blocks_per_group=1 if level == "block_level" else None,
        use_stream=True,
        record_stream=record_stream,
    )
    return Ready(module)


def dfloat11(module: nn.Module, _: int) -> Ready:
    """Pack linear layers by DFloat11, in minutes, and bring them by its ``cpu_offload``."""
    from dfloat11 import DFloat11Model, compress_model  # which needs CuPy

    linear = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    patterns: dict[str, list[str]] = {"|".join(map(re.escape, linear)): []}
    plain = copy.deepcopy(module)
    with tempfile.TemporaryDirectory() as folder:
        compress_model(module, patterns, folder, check_correctness=False)
        packed = DFloat11Model.from_pretrained(
            folder, device="cuda", bfloat16_model=plain, cpu_offload=True
        )
    return Ready(packed)


def kept(strided: bool, module: nn.Module, budget: int, device: str = "cuda") -> Ready:
    """Keep some leaves, a prefix or evenly spread ones, and stream the others: see `Streaming`."""
    streaming = Streaming(module, budget, device, strided=strided)
    return Ready(module, moved=lambda: streaming.moved)


def refuse_more_than_is_free(weights: int) -> None:
    """Keep managed memory below what the card has free."""
    free, _ = torch.cuda.mem_get_info()
    if weights > free:
        raise SkippedError(
            f"{format_size(weights)} of managed memory, and the card has {format_size(free)} free: "
            "give fewer weights"
        )


def managed_by(who: str, module: nn.Module, budget: int, block: int = BLOCK) -> Ready:
    """Manage a module by a backend, packed where that pays, or not at all with ``-raw`` behind it.

    What its passes allocate is left to torch's own allocator.
    """
    backend, _, raw = who.partition("-")
    if backend == "managed":
        refuse_more_than_is_free(bytes_held(module))
    session = vramx.oversubscribe(
        budget, backend=backend, block=block, compress="never" if raw else "auto"
    )
    return Ready(
        session.manage(module),
        moved=lambda: session.stats().moved_in,
        beside_torch=lambda: session.stats().peak_resident,
        session=session,
    )


#: Every way by its name, in the order of the table.
WAYS: dict[str, Way] = {
    "accelerate": lambda module, _: Ready(offload(module, "cuda")),
    "group-block": functools.partial(group, "block_level", False),
    "group-block-record": functools.partial(group, "block_level", True),
    "group-leaf": functools.partial(group, "leaf_level", False),
    "group-leaf-record": functools.partial(group, "leaf_level", True),
    "dfloat11": dfloat11,
    "prefix": functools.partial(kept, False),
    "strided": functools.partial(kept, True),
}
#: Those that the budget changes nothing of, so that one run serves every ratio.
HEEDLESS = {name for name in WAYS if name.startswith(("accelerate", "group", "dfloat11"))}
