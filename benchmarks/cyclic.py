"""A model used in a cycle with less memory than its weights, against the limits of the hardware.

Prints, for each count of tokens and each ratio of weights W to the budget, the median pass over
T_fluid = max(C, (W-B)/L) and T_plan = max(C, (W-B+S*b)/L), over LRU's W/L, and the bytes moved over
W-B, with the link L and the all-resident pass C measured in the same run. B is the budget less what
a pass allocates beside weights, as stock torch counts it: the session keeps that in the budget. The
first three passes, in which the policy plans, are measured apart. A row of the default policy also
says whether it holds its limits. Beside managed memory it prints how fast the driver alone brings
such memory around the passes, and the median over T_plan at that rate. On the simulated device the
times are virtual, and nothing is allocated on the card.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vramx
from driver_rate import DriverRate
from reporting import Report
from vramx.bench.cycle import Cycle, Resident
from vramx.bench.limits import budget_of
from vramx.bench.machine import Machine
from vramx.units import format_size, parse_size

#: The most that a median pass may take over T_plan, by the kind of card.
OVER_PLAN = {"managed": 1.20, "mapped": 1.05, "simulated": 1.05}
#: The most that the 99th percentile may be over the median.
P99_OVER_MEDIAN = 1.2

COLUMNS = (
    "tokens W/B   C ms    link GB/s first s ms      p99/median T/T_fluid T/T_plan T/(W/L) "
    "moved/(W-B) setup s written back  faults same driver GB/s T/its plan "
    "stock                               holds"
)


def missed_limits(kind: str, over_plan: float, p99_over_median: float) -> list[str]:
    """Name the limits that a row does not hold."""
    missed = []
    if over_plan > OVER_PLAN[kind]:
        missed.append(f"T/T_plan > {OVER_PLAN[kind]:.2f}")
    if p99_over_median > P99_OVER_MEDIAN:
        missed.append(f"p99/median > {P99_OVER_MEDIAN:.2f}")
    return missed


def stock_under_caps(weights: int, width: int, budgets: list[int]) -> list[str]:
    """Let stock torch, in a process of its own, have each budget; return how each ended."""
    code = f"""
