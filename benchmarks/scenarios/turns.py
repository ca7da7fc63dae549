"""Copies of one model, stock, in sessions and offloaded by others, that take turns in one process.

The processor that launches a model's kernels is faster at some times than at others, by more than
what a session costs a model of small kernels. By turns, what slows one slows all: printed is how
long a pass takes over the stock pass of the same round and over T_plan, with that pass and the link
of the round, as the medians of the rounds; and over the least that its own work can take in its
budget, as the plan in force has recorded it. Sessions hold weights alone; what the passes allocate
is torch's own. One row is stock while pinned copies to the card run beside it, which is what the
link alone costs. Others are those of ``peers``; what knows no budget has one row, without a ratio.

``torchao`` and ``bitsandbytes`` are decoder blocks with int8 and NF4 weights; what these hold
beside codes (scales, tables) counts as weights.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import vramx
from benchmarks import options as shared
from benchmarks.quantised import bytes_held
from benchmarks.report import Report, SkippedError, failure
from benchmarks.ways import HEEDLESS, WAYS, Ready, managed_by
from benchmarks.workloads import MODELS, Workload, build, call
from vramx.bench.limits import budget_of, limits
from vramx.bench.measuring import times_by
from vramx.integrations.torch.timing import PinnedCopies, times_on_card

COLUMNS = """
who::text ratio:W/B:g setup_s:set-up~s:s first_s:first~ms:ms median_s:median~ms:ms best_s:best~ms:ms
over_stock:/stock:ratio over_plan:T/T_plan:ratio over_fluid:T/T_fluid:ratio over_bound:T/bound:ratio
moved_in:moved~GiB:GiB card_bytes:card~GiB:GiB host_bytes:host~GiB:GiB same_bits:same~bits:bits
"""
#: Passes that are not timed: at first, and each turn.
FIRST, EACH = 8, 1
COPIED = 2**28


def options(add: shared.Add, card: bool) -> None:
    model(add, card, "unet", "4GiB", [], [0.9, 1.25, 2])


def model(
    add: shared.Add, card: bool, name: str, weights: str, peers: list[str], ratios: list[float]
) -> None:
    """Add what says which model takes turns, with whom, and how often."""
    shared.sessions(add, card)
    add("--peers", nargs="*", choices=WAYS, default=peers, metavar="PEER")
    add("--ratios", type=float, nargs="+", default=ratios)
    add("--model", choices=MODELS, default=name if card else "linear")
    own = weights if card else "16MiB"
    add("--weights", type=shared.size, default=own, help="the U-Net's follow from its width")
    add("--tokens", type=int, default=None if card else 4, help="of a pass; each model has its own")
    add("--width", type=int, default=None if card else 512, help="each model has its own")
    add("--rounds", type=int, default=14)
    add("--passes", type=int, default=3, help="a turn")


def cases_of(args: argparse.Namespace) -> list[Case]:
    """Return who takes turns with stock: backends and peers at each ratio, if they heed it."""
    cases = [Case(who, ratio) for who in args.backend for ratio in args.ratios]
    smaller = [ratio for ratio in args.ratios if ratio > 1]
    for who in args.peers:
        cases += [Case(who, ratio) for ratio in ([None] if who in HEEDLESS else smaller)]
    return cases


def run(args: argparse.Namespace, report: Report) -> None:
    """Let all take turns."""
    workload = build(args.model, args.weights, args.tokens, args.width)
    report.begin(model=args.model, weights=workload.weights, block=args.block)
    cases = [*([BESIDE_COPIES] if args.card else []), *cases_of(args)]
    link = PinnedCopies().to_card if args.card else None
    rounds = Rounds(args.device, args.rounds, args.passes, args.block)
    for row in rounds.measure(workload, cases, link):
        report.add(row)


@dataclass(frozen=True)
class Case:
    """Who takes turns: a backend or a peer and the weights over its budget, or stock torch."""

    who: str
    ratio: float | None = None


STOCK, BESIDE_COPIES = Case("stock"), Case("stock+copies")


class Turn:
    """One copy of the model, on the CPU, and how it runs with inputs that are where it computes."""

    def __init__(
        self, case: Case, module: nn.Module, inputs: dict[str, Any], device: str, block: int
    ) -> None:
        self.case = case
        self.over: dict[str, list[float]] = {
            f"over_{name}": [] for name in ("stock", "plan", "fluid")
        }
        self.times: list[float] = []
        self.moved: list[float] = []
        self.budget = None
        if case.ratio is not None:
            self.budget = budget_of(bytes_held(module), case.ratio, block)
        self._device = device
        self._others = torch.cuda.memory_allocated() if device == "cuda" else 0
        began = time.perf_counter()
        if case in (STOCK, BESIDE_COPIES):
            self.ready = Ready(module.to(device), moved=lambda: 0)
        elif case.who in WAYS:
            self.ready = WAYS[case.who](module, self.budget or 0)
        else:
            self.ready = managed_by(case.who, module, self.budget or 0, block)
        self._call = lambda: call(self.ready.run, inputs)
        self._figures = {"setup_s": self._now() - began}

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def warm_up(self) -> None:
        """Run the first passes, alone on the card."""
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = self._now()
        self.out = self._call()
        self._figures["first_s"] = self._now() - began
        for _ in range(FIRST - 1):
            self._call()
        peak = torch.cuda.max_memory_allocated() if self._device == "cuda" else 0
        self._figures["card_bytes"] = peak - self._others + self.ready.beside_torch()

    def run(self, passes: int, timed: Callable[..., tuple[list[float], Any]]) -> float:
        """Run passes; return the median of their seconds."""
        for _ in range(EACH):
            self._call()
        before = self.ready.moved()
        with copies_beside() if self.case == BESIDE_COPIES else contextlib.nullcontext():
            times, self.out = timed(self._call, passes)
        self.times += times
        if before is not None:
            self.moved.append((self.ready.moved() - before) / passes)
        return statistics.median(times)

    def row(self, expected: torch.Tensor) -> dict[str, Any]:
        """Return its figures, in bytes and seconds."""
        session, median = self.ready.session, statistics.median(self.times)
        # A plan's seconds are virtual on a simulated card.
        plan = session.plan() if session is not None and not session.device.virtual_clock else None
        return {
            "who": self.case.who,
            "ratio": self.case.ratio,
            "budget": self.budget,
            **self._figures,
            "median_s": median,
            "best_s": min(self.times),
            **{name: statistics.median(each) if each else None for name, each in self.over.items()},
            "over_bound": median / plan.bound_seconds if plan else None,
            "moved_in": statistics.mean(self.moved) if self.moved else None,
            "same_bits": torch.equal(self.out, expected),
        }


@contextlib.contextmanager
def copies_beside() -> Iterator[None]:
    """Keep the link to the card busy for a scope, from a thread that sleeps while copies run."""
    host = torch.empty(COPIED, dtype=torch.uint8, pin_memory=True)
    card, ended = torch.empty(COPIED, dtype=torch.uint8, device="cuda"), threading.Event()

    def copy_on() -> None:
        under_way = [torch.cuda.Event(blocking=True) for _ in range(2)]
        with torch.cuda.stream(torch.cuda.Stream()):
            while not ended.is_set():
                under_way[0].synchronize()
                card.copy_(host, non_blocking=True)
                under_way[0].record()
                under_way.reverse()
            torch.cuda.current_stream().synchronize()

    thread = threading.Thread(target=copy_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class Rounds:
    """How turns are taken: where models compute, how many passes a turn, and sessions' blocks."""

    device: str
    rounds: int
    passes: int
    block: int

    @torch.no_grad()
    def measure(
        self, workload: Workload, cases: Sequence[Case], link: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Let all take turns; return a row for each, stock first, those that failed last.

        `link` measures the link once a round; without it there is no T_plan.
        """
        by_clock = functools.partial(times_by, time.perf_counter)
        timed = by_clock if self.device == "cpu" else times_on_card
        inputs = workload.inputs_on(self.device)
        turns, rows = list[Turn](), list[dict[str, Any]]()
        with contextlib.ExitStack() as stack:
            for case in (STOCK, *cases):
                try:
                    module = copy.deepcopy(workload.module)
                    turn = Turn(case, module, inputs, self.device, self.block)
                    stack.callback(turn.ready.close)
                    turn.warm_up()
                except (SkippedError, ImportError, vramx.Error, RuntimeError, ValueError) as error:
                    rows.append({"who": case.who, "ratio": case.ratio, **failure(error)})
                else:
                    turns.append(turn)
            for _ in range(self.rounds):
                seconds = [turn.run(self.passes, timed) for turn in turns]
                rate, stock = link() if link else None, seconds[0]
                for turn, own in zip(turns, seconds):
                    turn.over["over_stock"].append(own / stock)
                    if rate is not None and turn.budget is not None:
                        limit = limits(workload.weights, turn.budget, rate, stock, self.block)
                        turn.over["over_plan"].append(own / limit.plan)
                        turn.over["over_fluid"].append(own / limit.fluid)
            return [*(turn.row(turns[0].out) for turn in turns), *rows]
