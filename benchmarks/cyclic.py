"""A model used in a cycle with less memory than its weights, against the limits of the hardware.

Prints, for each ratio of weights W to budget B, the pass's time over T_fluid = max(C, (W-B)/L) and
T_plan = max(C, (W-B+S*b)/L), over LRU's W/L, and the bytes moved over W-B, with the link L and the
all-resident pass C measured in the same run. On the simulated device the times are virtual.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vramx
from vramx.units import format_size, parse_size

BLOCKS_IN_FLIGHT = 4


class Layer(nn.Module):
    """A linear layer; on the simulated device it also spends virtual compute time."""

    def __init__(self, width: int, weight: torch.Tensor, compute: Callable[[], None]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False, device="meta")
        self.linear.weight = nn.Parameter(weight, requires_grad=False)
        self._compute = compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to ``x`` of shape ``(tokens, width)``."""
        out = self.linear(x)
        self._compute()
        return out


def build(
    weights: int, width: int, dtype: torch.dtype, device: str, compute: Callable[[], None]
) -> nn.Sequential:
    """Make layers of seeded weights, on the CPU, of at most `weights` bytes in all."""
    layers = []
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(max(2, weights // (width * width * dtype.itemsize))):
        weight = torch.randn(width, width, dtype=dtype, device=device, generator=generator)
        layers.append(Layer(width, (weight / width**0.5).cpu(), compute))
    return nn.Sequential(*layers)


def bytes_of(model: nn.Module) -> int:
    """Sum the bytes of a model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


class PinnedCopy:
    """A pinned copy to the card, by which the link is measured between passes."""

    def __init__(self) -> None:
        self._host = torch.empty(2**30, dtype=torch.uint8).pin_memory()
        self._card = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        self.rate()

    def rate(self) -> float:
        """Return the link's bytes a second now."""
        copy = timed_on_card(lambda: self._card.copy_(self._host, non_blocking=True))
        return self._host.numel() / copy


def timed_on_card(work: Callable[[], Any]) -> float:
    """Time work by events on the card, in seconds."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def host_bytes() -> int:
    """Return this process's resident host memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def stock_under_cap(args: argparse.Namespace, budget: int) -> str:
    """Run stock torch held to the budget in a process of its own; return how it ended."""
    code = (
        "import torch\n"
        f"total = torch.cuda.get_device_properties(0).total_memory\n"
        f"torch.cuda.set_per_process_memory_fraction({budget} / total)\n"
        "try:\n"
        f"    shape = ({args.width}, {args.width})\n"
        "    layers = [torch.empty(shape, dtype=torch.bfloat16, device='cuda')\n"
        f"              for _ in range({args.weights} // ({args.width} ** 2 * 2))]\n"
        "    print('fits')\n"
        "except torch.OutOfMemoryError as error:\n"
        "    print('OutOfMemoryError:', str(error).split('. ')[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


class Cyclic:
    """The benchmark on one device.

    Parameters
    ----------
    args : argparse.Namespace
        The command line's options.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.on_card = args.backend != "simulated"
        self.device = "cuda" if self.on_card else "cpu"
        self.block = parse_size(args.block, "block")
        self.session: vramx.Session | None = None
        self.copy = PinnedCopy() if self.on_card else None
        self.faults = None
        if args.count_faults:
            from page_faults import PageFaults

            self.faults = PageFaults()
        dtype = torch.bfloat16 if self.on_card else torch.float32
        self.model = build(args.weights, args.width, dtype, self.device, self._compute)
        self.weights = bytes_of(self.model)
        self.x = torch.randn(args.tokens, args.width).to(self.device, dtype)

    def _compute(self) -> None:
        if self.session is not None and not self.on_card:
            self.session.device.compute(self.args.compute_ms / 1e3 / len(self.model))

    def times_of_passes(self, model: nn.Module, passes: int) -> list[float]:
        """Time passes that follow each other without a pause, in seconds.

        By the card's events, or the simulated card's clock.
        """
        ends = [self._now()]
        for _ in range(passes):
            model(self.x)
            ends.append(self._now())
        if not self.on_card:
            return [float(end - start) for start, end in zip(ends, ends[1:])]
        ends[-1].synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in zip(ends, ends[1:])]

    def _now(self) -> Any:
        if not self.on_card:
            assert self.session is not None
            return self.session.device.now
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def all_resident(self) -> tuple[torch.Tensor, list[float]]:
        """Run the plain model with everything on the card: its output and pass times."""
        if not self.on_card:
            return self.model(self.x), [self.args.compute_ms / 1e3]
        model = build(
            self.args.weights, self.args.width, self.x.dtype, self.device, lambda: None
        ).to("cuda")
        out = model(self.x)
        return out, self.times_of_passes(model, self.args.passes)

    def link(self) -> float:
        """Return the link's bytes a second, measured now or simulated."""
        if self.copy is None:
            return vramx.simulation.current_simulation().to_card
        return self.copy.rate()

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """Run every ratio; return all figures, in bytes and seconds."""
        reference, resident_times = self.all_resident()
        resident = statistics.median(resident_times)
        rows = [self.at(ratio, resident, reference) for ratio in self.args.ratios]
        return {
            "machine": torch.cuda.get_device_name() if self.on_card else "simulated card",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "weights": self.weights,
            "block": self.block,
            "tokens": self.args.tokens,
            "policy": self.args.policy,
            "all_resident_s": resident,
            "rows": rows,
        }

    def faults_of_an_unleased_use(self, session: vramx.Session) -> int | None:
        """Count the fault groups of a use that vramx is not told of, to see that they are seen."""
        if self.faults is None:
            return None
        session.evict(self.model)
        self.faults.read()
        nn.functional.linear(self.x, self.model[0].linear.weight)
        torch.cuda.synchronize()
        return self.faults.read().gpu_fault_groups

    def at(self, ratio: float, resident: float, reference: torch.Tensor) -> dict[str, Any]:
        """Run one ratio of weights to budget."""
        budget = int(self.weights / ratio) // self.block * self.block
        stock = stock_under_cap(self.args, budget) if self.on_card else "not run"
        host_before = host_bytes()
        with vramx.oversubscribe(
            budget, backend=self.args.backend, policy=self.args.policy, block=self.block
        ) as session:
            self.session = session
            began = time.perf_counter()
            session.manage(self.model)
            setup = time.perf_counter() - began
            host_after = host_bytes()
            (first,) = self.times_of_passes(self.model, 1)
            before = session.stats()
            if self.faults is not None:
                self.faults.read()
            rates = [self.link() for _ in range(3)]
            times = self.times_of_passes(self.model, self.args.passes)
            rates += [self.link() for _ in range(3)]
            faults = self.faults.read() if self.faults is not None else None
            after = session.stats()
            same = torch.equal(self.model(self.x), reference)
            control = self.faults_of_an_unleased_use(session)
        self.session = None
        moved = (after.moved_in - before.moved_in) / self.args.passes
        median = statistics.median(times)
        link = statistics.median(rates)
        fluid = max(resident, (self.weights - budget) / link)
        plan = max(resident, (self.weights - budget + BLOCKS_IN_FLIGHT * self.block) / link)
        return {
            "ratio": ratio,
            "budget": budget,
            "stock": stock,
            "setup_s": setup,
            "host_growth": host_after - host_before,
            "host_bytes": host_after,
            "link": link,
            "first_s": first,
            "median_s": median,
            "worst_s": max(times),
            "over_fluid": median / fluid,
            "over_plan": median / plan,
            "over_lru": median / max(resident, self.weights / link),
            "moved_over_excess": moved / (self.weights - budget),
            "moved_in": moved,
            "written_back": after.moved_out - before.moved_out,
            "peak_resident": after.peak_resident,
            "gpu_fault_groups": None if faults is None else faults.gpu_fault_groups,
            "gpu_fault_groups_of_an_unleased_use": control,
            "same_bits": same,
        }


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    head = (
        f"{result['machine']}: W {format_size(result['weights'])}, "
        f"all resident {result['all_resident_s'] * 1e3:.1f} ms"
    )
    columns = (
        "W/B   link GB/s ms      T/T_fluid T/T_plan T/(W/L) moved/(W-B) setup s written back  "
        "faults same  stock"
    )
    rows = [
        f"{row['ratio']:<5} {row['link'] / 1e9:<9.1f} {row['median_s'] * 1e3:<7.1f} "
        f"{row['over_fluid']:<9.3f} {row['over_plan']:<8.3f} {row['over_lru']:<7.3f} "
        f"{row['moved_over_excess']:<11.3f} {row['setup_s']:<7.2f} {row['written_back']:<13} "
        f"{row['gpu_fault_groups']!s:<6} {'yes' if row['same_bits'] else 'NO':<5} {row['stock']}"
        for row in result["rows"]
    ]
    return "\n".join([head, columns, *rows])


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto" if card else "simulated")
    parser.add_argument("--policy", default="adaptive")
    parser.add_argument("--weights", default="12GiB" if card else "256MiB")
    parser.add_argument("--width", type=int, default=8192 if card else 1024)
    parser.add_argument("--tokens", type=int, default=2048 if card else 4)
    parser.add_argument("--block", default="32MiB" if card else "1MiB")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.25, 1.5, 2, 4])
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--compute-ms", type=float, default=3.0, help="virtual, simulated only")
    parser.add_argument("--count-faults", action="store_true", help="with CUPTI; needs nvcc")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.weights = parse_size(args.weights, "weights")
    result = Cyclic(args).run()
    print(table(result))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
