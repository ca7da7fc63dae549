"""What a benchmark found, for people and for programs, as it becomes known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def gib(size: float | None) -> str:
    """Write bytes as GiB for a table, or a dash for None."""
    return "-" if size is None else f"{size / 2**30:.2f}"


class Report:
    """Prints what becomes known and keeps the file complete, should the run be cut short.

    Parameters
    ----------
    file : pathlib.Path or None
        Where the JSON goes.
    head, line : callable
        Write what all rows share, and a row, for people.
    **shared : object
        What all rows share and is known from the start.
    """

    def __init__(
        self,
        file: Path | None,
        head: Callable[[dict[str, Any]], str],
        line: Callable[[dict[str, Any]], str],
        **shared: Any,
    ) -> None:
        self._file = file
        self._head = head
        self._line = line
        self._shared = shared
        self.rows: list[dict[str, Any]] = []

    def begin(self, **shared: Any) -> None:
        """Take what all rows share."""
        self._shared |= shared
        print(self._head(self._shared), flush=True)
        self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Take a row."""
        self.rows.append(row)
        print(self._line(row), flush=True)
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            self._file.write_text(json.dumps({**self._shared, "rows": self.rows}, indent=1))
