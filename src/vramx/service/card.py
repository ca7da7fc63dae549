"""The card as it is now: what of it jobs have, and what crosses its link."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import asdict
from typing import Any

from vramx import config
from vramx.cards.nvml import card_memory
from vramx.errors import Error
from vramx.monitor.snapshot import rates_between
from vramx.queue import Queue
from vramx.seeing.stats import Stats
from vramx.session.cores import open_device
from vramx.session.options import SessionOptions
from vramx.session.session import Session, open_sessions

#: Seconds in which one look serves all who ask.
_FRESH = 0.5


class Card:
    """Looks at the queue's card and at the sessions of its jobs.

    Parameters
    ----------
    queue : Queue
        The queue.
    options : SessionOptions
        How its jobs' sessions are opened.

    Raises
    ------
    NoDeviceError
        If there is no usable card.
    """

    def __init__(self, queue: Queue, options: SessionOptions) -> None:
        self._queue = queue
        device = open_device(options, config.from_environment())
        self._uuid = device.uuid
        self._facts = {
            "name": device.name,
            "backend": device.kind,
            "simulated": device.computes_on_host,
            "memory": device.capacity,
        }
        self._lock = threading.Lock()
        self._seen: dict[Session, Stats] = {}
        self._at = 0.0
        self._told: dict[str, Any] = {}

    def look(self) -> dict[str, Any]:
        """Tell how the card is, as it was at most half a second ago.

        Returns
        -------
        dict
            Bytes: the `budget` of all jobs, what running ones have `claimed`; of their sessions
            `managed`, `resident`, `kept` by plans, `packed_on_card` and `packed_on_host`; bytes a
            second over the `link`. And the number of `sessions`.
        """
        with self._lock:
            now = time.monotonic()
            if not self._told or now - self._at >= _FRESH:
                self._told = self._look(now)
            return self._told

    def _look(self, now: float) -> dict[str, Any]:
        seen: dict[Session, Stats] = {}
        kept = 0
        for session in tuple(open_sessions):
            with contextlib.suppress(Error):  # it is being closed
                seen[session] = session.stats()
                plan = session.plan()
                kept += 0 if plan is None else plan.kept + plan.packed_copies
        link_in = link_out = 0.0
        for session, stats in seen.items():
            seconds = now - self._at if self._told else 0.0  # of the first look there are no rates
            before = self._seen.get(session, Stats())
            if (rates := rates_between(before, stats, seconds)) is not None:
                link_in += rates.crossed_in
                link_out += rates.moved_out
        self._seen, self._at = seen, now
        sums = ("managed", "resident", "packed_on_card", "packed_on_host")
        every = [asdict(each) for each in seen.values()]
        return {
            "budget": self._queue.budget,
            "claimed": sum(job.budget for job in self._queue.running),
            "sessions": len(seen),
            **{name: sum(each[name] for each in every) for name in sums},
            "kept": kept,
            "link": {"in": link_in, "out": link_out},
        }

    def health(self) -> dict[str, Any]:
        """Tell whether the card is there, and what it is.

        Returns
        -------
        dict
            `name`, `backend`, `memory` in bytes, whether it is `simulated`, and whether it is
            `there`; if not, `why`.
        """
        if self._facts["simulated"]:
            return {**self._facts, "there": True}
        try:
            card_memory(self._uuid)
        except Exception as error:  # NVML's errors exist only where it is installed
            return {**self._facts, "there": False, "why": str(error)}
        return {**self._facts, "there": True}
