"""The errors that vramx raises: one taxonomy, each message with its figures and what to do."""

from __future__ import annotations

from concurrent.futures import CancelledError
from pathlib import Path


class Error(Exception):
    """Base of every error that vramx raises on purpose."""


class OutOfMemoryError(Error, MemoryError):
    """Memory that was asked for does not fit the budget, the card or the host limit.

    Attributes
    ----------
    asked, budget, resident, leased : int
        The figures behind it, in bytes; zero where one does not apply.
    """

    asked: int = 0
    budget: int = 0
    resident: int = 0
    leased: int = 0


class NoDeviceError(Error):
    """There is no usable device: no driver, one too old, no card, or one that lacks a feature."""


class DeviceError(Error):
    """The device or its driver refused or failed a call."""


class ConfigError(Error, ValueError):
    """An argument or a setting is not allowed."""


class InUseError(Error):
    """A lease or a pin holds the memory, so it cannot be moved or freed now."""


class CaptureError(Error):
    """A CUDA graph would record memory that a session moves."""


class SessionClosedError(Error):
    """The session is closed, or belongs to the parent of a forked process."""


class QueueClosedError(Error):
    """The queue is closed, or belongs to the parent of a forked process."""


class MediaError(Error):
    """A picture or video file cannot be read or written as was asked."""


class NoFaceError(Error):
    """A picture that must show a face shows none, or not the one that is wanted."""


class StoppedError(Error, CancelledError):
    """Work was asked to stop, and did; futures treat this as a cancellation.

    Attributes
    ----------
    done : int
        How many frames of a video, or pictures of a folder, are finished and kept.
    kept : pathlib.Path or None
        The folder in which they are; None where nothing is kept. The same work resumes from there.
    """

    done: int = 0
    kept: Path | None = None


class CorruptedError(Error):
    """Packed weights are not as they were packed: the memory of the host or the link failed.

    The message names them. What was computed with them since is wrong; the next use is right, with
    their raw copies.
    """


class UnreportedWriteError(Error):
    """Checking mode found bytes that changed without ``session.written`` being called."""
