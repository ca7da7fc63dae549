"""A service and all that it is made of, opened and closed as one."""

from __future__ import annotations

import contextlib
from types import TracebackType

from vramx.errors import ConfigError
from vramx.processes.runtime import lock_file, unlock_file
from vramx.queue import Queue
from vramx.service.card import Card
from vramx.service.events import Changes
from vramx.service.files import Files
from vramx.service.folders import Folders
from vramx.service.making import Making
from vramx.service.metrics import Metrics
from vramx.service.models import Models
from vramx.service.results import Results
from vramx.service.settings import ServiceSettings
from vramx.service.store import Store
from vramx.service.work import Work


class Service:
    """What answers requests, without HTTP. A context manager.

    Opening it goes on with the jobs that a server before it left.

    Parameters
    ----------
    settings : ServiceSettings
        How it is set up.

    Raises
    ------
    ConfigError
        If the folder of data cannot be used, another server uses it, or the models or the budget
        are not as they may be.
    NoDeviceError
        If there is no usable card.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.models = Models(settings.models)
        with contextlib.ExitStack() as opened:
            self._open(settings, opened)
            self._opened = opened.pop_all()

    def _open(self, settings: ServiceSettings, opened: contextlib.ExitStack) -> None:
        asked = settings.session
        queue = Queue(
            asked.budget,
            device=asked.device,
            backend=asked.backend,
            workers=settings.workers,
            reserve=asked.reserve,
        )
        opened.callback(queue.close)
        data = settings.data.absolute()
        try:
            data.mkdir(parents=True, exist_ok=True)
            opened.callback(unlock_file, lock_file(data / "lock", 0))
        except TimeoutError:
            raise ConfigError(f"another server has the folder {data}: give another one") from None
        except OSError as error:
            raise ConfigError(f"the folder {data} cannot be used: {error}") from error
        self.store = Store(data / "jobs.sqlite")
        opened.callback(self.store.close)
        self.files = Files(data / "files", self.store, settings.limits)
        self.folders = Folders(settings.folders)
        self.results = Results(data / "jobs")
        self.making = Making(
            settings, data, self.store, self.files, self.folders, self.results, self.models
        )
        self.changes = Changes(settings.limits.streams)
        self.card = Card(queue, asked)
        self.work = Work(queue, self.store, self.results, self.making, self.changes, settings)
        self.metrics = Metrics(self.store, self.card, self.changes, self.work.moved)
        opened.callback(self.work.close)
        opened.callback(self.changes.close)
        self.work.recover()

    def close(self) -> None:
        """Stop what runs so that the next server goes on with it; calling it again does nothing."""
        self._opened.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
