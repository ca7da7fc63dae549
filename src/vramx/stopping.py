"""A token by which work is asked to stop."""

from __future__ import annotations

import threading


class Stop:
    """A token that asks work to stop. Any thread may use it.

    Parameters
    ----------
    *others : Stop
        It is also stopped when one of these is.

    Examples
    --------
    >>> stop = vramx.Stop()
    >>> signal.signal(signal.SIGTERM, lambda *_: stop.stop())
    >>> sr.enlarge_video("small.mp4", "large.mp4", stop=stop)
    """

    def __init__(self, *others: Stop) -> None:
        self._asked = threading.Event()
        self._others = others

    def stop(self) -> None:
        """Ask to stop. Calling it again does nothing."""
        self._asked.set()

    @property
    def stopped(self) -> bool:
        """Whether work was asked to stop."""
        return self._asked.is_set() or any(each.stopped for each in self._others)
