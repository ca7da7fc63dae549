"""A model used in a cycle with less memory than its weights, against the limits of the hardware.

For each backend, count of tokens and ratio of weights W to the budget: the median pass over T_fluid
= max(C, (W-B)/L) and T_plan = max(C, (W-B+S*b)/L), over LRU's W/L, and the bytes moved over W-B,
with the link L and the all-resident pass C measured in the same run. B is the budget less what a
pass allocates beside weights, as stock torch counts it: the session keeps that in the budget. The
first three passes, in which the policy plans, are told apart. ``--count-faults`` has CUPTI count
page faults: of the passes, and of one use of a weight that vramx is not told of, as a check that it
would see them. On the simulated card times are virtual, and nothing is allocated on the card.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

from benchmarks import options as shared
from benchmarks.page_faults import PageFaults
from benchmarks.report import Report
from vramx.bench.cycle import Cycle, Resident
from vramx.bench.limits import budget_of
from vramx.bench.machine import Machine

#: The most that a median pass may take over T_plan, by the kind of card.
OVER_PLAN = {"managed": 1.20, "mapped": 1.05, "simulated": 1.05}
#: The most that the 99th percentile may be over the median.
P99_OVER_MEDIAN = 1.2

COLUMNS = """
backend tokens ratio:W/B:g all_resident_s:C~ms:ms link:L~GB/s:GB/s first_s:first~s:s
median_s:ms:ms p99_over_median:p99/median:ratio over_fluid:T/T_fluid:ratio
over_plan:T/T_plan:ratio over_lru:T/(W/L):ratio moved_over_excess:moved/(W-B):ratio
setup_s:set-up~s:s written_back fault_groups:faults same_bits:same~bits:bits missed:holds:holds
"""


def options(add: shared.Add, card: bool) -> None:
    shared.sessions(add, card)
    add("--policy", default="adaptive")
    model(add, card)
    add("--tokens", type=int, nargs="+", default=[2048 if card else 4])
    add("--count-faults", action="store_true", help="with CUPTI; needs nvcc")


def model(add: shared.Add, card: bool) -> None:
    """Add what says how large the model is, and how often and in what budgets it runs."""
    add("--weights", type=shared.size, default="12GiB" if card else "256MiB")
    add("--width", type=int, default=8192 if card else 1024)
    add("--ratios", type=float, nargs="+", default=[1.25, 1.5, 2, 4])
    add("--passes", type=int, help="measured; 10 to 30 by their time unless given")
    add("--compute-ms", type=float, default=0.75, help="virtual, a token and pass; simulated only")


def missed_limits(kind: str, over_plan: float, p99_over_median: float) -> list[str]:
    """Name the limits that a row does not hold."""
    missed = [f"T/T_plan > {OVER_PLAN[kind]:.2f}"] if over_plan > OVER_PLAN[kind] else []
    if p99_over_median > P99_OVER_MEDIAN:
        missed.append(f"p99/median > {P99_OVER_MEDIAN:.2f}")
    return missed


def run(args: argparse.Namespace, report: Report) -> None:
    """Run every count of tokens at every ratio on every backend."""
    faults = PageFaults() if args.count_faults else None  # before anything uses CUDA
    each(args, report, lambda *case: within(*case, args, faults))


def each(
    args: argparse.Namespace,
    report: Report,
    measure: Callable[[Cycle, Resident, int], dict[str, Any]],
) -> None:
    """Measure every count of tokens at every ratio, in its budget, on every backend."""
    machine = Machine(args.backend[0], args.block)
    cycle = Cycle(machine, args.weights, args.width)
    report.begin(weights=cycle.weights, block=args.block)
    resident = cycle.all_resident(args.tokens, lambda tokens: tokens * args.compute_ms / 1e3)
    for backend, tokens, ratio in itertools.product(args.backend, args.tokens, args.ratios):
        machine.backend = backend
        budget = budget_of(cycle.weights, ratio, args.block)
        with report.row(backend=backend, tokens=tokens, ratio=ratio, budget=budget) as row:
            row.update(measure(cycle, resident[tokens], budget))


def within(
    cycle: Cycle, plain: Resident, budget: int, args: argparse.Namespace, faults: PageFaults | None
) -> dict[str, Any]:
    """Run one count of tokens in one budget."""
    row = cycle.within(
        budget,
        plain,
        policy=args.policy,
        passes=args.passes,
        steady=None if faults is None else faults.counted(),
        at_end=lambda session, x: faults and faults.provoke(cycle.model, session, x),
    )
    if faults is not None:
        row |= {"fault_groups": faults.steady, "fault_groups_of_an_unleased_use": faults.control}
    if args.policy == "adaptive":
        row["missed"] = missed_limits(row["kind"], row["over_plan"], row["p99_over_median"])
    return row
