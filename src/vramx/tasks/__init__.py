"""Work on files as frozen values, which can be written as JSON, sent elsewhere, run and stopped.

Loading this loads no framework.
"""

from vramx.session.options import SessionOptions
from vramx.tasks.faces import FacesFound, FacesTask
from vramx.tasks.models import FaceModels, FaceModelSpec, UpscalerSpec
from vramx.tasks.running import run
from vramx.tasks.swapping import SwapDone, SwapTask
from vramx.tasks.task import Task, TaskError
from vramx.tasks.upscaling import UpscaleDone, UpscaleTask

__all__ = [
    "FaceModelSpec",
    "FaceModels",
    "FacesFound",
    "FacesTask",
    "SessionOptions",
    "SwapDone",
    "SwapTask",
    "Task",
    "TaskError",
    "UpscaleDone",
    "UpscaleTask",
    "UpscalerSpec",
    "run",
]
