"""What single calls cost, each beside torch's own where it has one, and what planning does.

Medians of repetitions; what the simulated card, which looks at every operation, costs is no measure
of a card's. Planned are 100,000 blocks used once a pass, and 250,000 uses of them with a loop, as a
sampler makes between two encoders: that is to take a second at most.
"""

import argparse
import statistics
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

import vramx
from benchmarks import options as shared
from benchmarks.report import Report

MIB = 2**20
MODULES = 100  # that are called one after the other
PLANNING = 1.0  # seconds at most

COLUMNS = "backend what::text seconds:us~each:us missed:holds:holds"


def options(add: shared.Add, card: bool) -> None:
    shared.sessions(add, card)
    add("--rounds", type=int, default=100)
    add("--blocks", type=int, default=100_000, help="to plan")


def run(args: argparse.Namespace, report: Report) -> None:
    """Time all."""
    report.begin()
    rounds, device = args.rounds, "cuda" if args.card else "cpu"
    allocate = partial(torch.empty, MIB, dtype=torch.uint8, device=device)
    stock, x = identities().to(device), torch.randn(1, device=device)
    rows = [("stock", "call a module", each(lambda: stock(x), rounds, 5, MODULES))]
    rows.append(("stock", "allocate and free 1 MiB", each(allocate, rounds, 50)))
    for backend in args.backend:
        rows += [(backend, what, seconds) for what, seconds in managed(backend, x, rounds)]
    for backend, what, seconds in rows:
        report.add({"backend": backend, "what": what, "seconds": seconds})
    for what, again in (("plan a cycle", 1), ("plan a loop", 4)):
        seconds = planning(args.blocks, again)
        missed = [f"> {PLANNING:g} s"] if seconds > PLANNING else []
        report.add({"what": what, "blocks": args.blocks, "seconds": seconds, "missed": missed})


def each(work: Callable[[], Any], rounds: int, at_once: int, of: int = 1) -> float:
    """Return the median seconds of one of the `of` things that a call does."""
    work()
    return statistics.median(timeit.repeat(work, number=at_once, repeat=rounds)) / at_once / of


def identities() -> nn.Module:
    """Make modules that have a weight and do nothing."""
    model = nn.Sequential(*(nn.Identity() for _ in range(MODULES)))
    for module in model:
        module.register_parameter("weight", nn.Parameter(torch.zeros(1), requires_grad=False))
    return model


def managed(backend: str, x: torch.Tensor, rounds: int) -> Iterator[tuple[str, float]]:
    """Time what is done in a session."""
    with vramx.oversubscribe("1GiB", backend=backend, block="2MiB") as session:
        core, stream = session._core, session._stream()
        model = session.manage(identities())
        model(x)

        def lease() -> None:
            core.acquire(0, stream)
            core.release(0, stream)

        misses = session.stats().misses
        yield "lease and release", each(lease, rounds, 100)
        assert session.stats().misses == misses, "a resident module was brought"
        yield "call a module", each(lambda: model(x), rounds, 5, MODULES)
        allocate = partial(session.empty, (MIB,), torch.uint8)
        yield "allocate and free 1 MiB", each(allocate, rounds, 50)


def planning(blocks: int, again: int) -> float:
    """Time a plan of blocks of which half fit, the middle half of them used again and again."""
    block, link, quarter = 32 * MIB, 50e9, blocks // 4
    steps = [([place], block / link / 2) for place in range(blocks)]
    steps = [*steps[:quarter], *again * steps[quarter:-quarter], *steps[-quarter:]]
    return timeit.timeit(
        lambda: vramx._core.plan_pass([block] * blocks, steps, blocks // 2 * block, link, link),
        number=1,
    )
