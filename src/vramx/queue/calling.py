"""Calling a job's function until it is done, with less where memory runs out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from vramx.queue.job import Job
from vramx.queue.memory import Peak, give_back_cached, is_out_of_memory, let_go
from vramx.queue.needs import Needs


def call(job: Job[Any], needs: Needs, ordinal: int) -> Callable[[], None]:
    """Call a job until it is done.

    Parameters
    ----------
    job : Job
        The job, which is running.
    needs : Needs
        Learns what it needed.
    ordinal : int
        The card's CUDA number.

    Returns
    -------
    callable
        Tells its future what the function returned or raised.
    """
    while True:
        try:
            to_measure = job.footprint is None and job.budget == needs.budget
            peak = Peak(ordinal, alone=to_measure)
            result = job._run(peak)
            if to_measure:
                needs.measure(job, peak.measured())
            return functools.partial(job.set_result, result)
        except BaseException as error:
            let_go(error)
            # Without this call, whose variables live on: they hold the job's sessions.
            failure = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        if not is_out_of_memory(failure):
            return functools.partial(job.set_exception, failure)
        needs.forget(job)
        if job.batch is None or job.batch == 1:
            return functools.partial(job.set_exception, failure)
        if job.stop.stopped:
            stopped = CancelledError(f"the job {job.name} was asked to stop, and did")
            return functools.partial(job.set_exception, stopped)
        del failure
        give_back_cached()
        needs.halve(job)
