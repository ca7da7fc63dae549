"""What `vramx plan` says of a model used in a cycle, against what is then measured.

For each backend, count of tokens and ratio of weights W to budget B the plan is told what it is
told of any model: the module, a sample of its input, the budget, the time C of a pass with
everything resident, and the card with the link's rate, which pinned copies have just measured. Then
the model runs, as in `cyclic.py`. Printed are the plan's time and bytes over those measured, and
the same for `Session.plan`, which a session made of its recorded passes. On the simulated device
times are virtual, and activations, being the CPU's, are no part of the budget.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vramx
from reporting import Report
from vramx.bench.cycle import Cycle, Resident
from vramx.bench.limits import budget_of
from vramx.bench.machine import Machine
from vramx.plan.cards import PlannedCard, this_card
from vramx.plan.forecast import Forecast
from vramx.plan.models import for_module
from vramx.simulation import current_simulation
from vramx.units import format_size, parse_size

#: By how much the plan's time and bytes may differ from those measured.
OFF_TIME, OFF_BYTES = 0.10, 0.01

COLUMNS = (
    f"{'backend':<11}{'tokens':<8}{'W/B':<6}{'C ms':<8}{'measured ms':<13}{'plan ms':<9}{'/':<8}"
    f"{'session/':<10}{'moved GiB':<11}{'plan GiB':<10}{'/':<9}{'session/':<10}"
    f"{'L GB/s':<8}same bits  holds"
)


class Forecasts:
    """The benchmark on one device.

    Parameters
    ----------
    args : argparse.Namespace
        The command line's options.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.machine = Machine(args.backends[0], parse_size(args.block, "block"))
        self.cycle = Cycle(self.machine, args.weights, args.width)
        self._card = self._describe()

    def _describe(self) -> PlannedCard:
        if self.machine.on_card:
            return this_card()
        capacity = current_simulation().capacity
        return PlannedCard("simulated card", capacity, 1, 0, 0, 0, "simulated")

    def card(self) -> PlannedCard:
        """Return the card with the link's rate as it is now."""
        rate = max(self.machine.link() for _ in range(5))  # a link that slept wakes with use
        return replace(self._card, link=rate, link_source="measured")

    def plan(self, budget: int, plain: Resident, card: PlannedCard) -> Forecast:
        """Ask for the plan."""

        def ask(room: int) -> Forecast:
            return for_module(
                self.cycle.model,
                [plain.x],
                budget=room,
                card=card,
                compute=plain.seconds,
                block=self.machine.block,
                backend=self.machine.backend,
                reserve=self.machine.block,
            )

        found = ask(budget)
        if self.machine.on_card or found.activations is None:
            return found
        return ask(budget + found.activations)

    @torch.no_grad()
    def run(self, report: Report) -> None:
        """Run every count of tokens at every ratio on every backend."""
        report.begin(
            machine=self.machine.name,
            torch=torch.__version__,
            python=platform.python_version(),
            weights=self.cycle.weights,
            block=self.machine.block,
        )
        resident = self.cycle.all_resident(
            self.args.tokens, lambda tokens: tokens * self.args.compute_ms / 1e3
        )
        for backend in self.args.backends:
            self.machine.backend = backend
            for tokens in self.args.tokens:
                for ratio in self.args.ratios:
                    row = {"backend": backend, "tokens": tokens, "ratio": ratio}
                    try:
                        row |= self.at(ratio, resident[tokens])
                    except (vramx.Error, RuntimeError) as error:
                        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                    report.add(row)

    def at(self, ratio: float, plain: Resident) -> dict[str, Any]:
        """Plan, then measure."""
        budget = budget_of(self.cycle.weights, ratio, self.machine.block)
        card = self.card()
        planned = self.plan(budget, plain, card)
        in_force: list[vramx.Plan | None] = []
        found = self.cycle.within(
            budget,
            plain,
            passes=self.args.passes,
            at_end=lambda session, _: in_force.append(session.plan()),
        )
        seconds, moved = found["median_s"], found["moved_in"]
        row = {
            "budget": budget,
            "link": card.link,
            **{name: found[name] for name in ("all_resident_s", "median_s", "times_s", "moved_in")},
            **{name: found[name] for name in ("peak_resident", "same_bits", "over_plan")},
            "link_beside_passes": found["link"],
            "activations": planned.activations,
            "plan_s": planned.seconds,
            "plan_moved": planned.moved,
            "time_ratio": planned.seconds / seconds,
            "bytes_ratio": planned.moved / moved if moved else None,
            "session_time_ratio": None,
            "session_bytes_ratio": None,
        }
        if (plan := in_force[0]) is not None and moved:
            row["session_time_ratio"] = plan.seconds / seconds
            row["session_bytes_ratio"] = plan.moved_in / moved
        row["missed"] = missed(row["time_ratio"], row["bytes_ratio"])
        return row


def missed(time_ratio: float, bytes_ratio: float | None) -> list[str]:
    """Name the limits that a forecast does not hold."""
    found = []
    if abs(time_ratio - 1) > OFF_TIME:
        found.append(f"time {time_ratio - 1:+.1%}")
    if bytes_ratio is not None and abs(bytes_ratio - 1) > OFF_BYTES:
        found.append(f"bytes {bytes_ratio - 1:+.1%}")
    return found


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    start = f"{row['backend']:<11}{row['tokens']:<8}{row['ratio']:<6g}"
    if "error" in row:
        return start + row["error"]
    return (
        f"{start}{row['all_resident_s'] * 1e3:<8.1f}{row['median_s'] * 1e3:<13.2f}"
        f"{row['plan_s'] * 1e3:<9.2f}{_ratio(row['time_ratio']):<8}"
        f"{_ratio(row['session_time_ratio']):<10}"
        f"{row['moved_in'] / 2**30:<11.3f}{row['plan_moved'] / 2**30:<10.3f}"
        f"{_ratio(row['bytes_ratio']):<9}{_ratio(row['session_bytes_ratio']):<10}"
        f"{row['link'] / 1e9:<8.1f}"
        f"{'yes' if row['same_bits'] else 'NO':<11}{', '.join(row['missed']) or 'yes'}"
    )


def head_line(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, torch {shared['torch']}: W {format_size(shared['weights'])}, block "
        f"{format_size(shared['block'])}\n{COLUMNS}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backends", nargs="+", default=["mapped", "managed"] if card else ["simulated"]
    )
    parser.add_argument("--weights", default="12GiB" if card else "64MiB")
    parser.add_argument("--width", type=int, default=8192 if card else 512)
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[2048, 7000, 16384] if card else [1, 4]
    )
    parser.add_argument("--block", default="32MiB" if card else "1MiB")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.25, 1.5, 2, 4])
    parser.add_argument("--passes", type=int, help="measured; 10 to 30 by their time unless given")
    parser.add_argument(
        "--compute-ms", type=float, default=0.75, help="virtual, a token and pass; simulated only"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.weights = parse_size(args.weights, "weights")
    report = Report(args.json, head_line, line)
    Forecasts(args).run(report)
    return 1 if any("error" in row or row["missed"] for row in report.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
