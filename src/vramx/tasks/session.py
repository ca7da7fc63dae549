"""The session in which a task runs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vramx.queue.job import running_job
from vramx.session import Session
from vramx.session.opening import oversubscribe
from vramx.session.options import SessionOptions


def open_session(options: SessionOptions) -> Session:
    """Open a task's session, within the share of the queue's job if there is one.

    Parameters
    ----------
    options : SessionOptions
        How.

    Returns
    -------
    Session
        As `vramx.oversubscribe`.
    """
    asked: dict[str, Any] = {
        each.name: value
        for each in fields(options)
        if (value := getattr(options, each.name)) != each.default
    }
    job = running_job()
    return oversubscribe(**asked) if job is None else job.oversubscribe(**asked)
