"""Jobs that wait for jobs: each wait ends, with the result or with an error that names both.

A job that waits keeps its bytes. What fits beside it runs, ahead of the line; what can never run
before it is refused as the wait begins, whoever waits and however.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramx
from vramx.queue import waits
from vramx.queue.ledger import Claim, Ledger

MIB = 2**20
BUDGET = 10 * MIB
LIMIT = 60  # seconds that nothing here takes

pytestmark = pytest.mark.usefixtures("no_open_session")
OpenQueue = Callable[..., vramx.Queue]


@pytest.fixture(autouse=True)
def no_waits_are_left() -> Iterator[None]:
    """Nobody waits any more once a test's queues are closed, which they are before this ends."""
    yield
    assert not waits._waits


def is_waiting(job: vramx.Job[Any]) -> bool:
    with waits.LOCK:
        return job in waits._waits.values()


def in_helper(call: Callable[[], Any]) -> Any:
    """Call on a thread that works for the job."""
    context = contextvars.copy_context()
    with futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(context.run, call).result(LIMIT)


def by_exception(job: vramx.Job[Any]) -> Any:
    error = job.exception()
    if error is not None:
        raise error
    return job.result()


def by_wait(job: vramx.Job[Any]) -> Any:
    done, _ = futures.wait([job])
    return done.pop().result()


def by_as_completed(job: vramx.Job[Any]) -> Any:
    (done,) = futures.as_completed([job])
    return done.result()


#: Every way to wait that can be told from waiting outside of a job.
WAYS: dict[str, Callable[[vramx.Job[Any]], Any]] = {
    "result": lambda job: job.result(),
    "exception": by_exception,
    "wait": by_wait,
    "as_completed": by_as_completed,
    "helper": lambda job: in_helper(job.result),
    "to_thread": lambda job: asyncio.run(asyncio.to_thread(job.result)),
}


@dataclass(frozen=True)
class Node:
    """A job that submits others and waits for them."""

    nbytes: int
    way: str
    together: bool  #: whether all are submitted before one is waited for
    children: tuple[Node, ...] = ()

    def fits(self, above: int = 0) -> bool:
        """Tell whether each job fits beside those that wait for it, one at a time."""
        here = above + self.nbytes
        return here <= BUDGET and all(child.fits(here) for child in self.children)

    def count(self) -> int:
        return 1 + sum(child.count() for child in self.children)

    def one_at_a_time(self) -> bool:
        return (not self.together or len(self.children) < 2) and all(
            child.one_at_a_time() for child in self.children
        )


def nodes(children: st.SearchStrategy[Node] | None = None) -> st.SearchStrategy[Node]:
    below = st.just(()) if children is None else st.lists(children, max_size=3).map(tuple)
    sizes = st.integers(1, 8).map(lambda size: size * MIB)
    return st.builds(Node, sizes, st.sampled_from(sorted(WAYS)), st.booleans(), below)


@dataclass
class Runs:
    """Runs trees of jobs, and watches what they hold together."""

    queue: vramx.Queue
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: int = 0
    most: int = 0

    def submit(self, node: Node) -> vramx.Job[int]:
        return self.queue.submit(self.run, node, footprint=node.nbytes, kind="node")

    def run(self, node: Node) -> int:
        with self.lock:
            self.held += node.nbytes
            self.most = max(self.most, self.held)
        jobs: list[vramx.Job[int]] = []
        try:
            total = 1
            if node.together:
                jobs = [self.submit(child) for child in node.children]
                return total + sum(WAYS[node.way](job) for job in jobs)
            for child in node.children:
                jobs.append(self.submit(child))
                total += WAYS[node.way](jobs[-1])
            return total
        finally:
            for job in jobs:
                job.cancel()
            with self.lock:
                self.held -= node.nbytes


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trees=st.lists(st.recursive(nodes(), nodes, max_leaves=6), min_size=1, max_size=3),
    workers=st.integers(1, 3),
)
def test_every_wait_in_trees_of_jobs_ends_right_or_by_name(
    open_queue: OpenQueue, trees: list[Node], workers: int
) -> None:
    queue = open_queue(workers=workers)
    runs = Runs(queue)
    jobs = [runs.submit(tree) for tree in trees]
    for job, tree in zip(jobs, trees):
        error = job.exception(LIMIT)
        if error is None:
            assert tree.fits()
            assert job.result() == tree.count()
        else:
            assert isinstance(error, vramx.InUseError)
            alone = len(trees) == 1 and tree.one_at_a_time()
            assert not (alone and tree.fits()), error
    assert runs.most <= BUDGET
    assert queue.submit(pow, 2, 3, footprint=BUDGET).result(LIMIT) == 8
    queue.close()


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_fit_beside_the_job_that_waits_is_named_and_stays_in_line(
    open_queue: OpenQueue, way: str
) -> None:
    queue = open_queue()
    inner: list[vramx.Job[int]] = []

    def outer() -> int:
        inner.append(queue.submit(pow, 2, 3, footprint="5MiB", name="inner"))
        return int(WAYS[way](inner[0]))

    job = queue.submit(outer, footprint="6MiB", name="outer")
    error = job.exception(LIMIT)
    assert isinstance(error, vramx.InUseError)
    for part in ("outer waits for inner", "inner needs 5.00 MiB", "10.00 MiB outer has 6.00 MiB"):
        assert part in str(error)
    assert inner[0].result(LIMIT) == 8


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_fits_beside_the_job_that_waits_runs_ahead_of_a_line_that_cannot_move(
    open_queue: OpenQueue, way: str, workers: int
) -> None:
    queue = open_queue(workers=workers)
    large: list[vramx.Job[int]] = []

    def outer() -> int:
        large.append(queue.submit(pow, 3, 2, footprint=BUDGET, priority=1))
        return int(WAYS[way](queue.submit(pow, 2, 3, footprint="4MiB")))

    assert queue.submit(outer, footprint="6MiB").result(LIMIT) == 8
    assert large[0].result(LIMIT) == 9


