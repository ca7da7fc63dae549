"""vramx lets inference code use more GPU memory than the card has."""

from vramx._core import Device
from vramx.cards.simulation import simulate
from vramx.errors import (
    CaptureError,
    ConfigError,
    CorruptedError,
    DeviceError,
    Error,
    InUseError,
    MediaError,
    NoDeviceError,
    NoFaceError,
    OutOfMemoryError,
    QueueClosedError,
    SessionClosedError,
    StoppedError,
    UnreportedWriteError,
)
from vramx.pipelines import (
    FaceModel,
    PictureOptions,
    Stage,
    VideoOptions,
    face_swap,
    pipeline,
    super_resolution,
)
from vramx.progress import Progress, progress_bar
from vramx.queue import Job, Queue, current_job
from vramx.seeing.plans import Plan
from vramx.seeing.stats import Stats
from vramx.seeing.trace import Trace
from vramx.seeing.usage import ModuleStats
from vramx.session import Session, current_session
from vramx.session.advice import Advice
from vramx.session.innermost import advise, empty, evict, pin, prefetch, stats
from vramx.session.installing import install
from vramx.session.opening import oversubscribe
from vramx.session.options import SessionOptions
from vramx.session.policy import Policy
from vramx.stopping import Stop

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "CaptureError",
    "ConfigError",
    "CorruptedError",
    "Device",
    "DeviceError",
    "Error",
    "FaceModel",
    "InUseError",
    "Job",
    "MediaError",
    "ModuleStats",
    "NoDeviceError",
    "NoFaceError",
    "OutOfMemoryError",
    "PictureOptions",
    "Plan",
    "Policy",
    "Progress",
    "Queue",
    "QueueClosedError",
    "Session",
    "SessionClosedError",
    "SessionOptions",
    "Stage",
    "Stats",
    "Stop",
    "StoppedError",
    "Trace",
    "UnreportedWriteError",
    "VideoOptions",
    "advise",
    "current_job",
    "current_session",
    "empty",
    "evict",
    "face_swap",
    "install",
    "oversubscribe",
    "pin",
    "pipeline",
    "prefetch",
    "progress_bar",
    "simulate",
    "stats",
    "super_resolution",
]
