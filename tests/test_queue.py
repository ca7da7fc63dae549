"""The queue of jobs: what runs fits the budget, in order, and no job harms another.

Jobs wait at gates that the tests open; what a test waits for is an event, with a limit that only a
failing test meets.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import vramx
from child import run_child
from vramx.queue.ledger import Ledger

MIB = 2**20
BUDGET = 10 * MIB
LIMIT = 60  # seconds that nothing here takes

pytestmark = pytest.mark.usefixtures("no_open_session")
OpenQueue = Callable[..., vramx.Queue]


class Gated:
    """A job's function that tells when it starts and waits until it may end."""

    def __init__(self, started: list[Any] | None = None, error: Exception | None = None) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.started = [] if started is None else started
        self.error = error

    def __call__(self) -> Gated:
        self.started.append(self)
        self.begun.set()
        assert self.gate.wait(LIMIT)
        if self.error is not None:
            raise self.error
        return self

    def has_begun(self) -> bool:
        return self.begun.wait(LIMIT)


def take(nbytes: int) -> int:
    """Hold bytes of the card in a session, and tell the share."""
    job = vramx.current_job()
    with job.oversubscribe(block="1MiB") as session:
        session.empty(nbytes, "uint8")
        assert session.stats().budget == job.budget
    return job.budget


class Jobs(RuleBasedStateMachine):
    """Jobs of all sizes come, end, fail and are cancelled; a model says which must run."""

    jobs = Bundle("jobs")
    WORKERS = 3

    def __init__(self) -> None:
        super().__init__()
        self.card = vramx.simulate(capacity="64MiB")
        self.queue = vramx.Queue(BUDGET, backend="simulated", workers=self.WORKERS)
        self.line: list[tuple[int, vramx.Job[Any], Gated]] = []
        self.running: list[tuple[int, vramx.Job[Any], Gated]] = []
        self.started: list[Gated] = []
        self.due: list[Gated] = []

    @rule(target=jobs, nbytes=st.integers(1, BUDGET), fails=st.booleans())
    def submit(self, nbytes: int, fails: bool) -> Any:
        gated = Gated(self.started, ValueError("mine") if fails else None)
        job = self.queue.submit(gated, footprint=nbytes)
        self.line.append((nbytes, job, gated))
        self.settle()
        return self.line[-1] if self.line and self.line[-1][1] is job else self.running[-1]

    @rule(entry=consumes(jobs))
    def end(self, entry: Any) -> None:
        _, job, gated = entry
        if entry not in self.running:
            return
        gated.gate.set()
        if gated.error is None:
            assert job.result(LIMIT) is gated
        else:
            assert job.exception(LIMIT) is gated.error
        self.running.remove(entry)
        self.settle()

    @rule(entry=consumes(jobs))
    def cancel(self, entry: Any) -> None:
        _, job, _ = entry
        assert job.cancel() == (entry in self.line)
        if entry in self.line:
            self.line.remove(entry)
            assert job.cancelled()
        else:
            assert job.stop.stopped
        self.settle()

    def settle(self) -> None:
        """Admit in the model what must be admitted, and wait until it runs."""
        held = sum(nbytes for nbytes, _, _ in self.running)
        while self.line and held + self.line[0][0] <= BUDGET and len(self.running) < self.WORKERS:
            entry = self.line.pop(0)
            held += entry[0]
            self.running.append(entry)
            self.due.append(entry[2])
            assert entry[2].has_begun()

    @invariant()
    def jobs_start_in_order_and_only_when_there_is_room(self) -> None:
        # What started too early would be here, or be found by the next look.
        assert self.started == self.due
        assert set(self.queue.waiting) == {job for _, job, _ in self.line}
        assert sum(job.budget for job in self.queue.running) <= BUDGET

    def teardown(self) -> None:
        for _, _, gated in (*self.line, *self.running):
            gated.gate.set()
        self.queue.close()
        self.settled_all()
        with self.card:
            pass

    def settled_all(self) -> None:
        for _, job, _ in (*self.line, *self.running):
            assert job.done()
        assert self.queue.running == self.queue.waiting == ()


TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=40, stateful_step_count=25)

# Order


def test_a_large_job_is_not_overtaken_by_small_ones_behind_it(open_queue: OpenQueue) -> None:
    queue, started = open_queue(), []
    first, large, small = (Gated(started) for _ in range(3))
    queue.submit(first, footprint="6MiB")
    assert first.has_begun()
    queue.submit(large, footprint="8MiB")
    queue.submit(small, footprint="2MiB")
    assert started == [first]
    for gated in (first, large, small):
        gated.gate.set()
    queue.close()
    assert started == [first, large, small]


