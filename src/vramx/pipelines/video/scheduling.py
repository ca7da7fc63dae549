"""How the system schedules threads, which an encoder must not change."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def kept_scheduling() -> Iterator[None]:
    """Keep how threads of this process are scheduled, whatever an encoder that is opened does.

    For root, SVT-AV1 gives the highest real-time priority to its threads and to the one that opens
    it, for good and for all processes that this starts: whatever else runs waits for them. After
    the scope, threads that were there are as they were, and new ones as the one that calls.
    """
    before = _scheduling()
    own = before[threading.get_native_id()]
    try:
        yield
    finally:
        for thread, found in _scheduling().items():
            if found != (kept := before.get(thread, own)):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(thread, kept[0], os.sched_param(kept[1]))


def _scheduling() -> dict[int, tuple[int, int]]:
    """Return the policy and the priority of each thread of this process."""
    found = {}
    # While threads end, the system may pass others by as it lists them.
    for thread in {threading.get_native_id(), *map(int, os.listdir("/proc/self/task"))}:
        with contextlib.suppress(ProcessLookupError):
            found[thread] = os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
    return found