@pytest.mark.parametrize("way", WAYS)
def test_what_fits_when_a_job_has_ended_that_waits_for_none_is_waited_for(
    open_queue: OpenQueue, way: str
) -> None:
    queue = open_queue()
    begun, awaited, gate = (threading.Event() for _ in range(3))

    def busy() -> bool:
        begun.set()
        return gate.wait(LIMIT)

    def outer() -> int:
        inner = queue.submit(pow, 2, 3, footprint="4MiB")
        awaited.set()
        return int(WAYS[way](inner))

    queue.submit(busy, footprint="5MiB")
    assert begun.wait(LIMIT)
    job = queue.submit(outer, footprint="3MiB")
    assert awaited.wait(LIMIT)
    while not is_waiting(job):
        assert not job.done(), job.exception()
    gate.set()
    assert job.result(LIMIT) == 8


def test_a_kind_that_was_not_measured_needs_the_whole_budget(open_queue: OpenQueue) -> None:
    queue = open_queue()
    job = queue.submit(lambda: queue.submit(pow, 2, 3).result(), footprint=1)
    with pytest.raises(vramx.InUseError, match=r"pow needs 10\.00 MiB, since it was not measured"):
        job.result(LIMIT)


def test_a_job_that_turns_out_to_need_more_while_it_is_awaited_is_refused(
    open_queue: OpenQueue,
) -> None:
    queue = open_queue()
    begun, gate = threading.Event(), threading.Event()

    def measured(fails: bool) -> None:
        with vramx.current_job().oversubscribe(block="1MiB") as session:
            session.empty(3 * MIB, "uint8")
        if fails:
            begun.set()
            assert gate.wait(LIMIT)
            raise vramx.OutOfMemoryError("more than last time")

    queue.submit(measured, False).result(LIMIT)
    failing = queue.submit(measured, True)
    assert begun.wait(LIMIT)
    waits_now = threading.Event()

    def outer() -> None:
        inner = queue.submit(measured, False)
        waits_now.set()
        inner.result()

    job = queue.submit(outer, footprint="5MiB")
    assert waits_now.wait(LIMIT)
    gate.set()
    assert isinstance(failing.exception(LIMIT), vramx.OutOfMemoryError)
    with pytest.raises(vramx.InUseError, match="not measured"):
        job.result(LIMIT)


def test_of_jobs_that_hold_what_each_others_need_one_is_refused_and_the_other_ends(
    open_queue: OpenQueue,
) -> None:
    queue = open_queue()
    both = threading.Barrier(2, timeout=LIMIT)

    def outer(number: int) -> int:
        both.wait()
        inner = queue.submit(pow, 2, number, footprint="5MiB")
        try:
            return int(inner.result())
        finally:
            inner.cancel()

    jobs = [queue.submit(outer, number, footprint="5MiB", kind="outer") for number in (1, 2)]
    errors = [job.exception(LIMIT) for job in jobs]
    assert [type(error) for error in errors].count(vramx.InUseError) == 1
    assert next(job.result() for job, error in zip(jobs, errors) if error is None) in (2, 4)