def test_jobs_with_more_priority_come_earlier(open_queue: OpenQueue) -> None:
    queue, started = open_queue(), []
    gated = [Gated(started) for _ in range(5)]
    for each, priority in zip(gated, (0, 0, 1, 0, 1)):
        queue.submit(each, footprint=BUDGET, priority=priority)
        assert gated[0].has_begun()
    for each in gated:
        each.gate.set()
    queue.close()
    assert started == [gated[place] for place in (0, 2, 4, 1, 3)]


def test_no_more_jobs_run_than_there_are_workers(open_queue: OpenQueue) -> None:
    queue = open_queue(workers=2)
    gated = [Gated() for _ in range(3)]
    jobs = [queue.submit(each, footprint=1) for each in gated]
    assert gated[0].has_begun()
    assert gated[1].has_begun()
    assert (queue.running, queue.waiting) == (tuple(jobs[:2]), (jobs[2],))
    for each in gated:
        each.gate.set()
    assert jobs[2].result(LIMIT) is gated[2]


# Footprints


def test_a_job_larger_than_the_budget_is_refused_with_its_figures(open_queue: OpenQueue) -> None:
    queue = open_queue()
    with pytest.raises(vramx.OutOfMemoryError, match=r"20\.00 MiB.*10\.00 MiB") as caught:
        queue.submit(Gated(), footprint="20MiB")
    assert (caught.value.asked, caught.value.budget) == (20 * MIB, BUDGET)
    assert queue.waiting == ()


def test_the_first_of_a_kind_is_measured_alone_and_later_ones_claim_its_peak(
    open_queue: OpenQueue,
) -> None:
    queue = open_queue()
    other = Gated()
    jobs = [queue.submit(take, 3 * MIB) for _ in range(2)]
    queue.submit(other, footprint=1)
    assert [job.result(LIMIT) for job in jobs] == [BUDGET, 3 * MIB]
    assert [job.measured for job in jobs] == [3 * MIB, None]
    other.gate.set()


def test_kinds_are_told_by_their_name_and_batch(open_queue: OpenQueue) -> None:
    def work(nbytes: int, batch: int = 1) -> int:
        return take(nbytes * batch)

    queue = open_queue()
    shares = [
        queue.submit(work, nbytes * MIB, kind=kind, batch=batch).result(LIMIT) // MIB
        for nbytes, kind, batch in (
            (2, "a", None), (2, "a", None), (1, "b", 3), (1, "b", 3), (1, "b", 4), (5, None, None),
            (4, None, None),
        )
    ]  # fmt: skip
    assert shares == [10, 2, 10, 3, 10, 10, 5]


def test_of_what_nothing_was_seen_the_next_one_runs_alone_too(open_queue: OpenQueue) -> None:
    queue = open_queue()
    shares = [queue.submit(lambda: vramx.current_job().budget, kind="cpu") for _ in range(2)]
    assert [job.result(LIMIT) for job in shares] == [BUDGET, BUDGET]


def test_a_session_of_a_job_keeps_to_its_share(open_queue: OpenQueue) -> None:
    def work() -> vramx.Stats:
        with vramx.current_job().oversubscribe(block="1MiB") as session:
            for array in [session.empty(MIB, "uint8") for _ in range(6)]:
                with session.pin(array):
                    array[:] = 1
            return session.stats()

    stats = open_queue().submit(work, footprint="3MiB").result(LIMIT)
    assert stats.peak_resident <= stats.budget == 3 * MIB
    assert stats.moved_in >= 6 * MIB


# Cancelling


def test_a_cancelled_job_never_starts_and_those_behind_it_move_up(open_queue: OpenQueue) -> None:
    queue = open_queue()
    first, never, last = (Gated() for _ in range(3))
    running = queue.submit(first, footprint="6MiB")
    assert first.has_begun()
    cancelled = queue.submit(never, footprint=BUDGET)
    behind = queue.submit(last, footprint="4MiB")
    assert cancelled.cancel()
    assert last.has_begun()
    with pytest.raises(futures.CancelledError):
        cancelled.result(0)
    last.gate.set()
    first.gate.set()
    done, _ = futures.wait([running, cancelled, behind], LIMIT)
    assert len(done) == 3
    assert not never.begun.is_set()


