"""Which jobs of this process wait for which, and whether those waits can end.

A job that waits for another keeps its bytes. So a wait may never end: the other job may need those
bytes, or wait for this one, over any number of others. Such a wait is refused as it begins.
"""

from __future__ import annotations

import collections
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from vramx.errors import InUseError
from vramx.units import format_size

if TYPE_CHECKING:
    from vramx.queue.job import Job
    from vramx.queue.line import Queue

#: Guards the lines of all queues and who waits. Taken while futures are locked, never before them.
LOCK = threading.RLock()
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)

_queues: weakref.WeakSet[Queue] = weakref.WeakSet()
#: Who waits, by what waits and for whom.
_waits: dict[tuple[object, Job[Any]], Job[Any]] = {}


def add_queue(queue: Queue) -> None:
    """Take a queue among those whose jobs are looked at."""
    with LOCK:
        _queues.add(queue)


def begin(waiter: Job[Any] | None, target: Job[Any], key: object) -> None:
    """Note that a job waits, if that can end. Of what has ended nothing is noted.

    Parameters
    ----------
    waiter : Job or None
        The running job on behalf of which a thread waits; nothing is noted of other threads.
    target : Job
        For whom.
    key : object
        Stands for this wait; it may be for several jobs.

    Raises
    ------
    InUseError
        If the target cannot end before the waiter. Nothing of this key is noted then.
    """
    if waiter is None:
        return
    with LOCK:
        if target._has_ended:
            return
        _waits[key, target] = waiter
        if waiter not in (ends := _that_end()):
            for each in [each for each in _waits if each[0] is key]:
                del _waits[each]
            if target is waiter:
                raise InUseError(f"the job {waiter.name} would wait for itself")
            raise InUseError(
                f"the job {waiter.name} waits for {target.name}, which cannot end before it: "
                f"{_why(target, ends)}"
            )
        for queue in {waiter._queue, target._queue}:
            queue._look_again()


def end(target: Job[Any], key: object) -> None:
    """Note that a wait is over. One that was never noted is fine."""
    with LOCK:
        _waits.pop((key, target), None)


def is_awaited(job: Job[Any]) -> bool:
    """Return whether a running job waits for a job. With the lock held."""
    return any(target is job for _, target in _waits)


def count_waiting(queue: Queue) -> int:
    """Count a queue's running jobs that wait. With the lock held."""
    return len(
        {
            waiter
            for (_, target), waiter in _waits.items()
            if waiter._queue is queue and not target._has_ended and not waiter._has_ended
        }
    )


def kept_until(job: Job[Any]) -> int:
    """Sum what its queue's jobs keep until an awaited job has ended. With the lock held."""
    ends = _that_end(without=job)
    return sum(each.budget for each in job._queue._running.values() if each not in ends)


def refuse_if_stuck(job: Job[Any]) -> None:
    """Check that an awaited job can be admitted before those who wait. With the lock held.

    Raises
    ------
    InUseError
        If it cannot any more, since more is known of what it needs.
    """
    if job not in (ends := _that_end()):
        raise InUseError(
            f"the job {job.name} is waited for by one that cannot end before it: {_why(job, ends)}"
        )


def _running() -> list[Job[Any]]:
    return [job for queue in _queues for job in queue._running.values()]


def _that_end(without: Job[Any] | None = None) -> set[Job[Any]]:
    """Find the jobs that end, if all do that wait for none; those in line only if awaited."""
    running = set(_running())
    held: collections.Counter[str] = collections.Counter()
    for job in running:
        held[job._queue.card] += job.budget
    left = running | {target for _, target in _waits if not target._has_ended}
    left.discard(without)
    ended: set[Job[Any]] = set()

    def ends(job: Job[Any]) -> bool:
        if job in running:
            return all(each in ended for each in _awaited_by(job))
        queue = job._queue
        return held[queue.card] + queue._needs.of(job) <= queue.budget

    while found := {job for job in left if ends(job)}:
        left -= found
        ended |= found
        for job in found & running:
            held[job._queue.card] -= job.budget
    return ended


def _awaited_by(job: Job[Any]) -> list[Job[Any]]:
    return [
        target for (_, target), waiter in _waits.items() if waiter is job and not target._has_ended
    ]


def _why(job: Job[Any], ends: set[Job[Any]]) -> str:
    """Say what keeps a job from ending, given those that can."""
    queue = job._queue
    if job in _running():
        others = ", ".join(each.name for each in _awaited_by(job) if each not in ends)
        return f"it waits for {others}"
    holders = ", ".join(
        f"{each.name} has {format_size(each.budget)}"
        for each in _running()
        if each not in ends and each._queue.card == queue.card
    )
    unmeasured = "" if job.footprint else ", since it was not measured and has no footprint"
    return (
        f"{job.name} needs {format_size(queue._needs.of(job))}{unmeasured}, and of the queue's "
        f"{format_size(queue.budget)} {holders}; give smaller footprints, or end the one before "
        "waiting for the other"
    )
