"""Orders of use that no plan knows: random experts, models by uneven turns, a changing budget.

Each program is run with everything on the card, which gives its outputs, the order in which its
modules are used and its time C; then under each policy from an empty card, in one process. Printed
are the time and the bytes moved over those of LRU and over the clairvoyant bound, which knows the
whole order beforehand: no way of moving bytes on demand moves fewer, and none is faster than
max(C, bytes/L). On the simulated device the times are virtual.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import vramx
from reporting import Report
from vramx.bench.layers import Layer, build, bytes_of
from vramx.bench.limits import budget_of
from vramx.bench.machine import Machine
from vramx.units import format_size, parse_size

EXPERTS = 8
CHOSEN = 2

COLUMNS = (
    f"{'program':<9}{'policy':<13}{'s':<9}{'/LRU':<7}{'/bound':<8}{'C s':<9}{'L GB/s':<8}"
    f"{'moved GiB':<11}{'/LRU':<7}{'/bound':<8}same bits"
)


class Mixture(nn.Module):
    """A shared layer and experts of two layers each, a few of which are used in a pass.

    Parameters
    ----------
    layers : list of Layer
        One shared, then two for each expert.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.shared = layers[0]
        self.experts = nn.ModuleList(
            nn.Sequential(up, nn.GELU(), down) for up, down in zip(layers[1::2], layers[2::2])
        )

    def forward(self, x: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
        """Apply the shared layer, and the chosen experts' mean."""
        x = x + self.shared(functional.layer_norm(x, x.shape[-1:]))
        h = functional.layer_norm(x, x.shape[-1:])
        return x + torch.stack([self.experts[each](h) for each in chosen]).mean(0)


#: A pass: takes what goes in and returns what comes out.
Pass = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Program:
    """Models, and passes over them.

    Attributes
    ----------
    models : list of torch.nn.Module
        Managed one by one.
    passes : list of callable
        In their order.
    shares : list of float
        The part of the budget that each pass has.
    """

    models: list[nn.Module]
    passes: list[Pass]
    shares: list[float]


def experts(layers: Sequence[Layer], passes: int) -> Program:
    """Make a mixture of experts whose router is a seeded choice, another for every pass."""
    of_block = 1 + 2 * EXPERTS
    starts = range(0, len(layers) - of_block + 1, of_block)
    model = nn.ModuleList(Mixture(layers[start : start + of_block]) for start in starts)
    if not model:
        raise SystemExit(f"a mixture needs {of_block} layers: give more weights or less width")
    router = random.Random(0)

    def one(routes: list[list[int]], x: torch.Tensor) -> torch.Tensor:
        for block, chosen in zip(model, routes):
            x = block(x, chosen)
        return x

    routes = [[router.sample(range(EXPERTS), CHOSEN) for _ in model] for _ in range(passes)]
    return Program([model], [lambda x, each=each: one(each, x) for each in routes], [1.0] * passes)


def turns(layers: Sequence[Layer], passes: int) -> Program:
    """Make two models, one twice the other's size, that take uneven turns."""
    cut = 2 * len(layers) // 3
    models = [nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:])]
    random_ = random.Random(0)
    order: list[nn.Module] = []
    while len(order) < passes:
        order += random_.choice(models), models[0], models[1]
    return Program(models, order[:passes], [1.0] * passes)


def budgets(layers: Sequence[Layer], passes: int) -> Program:
    """Make one model whose budget is halved for the middle third of its passes."""
    model = nn.Sequential(*layers)
    third = passes // 3
    shares = [0.5 if third <= place < 2 * third else 1.0 for place in range(passes)]
    return Program([model], [model] * passes, shares)


PROGRAMS = {"experts": experts, "turns": turns, "budgets": budgets}


@dataclass(frozen=True)
class Use:
    """One use of a module: which, its bytes, and the budget at the time."""

    module: int
    nbytes: int
    budget: int


