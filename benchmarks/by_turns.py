"""Copies of one model, stock, in sessions and offloaded by others, that take turns in one process.

The processor that launches a model's kernels is faster at some times than at others, by more than
what a session costs a model of small kernels. By turns, what slows one slows all: printed is how
long a pass takes over the stock pass of the same round and over T_plan, with that pass and the link
of the round, as the medians of the rounds; and over the least that its own work can take in its
budget, as the plan in force has recorded it. Sessions hold weights alone; what the passes allocate
is torch's own. One row is stock while pinned copies to the card run beside it, which is what the
link alone costs. Peers are those of `peers.py`; what knows no budget has one row, without a ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import TOKENS, Workload, build
from peer_kinds import PEERS, Budget, Peer, Run, Vramx
from peer_process import call
from reporting import Report, gib
from vramx.bench.layers import bytes_of
from vramx.bench.limits import budget_of, limits
from vramx.bench.measuring import times_by
from vramx.integrations.torch.timing import PinnedCopies, times_on_card
from vramx.units import parse_size

COLUMNS = (
    f"{'who':<16}{'W/B':<7}{'median ms':<11}{'best ms':<9}{'/stock':<9}{'/T_plan':<9}{'/bound':<9}"
    f"{'moved GiB':<11}same bits"
)
#: Passes that are not timed: at first, and each turn.
FIRST, EACH = 8, 1
COPIED = 2**28

#: Those that bring weights by themselves; stock and sessions are here anyway.
OTHERS = [name for name in PEERS if not name.startswith(("stock", "naive", "vramx"))]


@dataclass(frozen=True)
class Case:
    """Who takes turns: a backend or a peer and the weights over its budget, or stock torch."""

    who: str
    ratio: float | None = None
    copies: bool = False  #: whether others' copies run beside it


BESIDE_COPIES = Case("stock+copies", copies=True)


def peer_of(case: Case, block: int) -> Peer | None:
    """Make what brings the weights; none for stock torch, which has them where it computes."""
    if case.who in OTHERS:
        return PEERS[case.who]()
    return None if case.ratio is None else Vramx(case.who, block)


class Turn:
    """One copy of the model and how it runs.

    Parameters
    ----------
    case : Case
        Who it is.
    module : torch.nn.Module
        The copy.
    inputs : dict
        What it is called with.
    device : str
        Where the inputs are.
    block : int
        Bytes of a session's block.
    """

    def __init__(
        self, case: Case, module: nn.Module, inputs: dict[str, Any], device: str, block: int
    ) -> None:
        self.case = case
        self.over_stock: list[float] = []
        self.over_plan: list[float] = []
        self.times: list[float] = []
        self._peer = peer_of(case, block)
        self.budget = None if case.ratio is None else budget_of(bytes_of(module), case.ratio, block)
        self.moved: list[float] = []
        self._beside = CopiesBeside() if case.copies else contextlib.nullcontext()
        run: Run = module
        if self._peer is None:
            module.to(device)
        else:
            run = self._peer.prepare(module, Budget(self.budget or 0, activations=0))
        self._call = lambda: call(run, inputs)
        for _ in range(FIRST):
            self.out = self._call()

    def run(self, passes: int, timed: Callable[..., tuple[list[float], Any]]) -> float:
        """Run passes; return the median of their seconds."""
        for _ in range(EACH):
            self._call()
        before = self._brought()
        with self._beside:
            times, self.out = timed(self._call, passes)
        self.times += times
        if before is not None:
            self.moved.append((self._brought() - before) / passes)
        return statistics.median(times)

    def _brought(self) -> int | None:
        """Return the bytes that came so far, where that is known."""
        return 0 if self._peer is None else self._peer.moved()

    def close(self) -> None:
        """Undo what must not be left to the end of the process."""
        if self._peer is not None:
            self._peer.close()

    def row(self, expected: torch.Tensor) -> dict[str, Any]:
        """Return its figures, in bytes and seconds."""
        # A plan's seconds are virtual on a simulated card.
        session = self._peer.session if isinstance(self._peer, Vramx) else None
        plan = session.plan() if session is not None and not session.device.virtual_clock else None
        median = statistics.median(self.times)
        return {
            "who": self.case.who,
            "ratio": self.case.ratio,
            "budget": self.budget,
            "times_s": self.times,
            "median_s": median,
            "best_s": min(self.times),
            "over_stock": statistics.median(self.over_stock),
            "over_plan": statistics.median(self.over_plan) if self.over_plan else None,
            "over_bound": median / plan.bound_seconds if plan else None,
            "moved_in": statistics.mean(self.moved) if self.moved else None,
            "same_bits": torch.equal(self.out, expected),
        }


class CopiesBeside:
    """Keeps the link to the card busy, from a thread that sleeps while copies run."""

    def __init__(self) -> None:
        self._host = torch.empty(COPIED, dtype=torch.uint8, pin_memory=True)
        self._card = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._ended.clear()
        self._thread = threading.Thread(target=self._copy_on)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _copy_on(self) -> None:
        stream = torch.cuda.Stream()
        under_way = [torch.cuda.Event(blocking=True) for _ in range(2)]
        with torch.cuda.stream(stream):
            while not self._ended.is_set():
                under_way[0].synchronize()
                self._card.copy_(self._host, non_blocking=True)
                under_way[0].record()
                under_way.reverse()
            stream.synchronize()


@torch.no_grad()
def measure(
    workload: Workload,
    cases: Sequence[Case],
    rounds: int,
    passes: int,
    block: int,
    link: Callable[[], float] | None,
) -> list[dict[str, Any]]:
    """Let all take turns; return a row for each, stock first.

    Parameters
    ----------
    workload : Workload
        The model.
    cases : sequence of Case
        Who takes turns with stock.
    rounds, passes : int
        How many rounds, and how many passes a turn.
    block : int
        Bytes of a session's block.
    link : callable or None
        Measures the link, in bytes a second, once a round; without it there is no T_plan.
    """
    on_card = all(case.who != "simulated" for case in cases)
    by_clock = functools.partial(times_by, time.perf_counter)
    device, timed = ("cuda", times_on_card) if on_card else ("cpu", by_clock)
    inputs = workload.inputs_on(device)
    with contextlib.ExitStack() as stack:
        turns = []
        for case in (Case("stock"), *([BESIDE_COPIES] if on_card else []), *cases):
            turns.append(Turn(case, copy.deepcopy(workload.module), inputs, device, block))
            stack.callback(turns[-1].close)
        for _ in range(rounds):
            seconds = [turn.run(passes, timed) for turn in turns]
            rate = link() if link else None
            for turn, own in zip(turns, seconds):
                turn.over_stock.append(own / seconds[0])
                if rate is not None and turn.budget is not None:
                    limit = limits(workload.weights, turn.budget, rate, seconds[0], block)
                    turn.over_plan.append(own / limit.plan)
        return [turn.row(turns[0].out) for turn in turns]


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:g}"
    over = "".join(
        f"{'-' if row[name] is None else format(row[name], '.3f'):<9}"
        for name in ("over_stock", "over_plan", "over_bound")
    )
    moved = "-" if row["moved_in"] is None else gib(row["moved_in"])
    return (
        f"{row['who']:<16}{ratio:<7}{row['median_s'] * 1e3:<11.1f}{row['best_s'] * 1e3:<9.1f}"
        f"{over}{moved:<11}{'yes' if row['same_bits'] else 'NO'}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=TOKENS, default="unet")
    parser.add_argument("--weights", default="4GiB", help="the U-Net's follow from its width")
    parser.add_argument("--tokens", type=int, help="of a pass; each model has its own")
    parser.add_argument("--width", type=int, help="channels; each model has its own default")
    parser.add_argument(
        "--backends", nargs="+", default=["mapped", "managed"] if card else ["simulated"]
    )
    parser.add_argument("--peers", nargs="*", choices=OTHERS, default=[], metavar="PEER")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.9, 1.25, 2])
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--passes", type=int, default=3, help="a turn")
    parser.add_argument("--block", default="32MiB" if card else "1MiB")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tokens = args.tokens or TOKENS[args.model]
    workload = build(args.model, parse_size(args.weights, "weights"), tokens, args.width)
    machine = torch.cuda.get_device_name() if card else "simulated card, wall clock"

    def head(known: dict[str, Any]) -> str:
        return (
            f"{known['machine']}, torch {known['torch']}: {known['model']}, W "
            f"{gib(known['weights'])} GiB\n{COLUMNS}"
        )

    report = Report(args.json, head, line, model=args.model, weights=workload.weights)
    report.begin(machine=machine, torch=torch.__version__)
    cases = [Case(who, ratio) for who in args.backends for ratio in args.ratios]
    smaller = [ratio for ratio in args.ratios if ratio > 1]
    for who in args.peers:
        cases += [Case(who, ratio) for ratio in (smaller if PEERS[who]().heeds_budget else [None])]
    block = parse_size(args.block, "block")
    link = PinnedCopies().to_card if card else None
    for row in measure(workload, cases, args.rounds, args.passes, block, link):
        report.add(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
