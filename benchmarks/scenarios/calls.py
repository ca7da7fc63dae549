"""What single calls cost, each beside torch's own where it has one, and what planning does.

Medians of repetitions; what the simulated card, which looks at every operation, costs is no measure
of a card's. Planned are 100,000 blocks used once a pass, and 250,000 uses of them with a loop, as a
sampler makes between two encoders: that is to take a second at most.
"""

import argparse
import functools
import statistics
import timeit
from collections.abc import Callable, Iterator

import torch
from torch import nn

import vramx
from benchmarks import options as shared
from benchmarks.report import Report

PLANNING = 1.0  # seconds at most
MODULES = 100  # that are called one after the other

COLUMNS = "backend what::text seconds:us~each:us missed:holds:holds"


def options(add: shared.Add, card: bool) -> None:
    shared.sessions(add, card)
    add("--blocks", type=int, default=100_000, help="to plan")


def run(args: argparse.Namespace, report: Report) -> None:
    """Time all."""
    report.begin()
    for backend in args.backend:
        for what, seconds in single(backend):
            report.add({"backend": backend, "what": what, "seconds": seconds})
    for what, again in (("plan a cycle", 1), ("plan a loop", 4)):
        seconds = planning(args.blocks, again)
        missed = [f"> {PLANNING:g} s"] if seconds > PLANNING else []
        report.add({"what": what, "blocks": args.blocks, "seconds": seconds, "missed": missed})


def single(backend: str) -> Iterator[tuple[str, float]]:
    """Time single calls in a session in which all fits; the seconds of each."""
    device = "cpu" if backend == "simulated" else "cuda"
    with vramx.oversubscribe("1GiB", backend=backend, block="2MiB") as session:
        x = torch.randn(1, device=device)
        session.manage(called(1))(x)
        core, stream, misses = session._core, session._stream(), session.stats().misses

        def lease() -> None:
            core.acquire(0, stream)
            core.release(0, stream)

        yield "lease and release", median_seconds(lease, 100)
        if session.stats().misses != misses:
            raise RuntimeError("a lease whose cost was measured has moved its module")
        models = {"stock": called(MODULES).to(device), "vramx": session.manage(called(MODULES))}
        for who, model in models.items():
            yield f"call a module[{who}]", median_seconds(lambda: model(x), 5) / MODULES  # noqa: B023
        empty = {"stock": functools.partial(torch.empty, device=device), "vramx": session.empty}
        for who, make in empty.items():
            work = functools.partial(make, (2**20,), dtype=torch.uint8)
            yield f"allocate and free a mebibyte[{who}]", median_seconds(work, 50)


def called(count: int) -> nn.Module:
    """Make modules that have a weight and do nothing."""
    model = nn.Sequential(*(nn.Identity() for _ in range(count)))
    for module in model:
        module.register_parameter("weight", nn.Parameter(torch.zeros(1), requires_grad=False))
    return model


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Return the median of a hundred rounds of so many calls, for one of them, after one."""
    work()
    return statistics.median(timeit.repeat(work, repeat=100, number=times)) / times


def planning(blocks: int, again: int) -> float:
    """Time a plan of blocks of which half fit, the middle half of them used again and again."""
    block, link, quarter = 2**25, 50e9, blocks // 4
    steps = [([place], block / link / 2) for place in range(blocks)]
    steps = [*steps[:quarter], *again * steps[quarter:-quarter], *steps[-quarter:]]
    return timeit.timeit(
        lambda: vramx._core.plan_pass(
            [(block, 0)] * blocks, steps, blocks // 2 * block, link, link, 0.0
        ),
        number=1,
    )