def clairvoyant_bytes(uses: Sequence[Use]) -> int:
    """Count the bytes that must be moved, from an empty card, by who knows all uses beforehand.

    What is used last of all leaves first, any part of it: Belady's MIN over single bytes (IBM
    Systems Journal 5, 1966). So it is a bound for whole modules and for blocks of any size.

    Parameters
    ----------
    uses : sequence of Use
        In their order; each is at most its budget.

    Returns
    -------
    int
        Bytes.
    """
    next_use = [len(uses)] * len(uses)
    seen: dict[int, int] = {}
    for place in reversed(range(len(uses))):
        next_use[place] = seen.get(uses[place].module, len(uses))
        seen[uses[place].module] = place
    resident: dict[int, int] = {}
    needed_at: dict[int, int] = {}
    moved = 0
    for place, use in enumerate(uses):
        moved += use.nbytes - resident.get(use.module, 0)
        resident[use.module] = use.nbytes
        needed_at[use.module] = next_use[place]
        excess = sum(resident.values()) - use.budget
        for module in sorted(resident, key=needed_at.__getitem__, reverse=True):
            if module != use.module and excess > 0:
                leaving = min(resident[module], excess)
                resident[module] -= leaving
                excess -= leaving
    return moved


def modules_used(program: Program, x: torch.Tensor) -> list[list[nn.Module]]:
    """Run the passes; return the modules with weights of their own that each used, in order."""
    found: list[list[nn.Module]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: found[-1].append(module))
        for model in program.models
        for module in model.modules()
        if list(module.parameters(recurse=False))
    ]
    for run in program.passes:
        found.append([])
        run(x)
    for hook in hooks:
        hook.remove()
    return found


def touch_everything(session: vramx.Session, models: Sequence[nn.Module]) -> None:
    """Bring each weight once: a card's driver takes long over what crosses the first time."""
    for model in models:
        for module in model.modules():
            if list(module.parameters(recurse=False)):
                with session.pin(module):
                    pass


