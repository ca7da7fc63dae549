"""What single calls cost, each beside torch's own where it has one, and what planning does.

Medians of repetitions; what the simulated card, which looks at every operation, costs is no measure
of a card's. Planned are 100,000 blocks used once a pass, and 250,000 uses of them with a loop, as a
sampler makes between two encoders: that is to take a second at most.
"""

import argparse
import json
import tempfile
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

import vramx
from benchmarks import options as shared
from benchmarks import single_calls
from benchmarks.report import Report

PLANNING = 1.0  # seconds at most

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
    """Time single calls; the median seconds of one of the things that a call does."""
    single_calls.BACKEND = backend
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found.json")
        ask = [single_calls.__file__, "-q", "-p", "no:cacheprovider", "-o", "addopts="]
        if pytest.main([*ask, "--benchmark-disable-gc", f"--benchmark-json={found}"]) != 0:
            raise RuntimeError("a call whose cost was to be measured failed; see above")
        for each in json.loads(found.read_text())["benchmarks"]:
            what = each["name"].removeprefix("test_").replace("_", " ")
            yield what, each["stats"]["median"] / each["extra_info"].get("of", 1)


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
