"""A recording of what a session does, saved for Perfetto or drawn as a picture."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vramx import _core
from vramx.errors import ConfigError, Error
from vramx.seeing.chrome import chrome_trace
from vramx.writing import written_whole

#: The most events that a trace holds unless told otherwise.
MOST_EVENTS = 2**18

_TRACES = (".json", ".json.gz")


class _Core(Protocol):
    def begin_trace(self, stream: int, most_events: int) -> None: ...
    def end_trace(self) -> _core.Log: ...


def checked_path(path: str | os.PathLike[str], suffixes: tuple[str, ...], what: str) -> Path:
    """Check that a file of a kind can be written.

    Parameters
    ----------
    path : str or path
        The file.
    suffixes : tuple of str
        How its name may end.
    what : str
        The kind, for the message.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        If its name ends otherwise, or its folder does not exist.
    """
    checked = Path(path)
    if not checked.name.endswith(suffixes):
        raise ConfigError(f"{what} is saved as {' or '.join(suffixes)}, not as {str(path)!r}")
    if not checked.parent.is_dir():
        raise ConfigError(f"there is no folder {str(checked.parent)!r} to save {what} in")
    return checked


class Trace:
    """What a session did in a stretch of time. Made by `Session.trace`.

    As a context manager it records the scope and, where a path was given, saves it at the end, also
    when the scope is left by an exception.
    """

    def __init__(
        self,
        core: _Core,
        stream: Callable[[], int],
        card: str,
        path: str | os.PathLike[str] | None,
        *,
        most_events: int,
    ) -> None:
        if isinstance(most_events, bool) or not isinstance(most_events, int) or most_events < 1:
            raise ConfigError(f"most_events {most_events!r} is not a number of 1 or more")
        self._path = None if path is None else checked_path(path, _TRACES, "a trace")
        self._core = core
        self._stream = stream
        self._card = card
        self._most_events = most_events
        self._recording = False
        self._log: _core.Log | None = None

    def start(self) -> None:
        """Begin to record.

        Raises
        ------
        InUseError
            If another trace of the session is being recorded.
        Error
            If this one was recorded already.
        """
        if self._log is not None or self._recording:
            raise Error("a trace records once; make another with session.trace()")
        self._core.begin_trace(self._stream(), self._most_events)
        self._recording = True

    def stop(self) -> None:
        """End the recording, and save it where a path was given. Calling it again does nothing."""
        if not self._recording:
            return
        self._recording = False
        self._log = self._core.end_trace()
        if self._path is not None:
            self.save(self._path)

    def __enter__(self) -> Trace:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> _core.Log:
        """The events as they were recorded."""
        if self._log is None:
            raise Error("a trace can be looked at when its recording has ended: call stop() first")
        return self._log

    @property
    def lost(self) -> int:
        """How many events did not fit and were lost, the oldest first."""
        return self.log.lost

    def chrome(self) -> dict[str, Any]:
        """Return the trace in Chrome's trace event format.

        Returns
        -------
        dict
            What `save` writes as JSON.
        """
        return chrome_trace(self.log, self._card)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace for https://ui.perfetto.dev or ``chrome://tracing``.

        Parameters
        ----------
        path : str or path
            The file, ``.json`` or ``.json.gz``.

        Raises
        ------
        ConfigError
            If the suffix or the folder is not allowed.
        Error
            If the trace is still being recorded, or never was.
        """
        checked = checked_path(path, _TRACES, "a trace")
        text = json.dumps(self.chrome(), separators=(",", ":"), allow_nan=False)
        data = text.encode()
        with written_whole(checked) as file:
            file.write(gzip.compress(data) if checked.name.endswith(".gz") else data)

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Draw which modules were on the card when, and the bytes on it below.

        Parameters
        ----------
        path : str or path
            The file: ``.html``, a page that needs nothing else, or ``.png``, for which matplotlib
            is needed (``pip install 'vramx[plot]'``).

        Raises
        ------
        ConfigError
            If the suffix or the folder is not allowed, or matplotlib is lacking for a ``.png``.
        Error
            If the trace is still being recorded, or never was.
        """
        from vramx.seeing.picture import PICTURES, draw

        draw(self.log, self._card, checked_path(path, PICTURES, "a picture"))
