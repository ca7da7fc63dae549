"""What `vramx forecast` says of a model used in a cycle, against what is then measured.

For each backend, count of tokens and ratio of weights W to budget B the plan is told what it is
told of any model: the module, a sample of its input, the budget, the time C of a pass with
everything resident, and the card with the link's rate, which pinned copies have just measured. Then
the model runs, as in the cycle. Printed are the plan's time and bytes over those measured, and the
same for `Session.plan`, which a session made of its recorded passes. On the simulated card times
are virtual, and activations, being the CPU's, are no part of the budget.
"""

import argparse
import functools
from dataclasses import replace
from typing import Any

import vramx
from benchmarks import options as shared
from benchmarks.report import Report
from benchmarks.scenarios import cycle as cycles
from vramx.bench.cycle import Cycle, Resident
from vramx.bench.machine import Machine
from vramx.cards.simulation import current_simulation
from vramx.forecast import Forecast, PlannedCard, for_module, this_card

#: By how much the plan's time and bytes may differ from those measured.
OFF_TIME, OFF_BYTES = 0.10, 0.01

COLUMNS = """
backend tokens ratio:W/B:g all_resident_s:C~ms:ms median_s:measured~ms:ms plan_s:plan~ms:ms
time_ratio:plan/:ratio session_time_ratio:session/:ratio moved_in:moved~GiB:GiB
plan_moved:plan~GiB:GiB bytes_ratio:plan/:ratio session_bytes_ratio:session/:ratio
over_plan:T/T_plan:ratio card_link:L~GB/s:GB/s same_bits:same~bits:bits missed:holds:holds
"""


def options(add: shared.Add, card: bool) -> None:
    shared.sessions(add, card)
    cycles.model(add, card)
    add("--tokens", type=int, nargs="+", default=[2048, 7000, 16384] if card else [1, 4])


def run(args: argparse.Namespace, report: Report) -> None:
    """Run every count of tokens at every ratio on every backend."""
    cycles.each(args, report, lambda *case: compare(*case, args.passes))


def compare(cycle: Cycle, plain: Resident, budget: int, passes: int | None) -> dict[str, Any]:
    """Plan, then measure."""
    card = described(cycle.machine)
    planned = plan(cycle, budget, plain, card)
    in_force: list[vramx.Plan | None] = []
    keep = lambda session, _: in_force.append(session.plan())  # noqa: E731
    found = cycle.within(budget, plain, passes=passes, at_end=keep)
    seconds, moved = found["median_s"], found["moved_in"]
    row = {
        **found,
        "card_link": card.link,
        "activations": planned.activations,
        "plan_s": planned.seconds,
        "plan_moved": planned.moved,
        "time_ratio": planned.seconds / seconds,
        "bytes_ratio": planned.moved / moved if moved else None,
    }
    if (own := in_force[0]) is not None and moved:
        row["session_time_ratio"] = own.seconds / seconds
        row["session_bytes_ratio"] = own.moved_in / moved
    row["missed"] = missed(row["time_ratio"], row["bytes_ratio"])
    return row


def described(machine: Machine) -> PlannedCard:
    """Return the card with the link's rate as it is now."""
    rate = max(machine.link() for _ in range(5))  # a link that slept wakes with use
    if machine.on_card:
        return replace(this_card(), link=rate, link_source="measured")
    capacity = current_simulation().capacity
    return replace(PlannedCard("simulated", capacity, 1, 0, 0, 0, "simulated"), link=rate)


def plan(cycle: Cycle, budget: int, plain: Resident, card: PlannedCard) -> Forecast:
    """Ask for the plan."""
    machine = cycle.machine
    told = {"compute": plain.seconds, "block": machine.block, "reserve": machine.block}
    ask = functools.partial(for_module, cycle.model, [plain.x], card=card, **told)
    found = ask(budget=budget, backend=machine.backend)
    if machine.on_card or found.activations is None:
        return found
    return ask(budget=budget + found.activations, backend=machine.backend)


def missed(time_ratio: float, bytes_ratio: float | None) -> list[str]:
    """Name the limits that a forecast does not hold."""
    found = [f"time {time_ratio - 1:+.1%}"] if abs(time_ratio - 1) > OFF_TIME else []
    if bytes_ratio is not None and abs(bytes_ratio - 1) > OFF_BYTES:
        found.append(f"bytes {bytes_ratio - 1:+.1%}")
    return found