def test_a_running_job_stops_at_its_checkpoint_when_it_is_asked_to(open_queue: OpenQueue) -> None:
    begun, asked, after = threading.Event(), threading.Event(), []

    def work() -> None:
        job = vramx.current_job()
        job.checkpoint()
        begun.set()
        assert asked.wait(LIMIT)
        job.checkpoint()
        after.append("not reached")

    job = open_queue().submit(work, footprint=1)
    assert begun.wait(LIMIT)
    assert not job.cancel()
    asked.set()
    with pytest.raises(futures.CancelledError, match="asked to stop"):
        job.result(LIMIT)
    assert job.cancelled()
    assert not after


def test_a_job_that_takes_no_notice_of_being_asked_to_stop_has_its_result(
    open_queue: OpenQueue,
) -> None:
    gated = Gated()
    job = open_queue().submit(gated, footprint=1)
    assert gated.has_begun()
    assert not job.cancel()
    gated.gate.set()
    assert job.result(LIMIT) is gated
    assert not job.cancelled()
    assert not job.cancel()


def test_a_job_is_awaited_like_any_future(open_queue: OpenQueue) -> None:
    queue = open_queue()

    async def wait() -> list[int]:
        jobs = [queue.submit(pow, number, 2, footprint=1) for number in range(4)]
        return await asyncio.gather(*map(asyncio.wrap_future, jobs))

    assert asyncio.run(wait()) == [0, 1, 4, 9]


# Failing


def test_what_a_failed_job_held_is_let_go_though_its_error_is_kept(open_queue: OpenQueue) -> None:
    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def hold(cause: bool) -> None:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        if cause:
            try:
                hold(False)
            except ValueError as error:
                raise KeyError("outer") from error
        raise ValueError("inner")

    queue = open_queue()
    failed = queue.submit(hold, True, footprint=BUDGET)
    after = queue.submit(take, MIB, footprint=BUDGET)
    error = failed.exception(LIMIT)
    assert isinstance(error, KeyError)
    assert isinstance(error.__cause__, ValueError)
    for each in (error, error.__cause__):
        frames = [frame for frame, _ in traceback.walk_tb(each.__traceback__)]
        assert frames
        assert not any(frame.f_locals for frame in frames)
    gc.collect()
    assert [each() for each in held] == [None, None]
    assert after.result(LIMIT) == BUDGET


@pytest.mark.parametrize("kind", ["vramx", "torch"])
def test_a_job_that_ran_out_of_memory_is_tried_again_with_half(
    open_queue: OpenQueue, kind: str
) -> None:
    torch = pytest.importorskip("torch")
    error = vramx.OutOfMemoryError if kind == "vramx" else torch.OutOfMemoryError
    tried = []

    def work(most: int, *, batch: int) -> int:
        tried.append(batch)
        if batch > most:
            raise error("no room")
        return batch

    queue = open_queue()
    job = queue.submit(work, 3, batch=16, footprint=MIB)
    assert job.result(LIMIT) == job.batch == 2
    assert tried == [16, 8, 4, 2]
    tried.clear()
    assert queue.submit(work, 3, batch=16, footprint=MIB).result(LIMIT) == 2
    assert queue.submit(work, 99, batch=1, footprint=MIB).result(LIMIT) == 1
    assert queue.submit(work, 99, batch=16, footprint=2 * MIB).result(LIMIT) == 16
    assert queue.submit(work, 99, batch=16, footprint=MIB, kind="other").result(LIMIT) == 16
    assert tried == [2, 1, 16, 16]


def test_memory_that_runs_out_for_the_smallest_batch_is_the_result(open_queue: OpenQueue) -> None:
    tried = []

    def work(**options: int) -> None:
        tried.append(options)
        take(1000 * MIB)

    queue = open_queue(budget="4MiB")
    with vramx.simulate(capacity="8MiB", host_memory="16MiB"):
        for batch, calls in ((3, [{"batch": 3}, {"batch": 1}]), (None, [{}])):
            tried.clear()
            error = queue.submit(work, batch=batch, footprint="4MiB").exception(LIMIT)
            assert isinstance(error, vramx.OutOfMemoryError)
            assert tried == calls


def test_a_job_that_was_asked_to_stop_is_not_tried_again(open_queue: OpenQueue) -> None:
    tried = []

    def work(*, batch: int) -> None:
        tried.append(batch)
        vramx.current_job().cancel()
        raise vramx.OutOfMemoryError("no room")

    job = open_queue().submit(work, batch=8, footprint=1)
    with pytest.raises(futures.CancelledError):
        job.result(LIMIT)
    assert job.cancelled()
    assert tried == [8]