class Orders:
    """The benchmark on one device.

    Parameters
    ----------
    args : argparse.Namespace
        The command line's options.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.machine = Machine(args.backend, parse_size(args.block, "block"))

    def times(
        self, program: Program, x: torch.Tensor, resize: Callable[[float], Any]
    ) -> tuple[list[float], list[torch.Tensor]]:
        """Time the passes; tell `resize` of a share of the budget that is not the last one's."""
        outputs: list[torch.Tensor] = []
        share = 1.0

        def run() -> None:
            nonlocal share
            place = len(outputs)
            if program.shares[place] != share:
                share = program.shares[place]
                resize(share)
            outputs.append(program.passes[place](x))

        times, _ = self.machine.times(run, len(program.passes))
        return times, outputs

    def share(self, budget: int, part: float) -> int:
        """Return a part of the budget in whole blocks."""
        return int(budget * part) // self.machine.block * self.machine.block

    @torch.no_grad()
    def run(self, report: Report) -> None:
        """Run every program under every policy; report figures in bytes and seconds."""
        report.begin(
            machine=self.machine.name,
            torch=torch.__version__,
            backend=self.args.backend,
            weights=self.args.weights,
            budget=budget_of(self.args.weights, self.args.ratio, self.machine.block),
        )
        x = torch.randn(
            self.args.tokens, self.args.width, generator=torch.Generator().manual_seed(1)
        ).to(self.machine.device, self.machine.dtype)
        for name in self.args.programs:
            layers = build(
                self.args.weights,
                self.args.width,
                self.machine.dtype,
                self.machine.device,
                lambda: self.machine.compute(self.args.compute_ms / 1e3),
            )
            self.run_program(name, PROGRAMS[name](layers, self.args.passes), x, report)

    def run_program(self, name: str, program: Program, x: torch.Tensor, report: Report) -> None:
        """Run a program with everything on the card, then under every policy."""
        weights = sum(bytes_of(model) for model in program.models)
        budget = budget_of(weights, self.args.ratio, self.machine.block)
        for model in program.models:
            model.to(self.machine.device)
        used = modules_used(program, x)
        uses = [
            Use(id(module), sum(p.nbytes for p in module.parameters(recurse=False)), of_pass)
            for modules, part in zip(used, program.shares)
            for of_pass in [self.share(budget, part)]
            for module in modules
        ]
        if self.machine.on_card:
            times, expected = self.times(program, x, lambda _: None)
            compute = sum(times)
        else:
            expected = [each(x) for each in program.passes]
            compute = len(uses) * self.args.compute_ms / 1e3
        for model in program.models:
            model.cpu()
        self.machine.forget()
        bound = clairvoyant_bytes(uses)
        lru: dict[str, Any] = {}
        for policy in ("lru", *self.args.policies):
            row: dict[str, Any] = {"program": name, "policy": policy, "budget": budget}
            try:
                row |= self.under(policy, program, x, budget, expected)
            except (vramx.Error, RuntimeError) as error:
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            else:
                lru = row if policy == "lru" else lru
                row |= {
                    "compute_s": compute,
                    "bound_moved": bound,
                    "bound_s": max(compute, bound / row["link"]),
                    "lru_moved": lru.get("moved_in"),
                    "lru_s": lru.get("seconds"),
                }
            report.add(row)

    def under(
        self,
        policy: str,
        program: Program,
        x: torch.Tensor,
        budget: int,
        expected: list[torch.Tensor],
    ) -> dict[str, Any]:
        """Run a program under one policy, from an empty card."""
        # Its scope is not entered: the outputs that are kept would take part of the budget.
        with self.machine.session(budget, policy, enter=False) as session:
            for model in program.models:
                session.manage(model)
            touch_everything(session, program.models)
            session.evict(program.models)
            rates = [self.machine.link() for _ in range(3)]
            before = session.stats()
            times, outputs = self.times(
                program, x, lambda part: session.set_budget(self.share(budget, part))
            )
            after = session.stats()
            rates += [self.machine.link() for _ in range(3)]
        same = all(torch.equal(one, other) for one, other in zip(outputs, expected))
        return {
            "seconds": sum(times),
            "times_s": times,
            "link": statistics.median(rates),
            "moved_in": after.moved_in - before.moved_in,
            "written_back": after.moved_out - before.moved_out,
            "peak_resident": after.peak_resident,
            "same_bits": same,
        }


def head_line(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, torch {shared['torch']}: backend {shared['backend']}, W "
        f"{format_size(shared['weights'])}, B {format_size(shared['budget'])}\n{COLUMNS}"
    )


def over(value: float, other: float | None) -> str:
    """Write a ratio, if there is one."""
    return "-" if not other else f"{value / other:.3f}"


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    start = f"{row['program']:<9}{row['policy']:<13}"
    if "error" in row:
        return start + row["error"]
    seconds, moved = row["seconds"], row["moved_in"]
    return (
        f"{start}{seconds:<9.3f}{over(seconds, row['lru_s']):<7}{over(seconds, row['bound_s']):<8}"
        f"{row['compute_s']:<9.3f}{row['link'] / 1e9:<8.1f}{moved / 2**30:<11.2f}"
        f"{over(moved, row['lru_moved']):<7}{over(moved, row['bound_moved']):<8}"
        f"{'yes' if row['same_bits'] else 'NO'}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto" if card else "simulated")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--policies", nargs="+", default=["adaptive"], help="besides lru")
    parser.add_argument("--weights", default="8GiB" if card else "64MiB")
    parser.add_argument("--width", type=int, default=4096 if card else 512)
    parser.add_argument("--tokens", type=int, default=2048 if card else 4)
    parser.add_argument("--block", default="32MiB" if card else "1MiB")
    parser.add_argument("--ratio", type=float, default=2.0, help="of weights to budget")
    parser.add_argument("--passes", type=int, default=24)
    parser.add_argument(
        "--compute-ms", type=float, default=0.02, help="virtual, a use of a layer; simulated only"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.weights = parse_size(args.weights, "weights")
    Orders(args).run(Report(args.json, head_line, line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
