"""Jobs over HTTP: tasks in a queue, kept in SQLite. Loading this loads no framework."""

from vramx.service.settings import Limits, ServiceSettings

__all__ = ["Limits", "ServiceSettings"]