def test_a_measure_that_was_too_small_is_taken_anew(open_queue: OpenQueue) -> None:
    def work(nbytes: int) -> int:
        share = take(nbytes)
        if share < nbytes:
            raise vramx.OutOfMemoryError("more than last time")
        return share

    queue = open_queue()
    assert queue.submit(work, 2 * MIB).result(LIMIT) == BUDGET
    assert isinstance(queue.submit(work, 3 * MIB).exception(LIMIT), vramx.OutOfMemoryError)
    assert queue.submit(work, 3 * MIB).result(LIMIT) == BUDGET
    assert queue.submit(work, 3 * MIB).result(LIMIT) == 3 * MIB


def test_a_ledger_that_cannot_be_read_fails_jobs_and_hangs_none(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path))
    queue = open_queue(card="broken")
    lock = tmp_path / "cards" / "broken" / "lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to("lock")
    with pytest.raises(vramx.Error, match="claims on the card"):
        queue.submit(pow, 2, 3, footprint=1).result(LIMIT)
    lock.unlink()
    assert queue.submit(pow, 2, 3, footprint=1).result(LIMIT) == 8


# Closing


def test_closing_waits_for_every_job(open_queue: OpenQueue) -> None:
    done = []
    with open_queue() as queue:
        jobs = [queue.submit(done.append, number, footprint=BUDGET) for number in range(20)]
    assert done == list(range(20))
    assert all(job.done() for job in jobs)
    queue.close()


def test_an_error_in_the_scope_cancels_what_waits(open_queue: OpenQueue) -> None:
    begun = threading.Event()

    def until_asked() -> None:
        begun.set()
        while True:
            vramx.current_job().checkpoint()

    with pytest.raises(KeyboardInterrupt), open_queue() as queue:
        jobs = [queue.submit(until_asked, footprint=BUDGET) for _ in range(3)]
        assert begun.wait(LIMIT)
        raise KeyboardInterrupt
    assert all(job.cancelled() for job in jobs)


def test_a_closed_queue_takes_no_job(open_queue: OpenQueue) -> None:
    queue = open_queue()
    queue.close()
    with pytest.raises(vramx.QueueClosedError, match="closed"):
        queue.submit(pow, 2, 2, footprint=1)
    with pytest.raises(vramx.QueueClosedError), queue:
        pass


def test_a_job_cannot_wait_for_itself(open_queue: OpenQueue) -> None:
    queue = open_queue()
    with pytest.raises(vramx.Error, match="wait for itself"):
        queue.submit(queue.close, footprint=1).result(LIMIT)


def test_nothing_of_a_closed_queue_is_left(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path))
    before = threading.active_count()
    queue = open_queue(card="mine")
    queue.submit(pow, 2, 2, footprint=1).result(LIMIT)
    queue.close()
    assert threading.active_count() == before
    assert [path.name for path in (tmp_path / "cards" / "mine").iterdir()] == ["lock"]


def test_a_finished_job_keeps_nothing_but_its_result(open_queue: OpenQueue) -> None:
    class Weights:
        def __call__(self) -> int:
            return 1

    weights = Weights()
    kept = weakref.ref(weights)
    job = open_queue().submit(weights, footprint=1, kind="weights")
    del weights
    assert job.result(LIMIT) == 1
    gc.collect()
    assert kept() is None


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "size above zero"),
        ({"budget": "65MiB"}, "up to its 64.00 MiB"),
        ({"budget": None, "reserve": "64MiB"}, "cannot be shared out"),
        ({"workers": 0}, "workers 0"),
        ({"card": "../x"}, "is not a name"),
        ({"device": "cpu"}, "is not a card"),
    ],
)
def test_a_queue_that_makes_no_sense_is_refused(
    open_queue: OpenQueue, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        open_queue(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"footprint": -1}, "footprint -1"),
        ({"footprint": "much"}, "footprint 'much'"),
        ({"batch": 0}, "batch 0"),
        ({"batch": True}, "batch True"),
        ({"priority": 0.5}, "priority 0.5"),
        ({"kind": []}, "not hashable"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(
    open_queue: OpenQueue, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(vramx.ConfigError, match=message):
        open_queue().submit(pow, 2, 2, **options)


def test_what_cannot_be_called_is_refused(open_queue: OpenQueue) -> None:
    with pytest.raises(vramx.ConfigError, match="cannot be called"):
        open_queue().submit(3)  # type: ignore[arg-type]


def test_there_is_a_current_job_only_where_one_runs(open_queue: OpenQueue) -> None:
    with pytest.raises(vramx.Error, match="no job runs here"):
        vramx.current_job()
    job = open_queue().submit(vramx.current_job, footprint=1)
    assert job.result(LIMIT) is job
    with pytest.raises(vramx.Error, match="does not run now"):
        job.oversubscribe()


# Processes


@pytest.mark.parametrize("cancels", [False, True])
def test_a_queue_waits_behind_another_for_as_long_as_that_one_waits(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cancels: bool
) -> None:
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path))
    one, other = open_queue(card="shared"), open_queue(card="shared")
    started: list[Gated] = []
    first, large, small = (Gated(started) for _ in range(3))
    one.submit(first, footprint="6MiB")
    assert first.has_begun()
    waiting = other.submit(large, footprint=BUDGET)
    seen = Ledger(tmp_path / "cards" / "shared")
    deadline = time.monotonic() + LIMIT
    while not any(each.waiting for each in seen.others()):
        assert time.monotonic() < deadline
    one.submit(small, footprint="4MiB")
    if cancels:
        assert waiting.cancel()
        assert small.has_begun()
        assert started == [first, small]
    else:
        first.gate.set()
        assert large.has_begun()
        assert started == [first, large]
        large.gate.set()
        assert small.has_begun()
    for gated in (first, small):
        gated.gate.set()


