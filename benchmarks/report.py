"""What a scenario found, for people and for programs, as it becomes known.

Results are JSON of one schema: the scenario, the commit, the machine, the options, and rows, one a
line. A row tells all that it takes to read it, in bytes and seconds.
"""

import argparse
import contextlib
import json
import math
import platform
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch

import vramx
from vramx.units import format_size

_FORMS: dict[str, Callable[[Any], str]] = {
    "": str,
    "text": str,
    "g": "{:g}".format,
    "s": "{:.3f}".format,
    "ms": lambda value: f"{value * 1e3:.2f}",
    "us": lambda value: f"{value * 1e6:.2f}",
    "GiB": lambda value: f"{value / 2**30:.2f}",
    "MiB": lambda value: f"{value / 2**20:.1f}",
    "GB/s": lambda value: f"{value / 1e9:.1f}",
    "size": format_size,
    "ratio": "{:.3f}".format,
    "bits": lambda same: "yes" if same else "NO",
    "holds": lambda missed: "NO: " + ", ".join(missed) if missed else "yes",
}
#: How what is told of a whole run is written.
_FACTS = {**dict.fromkeys(("weights", "budget", "block"), "size"), "link": "GB/s"}

#: The width of columns of numbers and short words, and of those of text.
_NARROW, _WIDE = 9, 24


class SkippedError(Exception):
    """What is asked for cannot be had here, which is nobody's fault; says why."""


def machine() -> dict[str, Any]:
    """Tell where this runs."""
    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def commit() -> str | None:
    """Return what is measured, if git knows."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class Report:
    """Prints rows and keeps the file complete, should the run be cut short.

    Columns are words: a row's key; after a colon the column's head, in which tildes are spaces;
    after another how it is written, one of `_FORMS`. Of the options, ``json`` is the file, if any.
    """

    def __init__(self, scenario: str, columns: str, args: argparse.Namespace) -> None:
        options = {key: value for key, value in vars(args).items() if key != "json"}
        self._file: Path | None = args.json
        self._head = {"scenario": scenario, "commit": commit(), "machine": machine()}
        self._head["options"] = options
        self._columns = []
        for word in columns.split():
            key, head, form = [*word.split(":"), "", ""][:3]
            head = head.replace("~", " ") or key
            width = max(len(head), _WIDE if form == "text" else _NARROW)
            self._columns.append((key, head, _FORMS[form], width))
        self._facts: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []

    def begin(self, **facts: Any) -> None:
        """Take what all rows share, and print it above them."""
        self._facts = facts
        told = [
            f"{name} {self._write(value, _FORMS[_FACTS.get(name, 'g')])}"
            for name, value in facts.items()
        ]
        where = self._head["machine"]
        print(f"{where['card'] or 'no card'}, torch {where['torch']}: {', '.join(told)}")
        print("  ".join(f"{head:<{width}}" for _, head, _, width in self._columns), flush=True)

    def add(self, row: dict[str, Any]) -> None:
        """Take a row: figures, or an ``error``, or why it was ``skipped``; and perhaps a note."""
        self.rows.append({**self._facts, **row})
        cells = []
        for key, _, form, width in self._columns:
            if key not in row and ("error" in row or "skipped" in row):
                break
            cells.append(f"{self._write(row.get(key), form):<{width}}")
        cells += [row[key] for key in ("error", "skipped", "note") if row.get(key)]
        print("  ".join(cells).rstrip(), flush=True)
        if self._file is not None:
            self._file.write_text(dumps({**self._head, "rows": self.rows}))

    @contextlib.contextmanager
    def row(self, **known: Any) -> Iterator[dict[str, Any]]:
        """Give a row to be filled in a scope, and take it: an error is its row's alone."""
        try:
            yield known
        except (vramx.Error, RuntimeError) as error:
            known |= failure(error)
        self.add(known)

    @staticmethod
    def failed(row: dict[str, Any]) -> bool:
        """Tell whether a row is an error, gave other bits, or missed a limit."""
        return "error" in row or row.get("same_bits") is False or bool(row.get("missed"))

    @staticmethod
    def _write(value: Any, form: Callable[[Any], str]) -> str:
        if value is None:
            return "-"
        return value if isinstance(value, str) else form(value)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(each) for each in value]
    if isinstance(value, float):
        return round(value) if 1e6 <= abs(value) < math.inf else float(f"{value:.6g}")
    return value


def dumps(result: dict[str, Any]) -> str:
    """Write results as JSON, one row a line."""
    head = json.dumps({key: _short(result[key]) for key in result if key != "rows"}, default=str)
    rows = ",\n".join(json.dumps(_short(row), default=str) for row in result["rows"])
    return f'{head[:-1]}, "rows": [\n{rows}\n]}}\n'


def failure(error: Exception) -> dict[str, str]:
    """Return what a row says of an exception: its first line, or why it was skipped."""
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, (SkippedError, ImportError)):
        return {"skipped": f"skipped: {first}"}
    return {"error": f"{type(error).__name__}: {first}"}
