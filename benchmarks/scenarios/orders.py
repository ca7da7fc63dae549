"""Orders of use that no plan knows: random experts, models by uneven turns, a changing budget.

Each program is run with everything on the card, which gives its outputs, the order in which its
modules are used and its time C; then under LRU and each other policy from an empty card, in one
process. Printed are the time and the bytes moved over those of LRU and over the clairvoyant bound,
which knows the whole order beforehand: no way of moving bytes on demand moves fewer, and none is
faster than max(C, bytes/L). On the simulated card the times are virtual.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarks import options as shared
from benchmarks.report import Report
from vramx.bench.layers import Layer, build, bytes_of
from vramx.bench.limits import budget_of
from vramx.bench.machine import Machine

EXPERTS = 8
CHOSEN = 2

COLUMNS = """
backend program policy seconds:s:s over_lru:/LRU:ratio over_bound:/bound:ratio compute_s:C~s:s
link:L~GB/s:GB/s moved_in:moved~GiB:GiB moved_over_lru:/LRU:ratio moved_over_bound:/bound:ratio
same_bits:same~bits:bits
"""


class Mixture(nn.Module):
    """A shared layer and experts of two layers each, a few of which are used in a pass."""

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


class Program(NamedTuple):
    """Models, passes over them in order, and the part of the budget that each pass has."""

    models: list[nn.Module]
    passes: list[Callable[[torch.Tensor], torch.Tensor]]
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


class Use(NamedTuple):
    """One use of a module, and the budget at the time."""

    module: int
    nbytes: int
    budget: int


def clairvoyant_bytes(uses: Sequence[Use]) -> int:
    """Count the bytes that who knows all uses beforehand must move, from an empty card.

    What is used last of all leaves first, any part of it: Belady's MIN over single bytes (IBM
    Systems Journal 5, 1966). So it is a bound for whole modules and for blocks of any size.
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


def layers_of(models: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules with weights of their own."""
    modules = (module for model in models for module in model.modules())
    return [each for each in modules if list(each.parameters(recurse=False))]


def modules_used(program: Program, x: torch.Tensor) -> list[list[nn.Module]]:
    """Run the passes; return the modules with weights of their own that each used, in order."""
    found: list[list[nn.Module]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: found[-1].append(module))
        for module in layers_of(program.models)
    ]
    for work in program.passes:
        found.append([])
        work(x)
    for hook in hooks:
        hook.remove()
    return found


def options(add: shared.Add, card: bool) -> None:
    shared.sessions(add, card)
    add("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    add("--policies", nargs="+", default=["adaptive"], help="besides lru")
    add("--weights", type=shared.size, default="6GiB" if card else "64MiB")
    add("--width", type=int, default=4096 if card else 512)
    add("--tokens", type=int, default=2048 if card else 4)
    add("--ratio", type=float, default=2.0, help="of weights to budget")
    add("--passes", type=int, default=24)
    add("--compute-ms", type=float, default=0.02, help="virtual, a use of a layer; simulated only")


def run(args: argparse.Namespace, report: Report) -> None:
    """Run every program on every backend, under every policy."""
    machine = Machine(args.backend[0], args.block)
    seconds = args.compute_ms / 1e3
    report.begin(block=args.block)
    x = torch.randn(args.tokens, args.width, generator=torch.Generator().manual_seed(1))
    x = x.to(machine.device, machine.dtype)
    sizes = args.weights, args.width, machine.dtype, machine.device
    for name in args.programs:
        layers = build(*sizes, lambda: machine.compute(seconds))
        program = PROGRAMS[name](layers, args.passes)
        budget = budget_of(sum(map(bytes_of, program.models)), args.ratio, args.block)
        compute, expected, fewest = all_resident(machine, program, x, budget, seconds)
        for machine.backend in args.backend:
            lru: dict[str, Any] = {}
            for policy in dict.fromkeys(("lru", *args.policies)):
                known = {"backend": machine.backend, "program": name, "policy": policy}
                with report.row(**known, budget=budget) as row:
                    row.update(under(machine, policy, program, x, budget, expected))
                    lru = lru or row
                    bound = max(compute, fewest / row["link"])
                    row.update(compute_s=compute, bound_s=bound, bound_moved=fewest)
                    row["over_lru"] = row["seconds"] / lru["seconds"]
                    row["over_bound"] = row["seconds"] / bound
                    row["moved_over_lru"] = row["moved_in"] / lru["moved_in"]
                    row["moved_over_bound"] = row["moved_in"] / fewest


def all_resident(
    machine: Machine, program: Program, x: torch.Tensor, budget: int, seconds: float
) -> tuple[float, list[torch.Tensor], int]:
    """Return a program's time, outputs, and the bound on its bytes; a use takes virtual seconds."""
    for model in program.models:
        model.to(machine.device)
    uses = [
        Use(id(module), sum(p.nbytes for p in module.parameters(recurse=False)), of_pass)
        for modules, part in zip(modules_used(program, x), program.shares)
        for of_pass in [share_of(machine, budget, part)]
        for module in modules
    ]
    if machine.on_card:
        compute, outputs = time_passes(machine, program, x, lambda _: None)
    else:
        compute, outputs = len(uses) * seconds, [each(x) for each in program.passes]
    for model in program.models:
        model.cpu()
    machine.forget()
    return compute, outputs, clairvoyant_bytes(uses)


def share_of(machine: Machine, budget: int, part: float) -> int:
    """Return a part of the budget in whole blocks."""
    return int(budget * part) // machine.block * machine.block


def time_passes(
    machine: Machine, program: Program, x: torch.Tensor, resize: Callable[[float], Any]
) -> tuple[float, list[torch.Tensor]]:
    """Time the passes; tell `resize` of a share of the budget that is not the last one's."""
    outputs: list[torch.Tensor] = []

    def one() -> None:
        place = len(outputs)
        if program.shares[place] != program.shares[max(0, place - 1)]:
            resize(program.shares[place])
        outputs.append(program.passes[place](x))

    times, _ = machine.times(one, len(program.passes))
    return sum(times), outputs


def under(
    machine: Machine,
    policy: str,
    program: Program,
    x: torch.Tensor,
    budget: int,
    expected: list[torch.Tensor],
) -> dict[str, Any]:
    """Run a program under one policy, from an empty card."""
    # Its scope is not entered: the outputs that are kept would take part of the budget.
    with machine.session(budget, policy, enter=False) as session:
        for model in program.models:
            session.manage(model)
        for layer in layers_of(program.models):
            with session.pin(layer):  # a card's driver takes long over what crosses the first time
                pass
        session.evict(program.models)
        rates, before = [machine.link() for _ in range(3)], session.stats()
        seconds, outputs = time_passes(
            machine, program, x, lambda part: session.set_budget(share_of(machine, budget, part))
        )
        after = session.stats()
        rates += [machine.link() for _ in range(3)]
    return {
        "seconds": seconds,
        "link": statistics.median(rates),
        "moved_in": after.moved_in - before.moved_in,
        "written_back": after.moved_out - before.moved_out,
        "peak_resident": after.peak_resident,
        "same_bits": all(map(torch.equal, outputs, expected)),
    }