import torch
total = torch.cuda.get_device_properties(0).total_memory
for budget in {budgets}:
    torch.cuda.set_per_process_memory_fraction(budget / total)
    layers = []
    try:
        for _ in range({weights // (width**2 * 2)}):
            layers.append(torch.empty({width}, {width}, dtype=torch.bfloat16, device="cuda"))
        print("fits")
    except torch.OutOfMemoryError as error:
        print("OutOfMemoryError:", str(error).split(". ")[0])
    del layers
    torch.cuda.empty_cache()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines()
    failed = (done.stderr.strip().splitlines() or ["said nothing"])[-1]
    return said + [failed] * (len(budgets) - len(said))


class Faults:
    """Counts the faults of measured passes, and of a use to see that they are seen."""

    def __init__(self) -> None:
        from page_faults import PageFaults

        self._faults = PageFaults()
        self.steady = 0
        self.control = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count those of a scope."""
        self._faults.read()
        yield
        self.steady = self._faults.read().gpu_fault_groups

    def provoke(self, model: nn.Module, session: vramx.Session, x: torch.Tensor) -> None:
        """Use a weight that vramx is not told of."""
        session.evict(model)
        self._faults.read()
        nn.functional.linear(x, model[0].linear.weight)
        torch.cuda.synchronize()
        self.control = self._faults.read().gpu_fault_groups


class Cyclic:
    """The benchmark on one device.

    Parameters
    ----------
    args : argparse.Namespace
        The command line's options.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.machine = Machine(args.backend, parse_size(args.block, "block"))
        self.faults = Faults() if args.count_faults else None
        managed = args.backend == "managed"
        self.driver = DriverRate(self.machine.block) if managed else None
        self.cycle = Cycle(self.machine, args.weights, args.width)
        self.weights = self.cycle.weights

    @torch.no_grad()
    def run(self, report: Report) -> None:
        """Run every count of tokens at every ratio; report all figures, in bytes and seconds."""
        report.begin(
            machine=self.machine.name,
            torch=torch.__version__,
            python=platform.python_version(),
            weights=self.weights,
            block=self.machine.block,
            backend=self.args.backend,
            policy=self.args.policy,
        )
        resident = self.cycle.all_resident(
            self.args.tokens, lambda tokens: tokens * self.args.compute_ms / 1e3
        )
        budgets = [budget_of(self.weights, each, self.machine.block) for each in self.args.ratios]
        stock = ["not run"] * len(budgets)
        if self.machine.on_card:
            stock = stock_under_caps(self.weights, self.args.width, budgets)
        for tokens in self.args.tokens:
            for ratio, budget, ended in zip(self.args.ratios, budgets, stock):
                row = {"tokens": tokens, "ratio": ratio, "budget": budget, "stock": ended}
                try:
                    row |= self.at(budget, resident[tokens])
                except (vramx.Error, RuntimeError) as error:
                    row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                report.add(row)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Measure the driver around measured passes, and count their faults, where asked."""
        with contextlib.ExitStack() as stack:
            if self.driver is not None:
                stack.enter_context(self.driver.around())
            if self.faults is not None:
                stack.enter_context(self.faults.counted())
            yield

    def provoke_faults(self, session: vramx.Session, x: torch.Tensor) -> None:
        """Have some to compare with, where faults are counted."""
        if self.faults is not None:
            self.faults.provoke(self.cycle.model, session, x)

    def at(self, budget: int, plain: Resident) -> dict[str, Any]:
        """Run one count of tokens at one budget."""
        row = self.cycle.within(
            budget,
            plain,
            policy=self.args.policy,
            passes=self.args.passes,
            steady=self.watching(),
            at_end=self.provoke_faults,
        )
        if (driver := self.driver) is not None:
            rate = driver.median()
            limit = self.cycle.limits(budget, plain, rate)
            row |= {"driver_rate": rate, "over_driver_plan": row["median_s"] / limit.plan}
        faults = self.faults
        missed = missed_limits(row["kind"], row["over_plan"], row["p99_over_median"])
        return row | {
            "gpu_fault_groups": None if faults is None else faults.steady,
            "gpu_fault_groups_of_an_unleased_use": None if faults is None else faults.control,
            "missed_limits": missed if self.args.policy == "adaptive" else None,
        }


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    start = f"{row['tokens']:<7}{row['ratio']:<6}"
    if "error" in row:
        return start + row["error"]
    missed = row["missed_limits"]
    holds = "-" if missed is None else "NO: " + ", ".join(missed) if missed else "yes"
    driver = f"{'-':<12}{'-':<11}"
    if "driver_rate" in row:
        driver = f"{row['driver_rate'] / 1e9:<12.1f}{row['over_driver_plan']:<11.3f}"
    return (
        f"{start}{row['all_resident_s'] * 1e3:<8.1f}{row['link'] / 1e9:<10.1f}"
        f"{row['warm_up_s'][0]:<8.3f}{row['median_s'] * 1e3:<8.1f}{row['p99_over_median']:<11.3f}"
        f"{row['over_fluid']:<10.3f}{row['over_plan']:<9.3f}{row['over_lru']:<8.3f}"
        f"{row['moved_over_excess']:<12.3f}{row['setup_s']:<8.2f}{row['written_back']:<14}"
        f"{row['gpu_fault_groups']!s:<7}{'yes' if row['same_bits'] else 'NO':<5}{driver}"
        f"{row['stock']:<35} {holds}"
    )


def head_line(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, torch {shared['torch']}: backend {shared['backend']}, policy "
        f"{shared['policy']}, W {format_size(shared['weights'])}\n{COLUMNS}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto" if card else "simulated")
    parser.add_argument("--policy", default="adaptive")
    parser.add_argument("--weights", default="12GiB" if card else "256MiB")
    parser.add_argument("--width", type=int, default=8192 if card else 1024)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048 if card else 4])
    parser.add_argument("--block", default="32MiB" if card else "1MiB")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.25, 1.5, 2, 4])
    parser.add_argument("--passes", type=int, help="measured; 10 to 30 by their time unless given")
    parser.add_argument(
        "--compute-ms", type=float, default=0.75, help="virtual, a token and pass; simulated only"
    )
    parser.add_argument("--count-faults", action="store_true", help="with CUPTI; needs nvcc")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.weights = parse_size(args.weights, "weights")
    Cyclic(args).run(Report(args.json, head_line, line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
