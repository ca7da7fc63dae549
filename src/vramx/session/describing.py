"""A description of this process's sessions."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import weakref
from dataclasses import asdict
from typing import Any

from vramx.errors import Error
from vramx.session import Session, open_sessions

_serials: weakref.WeakKeyDictionary[Session, int] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)


def describe_process() -> dict[str, Any]:
    """Describe this process's open sessions as plain data.

    Returns
    -------
    dict
        ``pid``, ``command`` and ``sessions``: the number, card and counts of each.
    """
    sessions = []
    for session in tuple(open_sessions):
        if not session.active:
            continue
        with contextlib.suppress(Error):  # it is being closed
            sessions.append(
                {
                    "number": _serials.setdefault(session, next(_numbers)),
                    "card": session.device.name,
                    "uuid": session.device.uuid,
                    "backend": session.device.kind,
                    "stats": asdict(session.stats()),
                }
            )
    return {"pid": os.getpid(), "command": " ".join(sys.argv), "sessions": sessions}
