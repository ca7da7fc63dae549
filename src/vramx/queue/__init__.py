"""Jobs that share a card: admitted as the budget allows, the others waiting in host memory."""

from vramx.queue.job import Job, current_job
from vramx.queue.line import Queue

__all__ = ["Job", "Queue", "current_job"]