@pytest.mark.parametrize("several_queues", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_jobs_that_wait_in_a_circle_are_told(
    open_queue: OpenQueue, way: str, several_queues: bool
) -> None:
    queues = [open_queue() for _ in range(3 if several_queues else 1)]
    jobs: list[vramx.Job[Any]] = []
    ready = threading.Event()

    def wait_for(number: int) -> Any:
        assert ready.wait(LIMIT)
        return WAYS[way](jobs[(number + 1) % 3])

    for number in range(3):
        queue = queues[number % len(queues)]
        jobs.append(queue.submit(wait_for, number, footprint=1, name=f"job {number}"))
    ready.set()
    for job in jobs:
        with pytest.raises(vramx.InUseError, match=r"job \d waits for job \d.*waits for job \d"):
            job.result(LIMIT)


def test_a_job_does_not_wait_for_itself(open_queue: OpenQueue) -> None:
    job = open_queue().submit(lambda: vramx.current_job().result(), footprint=1, name="me")
    with pytest.raises(vramx.InUseError, match="me would wait for itself"):
        job.result(LIMIT)


def test_queues_of_one_process_on_one_card_know_of_each_other(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path))
    one, other = open_queue(card="shared"), open_queue(card="shared")

    def outer(nbytes: int) -> int:
        return int(other.submit(pow, 2, 3, footprint=nbytes).result())

    assert one.submit(outer, 4 * MIB, footprint="6MiB").result(LIMIT) == 8
    with pytest.raises(vramx.InUseError, match=r"pow needs 5\.00 MiB"):
        one.submit(outer, 5 * MIB, footprint="6MiB").result(LIMIT)


# Closing


def test_a_queue_within_a_job_is_closed_when_its_jobs_have_ended(open_queue: OpenQueue) -> None:
    def outer() -> list[int]:
        with vramx.Queue(BUDGET, backend="simulated") as queue:
            jobs = [queue.submit(pow, 2, number, footprint="6MiB") for number in range(4)]
        return [job.result(0) for job in jobs]

    assert open_queue().submit(outer, footprint=BUDGET).result(LIMIT) == [1, 2, 4, 8]


@pytest.mark.parametrize("cancel", [False, True])
def test_a_queue_whose_jobs_cannot_end_before_a_job_is_not_closed_by_it(
    open_queue: OpenQueue, cancel: bool
) -> None:
    one, other = open_queue(), open_queue()
    outers: list[vramx.Job[Any]] = []
    done: list[vramx.Job[int]] = []

    def outer() -> None:
        outers.append(vramx.current_job())
        other.submit(inner, footprint=1, name="inner").result()

    def inner() -> None:
        while not is_waiting(outers[0]):  # of two waits the one that begins last is refused
            pass
        done.append(one.submit(pow, 2, 3, footprint=1))
        one.close(cancel=cancel)

    job = one.submit(outer, footprint=BUDGET, name="outer")
    with pytest.raises(vramx.InUseError, match=r"inner waits for outer.*it waits for inner"):
        job.result(LIMIT)
    assert done[0].result(LIMIT) == 8
    assert one.submit(pow, 2, 2, footprint=1).result(LIMIT) == 4


def test_a_helper_of_a_job_cannot_close_the_queue_that_it_runs_on(open_queue: OpenQueue) -> None:
    queue = open_queue()
    job = queue.submit(lambda: in_helper(queue.close), footprint=1)
    with pytest.raises(vramx.InUseError, match="wait for itself"):
        job.result(LIMIT)


# Threads


def test_no_more_jobs_work_than_there_are_workers_and_those_that_wait_are_none(
    open_queue: OpenQueue,
) -> None:
    queue = open_queue(workers=2)
    lock, working, most = threading.Lock(), [0], [0]

    @contextlib.contextmanager
    def work() -> Iterator[None]:
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        yield
        with lock:
            working[0] -= 1

    def nested(depth: int) -> int:
        with work():
            pass
        if depth:
            queue.submit(nested, depth - 1, footprint=1, kind="nested").result()
        with work():
            return depth

    jobs = [queue.submit(nested, 6, footprint=1, kind="nested") for _ in range(4)]
    assert [job.result(LIMIT) for job in jobs] == [6] * 4
    assert most[0] <= 2


def test_a_thread_that_outlives_its_job_waits_as_any_other(open_queue: OpenQueue) -> None:
    queue = open_queue()
    ended, told = threading.Event(), []

    def helper() -> None:
        assert ended.wait(LIMIT)
        told.append(queue.submit(pow, 2, 3, footprint=BUDGET).result())

    def outer() -> threading.Thread:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(helper,))
        thread.start()
        return thread

    thread = queue.submit(outer, footprint=BUDGET).result(LIMIT)
    ended.set()
    thread.join(LIMIT)
    assert told == [8]


def test_a_callback_that_waits_holds_up_nobody(open_queue: OpenQueue) -> None:
    queue = open_queue(workers=1)
    told: list[int] = []
    gate, done = threading.Event(), threading.Event()
    first = queue.submit(gate.wait, LIMIT, footprint=1)
    second = queue.submit(pow, 2, 3, footprint=1)

    def tell(_: Any) -> None:
        told.append(second.result())
        done.set()

    first.add_done_callback(tell)
    gate.set()
    assert done.wait(LIMIT)
    assert told == [8]