QUEUE = """
    import os, sys
    import vramx

    budget, sizes = int(sys.argv[1]), list(map(int, sys.argv[2].split(",")))
    log = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)

    def work(nbytes, held):
        os.write(log, f"+{nbytes} {os.getpid()}\\n".encode())
        if held:
            sys.stdin.readline()
        os.write(log, f"-{nbytes} {os.getpid()}\\n".encode())

    with vramx.simulate(), vramx.Queue(budget, backend="simulated", card="one card") as queue:
        jobs = [queue.submit(work, n, bool(sys.argv[4:]), footprint=n) for n in sizes]
        for job in jobs:
            job.result()
"""


def start_queue(log: Path, sizes: list[int], *, held: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(QUEUE), str(BUDGET)]
    command += [",".join(map(str, sizes)), str(log), *(["held"] if held else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What processes write when jobs start and end; made with a runtime folder of its own."""
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path))
    os.mkfifo(tmp_path / "log")
    return tmp_path / "log"


def test_processes_share_a_card_and_go_on_when_one_is_killed(
    log: Path, open_queue: OpenQueue
) -> None:
    """The log's sums are never more than what is claimed, so they must stay in the budget."""
    reader = os.open(log, os.O_RDWR)
    with contextlib.ExitStack() as kill, os.fdopen(reader, buffering=1) as lines:
        victim = start_queue(log, [4 * MIB], held=True)
        kill.callback(victim.kill)
        assert lines.readline() == f"+{4 * MIB} {victim.pid}\n"
        mine, mine_large = Gated(), Gated()
        queue = open_queue(card="one card")
        small = queue.submit(mine, footprint="6MiB")
        large = queue.submit(mine_large, footprint="7MiB")
        assert mine.has_begun()
        others = [start_queue(log, [size * MIB for size in sizes]) for sizes in ([5, 3], [2, 9])]
        for other in others:
            kill.callback(other.kill)
        mine.gate.set()
        assert small.result(LIMIT) is mine
        mine_large.gate.set()
        # The first in line wants 7 MiB beside the victim's 4: all wait until it dies.
        held, events = {victim.pid: 4 * MIB}, []
        victim.send_signal(signal.SIGKILL)
        del held[victim.pid]
        assert victim.wait() == -signal.SIGKILL
        assert large.result(LIMIT) is mine_large
        while len(events) < 8:
            size, pid = map(int, lines.readline().split())
            held[pid] = held.get(pid, 0) + size
            events.append(size)
            assert sum(held.values()) <= BUDGET
        assert [other.wait() for other in others] == [0, 0]
        assert sum(events) == 0


def test_an_interpreter_that_ends_waits_for_its_jobs_as_for_any_future() -> None:
    code = """
        import vramx
        with vramx.simulate():
            queue = vramx.Queue("4MiB", backend="simulated")
        for number in range(3):
            queue.submit(print, number, footprint="4MiB")
    """
    assert run_child(code) == "0\n1\n2\n"


def test_a_forked_child_that_uses_a_queue_gets_a_clear_error_and_ends() -> None:
    code = """
        import os, vramx
        with vramx.simulate(), vramx.Queue("4MiB", backend="simulated") as queue:
            queue.submit(pow, 2, 2, footprint=1).result()
            if (child := os.fork()) == 0:
                try:
                    queue.submit(pow, 2, 2, footprint=1)
                except vramx.QueueClosedError as error:
                    print(error, flush=True)
                queue.close()
                os._exit(3)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(queue.submit(pow, 2, 2, footprint=1).result())
    """
    assert run_child(code).splitlines() == [
        "this queue belongs to the parent process; open one here", "3", "4"
    ]  # fmt: skip
