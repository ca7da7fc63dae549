"""What jobs need of the card: as they say, or as jobs of their kind were measured."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from vramx.queue import waits
from vramx.queue.job import Job


class Needs:
    """What a queue's jobs need, by what is known of their kinds.

    Parameters
    ----------
    budget : int
        What a job needs of which nothing is known.

    Attributes
    ----------
    budget : int
        As given.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._measured: dict[Hashable, int] = {}
        self._fitting: dict[Hashable, int] = {}

    def of(self, job: Job[Any]) -> int:
        """Return how many bytes a job needs. With the lock held."""
        kind = (job.kind, self.batch(job))
        return job.footprint or self._measured.get(kind, self.budget)

    def batch(self, job: Job[Any]) -> int | None:
        """Return what of a job's batch was enough before, if it takes one. With the lock held."""
        if job.batch is None:
            return None
        return min(job.batch, self._fitting.get((job.kind, job.footprint), job.batch))

    def measure(self, job: Job[Any], peak: int) -> None:
        """Note the most bytes that a job had on the card; zero says nothing."""
        if peak > 0:
            job.measured = peak
            with waits.LOCK:
                self._measured[job.kind, job.batch] = min(peak, self.budget)

    def forget(self, job: Job[Any]) -> None:
        """Believe no longer what was measured of a job's kind: memory ran out."""
        with waits.LOCK:
            self._measured.pop((job.kind, job.batch), None)

    def halve(self, job: Job[Any]) -> None:
        """Give a job half of its batch, and later ones of its kind no more."""
        assert job.batch is not None
        job.batch //= 2
        with waits.LOCK:
            self._fitting[job.kind, job.footprint] = job.batch