def test_a_look_that_does_not_wait_is_never_refused(open_queue: OpenQueue) -> None:
    queue = open_queue()

    def outer() -> bool:
        inner = queue.submit(pow, 2, 3, footprint=BUDGET)
        with pytest.raises(futures.TimeoutError):
            inner.result(timeout=0)
        return inner.cancel()

    assert queue.submit(outer, footprint=1).result(LIMIT)


def test_nothing_is_kept_of_a_wait_that_was_given_up(open_queue: OpenQueue) -> None:
    queue = open_queue()

    def outer() -> None:
        fits = queue.submit(pow, 2, 3, footprint=1)
        large = queue.submit(pow, 2, 3, footprint=BUDGET)
        with pytest.raises(vramx.InUseError):
            futures.wait([fits, large])
        with pytest.raises(vramx.InUseError):
            list(futures.as_completed([fits, large]))
        assert next(futures.as_completed([fits])).result() == 8
        gc.collect()
        assert not waits._waits
        large.cancel()

    queue.submit(outer, footprint=1).result(LIMIT)


# Among processes


def test_a_claim_for_whose_sake_others_are_kept_goes_ahead_of_the_line(tmp_path: Path) -> None:
    mine, other, third = (Ledger(tmp_path) for _ in range(3))
    assert mine.claim(1, Claim(6, "outer"), 10)
    assert not other.claim(1, Claim(8, "large"), 10)
    assert not mine.claim(2, Claim(3, "ordinary"), 10)
    assert mine.claim(2, Claim(3, "inner"), 10, kept=6)
    assert not mine.claim(3, Claim(2, "inner"), 10, kept=9)
    assert not third.claim(1, Claim(1, "small"), 10)
    mine.release(2)
    assert not other.claim(1, Claim(3, "large"), 10)
    assert mine.claim(3, Claim(2, "inner"), 10, kept=6)
    mine.release(3)
    assert not mine.claim(4, Claim(5, "inner"), 10, kept=6)
    assert not mine.claim(4, Claim(3, "ordinary"), 10)  # which has the place of no other
    assert other.claim(1, Claim(3, "large"), 10)
    for ledger in (mine, other, third):
        ledger.close()


@given(
    members=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 10), st.booleans()), min_size=1, max_size=4
    )
)
@settings(max_examples=100)
def test_members_that_wait_end_by_giving_back_or_by_giving_up_one_at_a_time(
    members: list[tuple[int, int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledgers = [Ledger(Path(folder)) for _ in members]
        waiting: dict[int, tuple[Ledger, int, int]] = {}
        for number, (ledger, (has, wants, waits_now)) in enumerate(zip(ledgers, members)):
            if has and ledger.claim(0, Claim(has, "outer"), 10) and waits_now:
                waiting[number] = (ledger, has, wants)
            elif ledger.waits:
                ledger.leave_line()
        for number in list(waiting):
            ledger, has, wants = waiting[number]
            if has + wants > 10:  # which its own queue refuses
                del waiting[number]
        for ledger in {*ledgers} - {ledger for ledger, _, _ in waiting.values()}:
            ledger.close()  # what waits for none ends
        while waiting:
            before = len(waiting)
            for number, (ledger, has, wants) in list(waiting.items()):
                if ledger.claim(1, Claim(wants, "inner"), 10, kept=has):
                    ledger.release(1)
                    ledger.release(0)
                    del waiting[number]
            stuck = [each for each in waiting.values() if each[0].waits_in_vain(10)]
            assert len(stuck) <= 1
            for ledger, _, _ in stuck:
                ledger.close()
                waiting = {n: each for n, each in waiting.items() if each[0] is not ledger}
            assert len(waiting) < before
        for ledger in ledgers:
            ledger.close()


NESTED = """
    import sys
    import vramx

    def outer():
        print("has", flush=True)
        sys.stdin.readline()
        return queue.submit(pow, 2, 3, footprint="5MiB").result()

    with vramx.simulate(), vramx.Queue("10MiB", backend="simulated", card="shared") as queue:
        job = queue.submit(outer, footprint="5MiB")
        error = job.exception()
        print("8" if error is None else type(error).__name__, flush=True)
"""


def test_of_processes_whose_jobs_wait_for_what_the_others_keep_one_gives_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path))
    with contextlib.ExitStack() as kill:
        both = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(NESTED)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for each in both:
            kill.callback(each.kill)
            assert each.stdout is not None
            assert each.stdout.readline() == "has\n"
        for each in both:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        told = [each.communicate(timeout=LIMIT)[0] for each in both]
    assert sorted(told) == ["8\n", "InUseError\n"]
