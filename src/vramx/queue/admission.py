"""Which job of a line is the next to run: whether what it needs can be claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vramx.errors import Error, InUseError
from vramx.queue import waits
from vramx.queue.job import Job
from vramx.queue.ledger import Claim, Ledger
from vramx.queue.needs import Needs
from vramx.units import format_size


class Admission:
    """Claims bytes of the card for jobs of one queue.

    Parameters
    ----------
    ledger : Ledger
        Where claims of all processes are.
    needs : Needs
        What the queue's jobs need.
    budget : int
        The most that may be claimed.
    """

    def __init__(self, ledger: Ledger, needs: Needs, budget: int) -> None:
        self._ledger = ledger
        self._needs = needs
        self._budget = budget

    def next_of(
        self, line: Sequence[tuple[int, int, Job[Any]]]
    ) -> tuple[int, Job[Any], Error | None] | None:
        """Claim what a job in line needs, if that can be had or it cannot be claimed at all.

        With the lock held.

        Parameters
        ----------
        line : sequence of (int, int, Job)
            The jobs that wait, with their numbers, the next one first.

        Returns
        -------
        (int, Job, Error or None) or None
            The job's number, the job, and what keeps it from ever running.
        """
        awaited = [each for each in line if waits.is_awaited(each[2])]
        for _, number, job in awaited or line[:1]:
            try:
                if self._admit(number, job, kept=waits.kept_until(job) if awaited else None):
                    return number, job, None
                if awaited:
                    self._refuse_if_stuck(job)
            except Error as error:  # nobody can tell what is free, or it will never be enough
                return number, job, error
        return None

    def _refuse_if_stuck(self, job: Job[Any]) -> None:
        waits.refuse_if_stuck(job)
        if self._ledger.waits_in_vain(self._budget):
            raise InUseError(
                f"the job {job.name} needs {format_size(self._needs.of(job))}, for which jobs of "
                "this process and of others wait while they keep more than leaves that of the "
                f"queue's {format_size(self._budget)}; give smaller footprints, or end the one "
                "before waiting for the other"
            )

    def _admit(self, number: int, job: Job[Any], *, kept: int | None) -> bool:
        job.batch = self._needs.batch(job)
        needed = self._needs.of(job)
        if not self._ledger.claim(number, Claim(needed, job.name), self._budget, kept=kept):
            return False
        job.budget = needed
        return True
