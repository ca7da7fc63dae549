"""Asking the processes of this machine, and the cards, what there is."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vramx.cards.nvml import CardMemory
from vramx.doctor.machine import Card, UnknownFactError
from vramx.doctor.this_machine import ThisMachine
from vramx.errors import Error
from vramx.processes.publishing import address_of, socket_folder
from vramx.processes.runtime import runtime_folder
from vramx.queue.ledger import Ledger, Member
from vramx.seeing.stats import Stats

#: What no process answers more than.
_LONGEST = 2**24


def ask_processes(patience: float) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Ask each process that publishes what it has open.

    Sockets that killed processes left behind are removed.

    Parameters
    ----------
    patience : float
        Seconds to wait for a process.

    Returns
    -------
    list of dict
        What they answered; see `vramx.processes.publishing.describe_process`.
    dict of int to str
        By process number, why there is no answer.
    """
    answers, silent = [], {}
    for path in sorted(socket_folder().glob("*.socket")):
        try:
            answers.append(_ask(path, patience))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # nobody listens: its process was killed
        except (OSError, ValueError) as error:
            if (pid := path.name.split("-")[0]).isdecimal():  # else it is none of vramx's
                silent[int(pid)] = str(error) or type(error).__name__
    return answers, silent


def _ask(path: Path, patience: float) -> dict[str, Any]:
    deadline = time.monotonic() + patience
    text = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(patience)
        with address_of(path) as address:
            asking.connect(address)
        while part := asking.recv(2**16):
            text += part
            if len(text) > _LONGEST:
                raise ValueError(f"its answer has more than {_LONGEST} bytes")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"its answer took more than {patience:g} s")
            asking.settimeout(left)
    try:
        return _checked(json.loads(text))
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"its answer is none of vramx's: {error!r}"[:200]) from error


def _checked(answer: Any) -> dict[str, Any]:
    """Put an answer together anew, of what it must have."""
    sessions = []
    for each in answer["sessions"]:
        stats = asdict(Stats(**each["stats"]))
        for name in stats:
            _of((int, float), stats, name)
        own = {name: _of(str, each, name) for name in ("card", "backend")}
        uuid = _of((str, type(None)), each, "uuid")
        sessions.append({"number": _of(int, each, "number"), **own, "uuid": uuid, "stats": stats})
    pid, command = _of(int, answer, "pid"), _of(str, answer, "command")
    return {"pid": pid, "command": command, "sessions": sessions}


def _of(kind: Any, data: Any, name: str) -> Any:
    value = data[name]
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {repr(value)[:40]}")
    return value


def ask_cards() -> tuple[list[tuple[Card, CardMemory]], str]:
    """Ask NVML for the cards and who holds their memory.

    Returns
    -------
    list of (Card, CardMemory)
        The cards.
    str
        Why there are none, if NVML cannot tell.
    """
    machine = ThisMachine()
    try:
        return [(card, machine.card_memory(card.uuid)) for card in machine.cards()], ""
    except UnknownFactError as error:
        return [], str(error)
    except Exception as error:  # NVML's errors exist only where it is installed
        return [], f"NVML says: {error}"


def ask_queues(patience: float) -> dict[str, list[Member]]:
    """Read what queues have claimed of the cards.

    Parameters
    ----------
    patience : float
        Seconds to wait for a process that reads or writes claims.

    Returns
    -------
    dict of str to list of Member
        By card, as the queues name it; those without claims are left out.
    """
    found = {}
    for folder in sorted((runtime_folder() / "cards").glob("*")):
        try:
            members = Ledger(folder, patience).others()
        except Error:
            continue  # another user's
        if members:
            found[folder.name] = members
    return found
