"""Damaged files to a reader, in a process that is watched."""

from __future__ import annotations

import faulthandler
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .damage import damaged
from .readers import KINDS

#: Seconds for a file, and bytes of address space beside what is taken before.
LIMIT, ROOM = 20, 2**31


def _memory(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def fuzz(kind: str, seed: int, inputs: int, log: str, told: Connection) -> None:
    """Read damaged files; tell what was raised that is no error of vramx, and the memory taken.

    The number of the file that is being read is in `log`, for a reader that crashes or hangs.
    """
    import vramx

    sys.stderr = open(f"{log}.stderr", "w")  # noqa: SIM115 - a crash says there where it was
    warnings.simplefilter("ignore")
    make, read = KINDS[kind]
    folder = Path(tempfile.mkdtemp())
    seeds = make(kind.rpartition(" ")[2], folder)
    if not seeds:
        told.send(None)
        return
    place = folder / "one"
    raised: list[Any] = []
    before = 0
    for number in range(-1, inputs):  # a whole one first, for what is loaded once
        content = seeds[0] if number < 0 else damaged(seeds, random.Random(f"{seed} {number}"))
        place.mkdir()
        (place / "a").write_bytes(content)
        Path(log).write_text(str(number))
        faulthandler.dump_traceback_later(LIMIT, exit=True, file=sys.stderr)
        try:
            read(place / "a")
        except vramx.Error:
            pass
        except Exception:
            raised.append((number, traceback.format_exc(limit=-4)))
            Path(f"{log}.{number}").write_bytes(content)
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(place)
        if number < 0:
            before = _memory("VmHWM")
            limit = _memory("VmSize") + ROOM
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    shutil.rmtree(folder)
    told.send((raised, _memory("VmHWM") - before))
