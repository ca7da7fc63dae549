"""From a file to a model of the chain that swaps faces."""

from __future__ import annotations

from pathlib import Path

from vramx.pipelines.onnx.enhancer import EnhancerFile
from vramx.pipelines.onnx.faces import FaceFile
from vramx.pipelines.onnx.files import kind_of, read_file
from vramx.pipelines.onnx.recognizer import ArcFace
from vramx.pipelines.onnx.retina import RetinaFace
from vramx.pipelines.onnx.scrfd import Scrfd
from vramx.pipelines.onnx.swapper import SwapperFile
from vramx.pipelines.onnx.yolo import YoloFace

_KINDS: dict[str, tuple[type[FaceFile], ...]] = {
    "recognizer": (ArcFace,),
    "swapper": (SwapperFile,),
    "enhancer": (EnhancerFile,),
}


def detector_in(path: Path, least: float) -> FaceFile:
    """Recognise a detector.

    Parameters
    ----------
    path : Path
        An ONNX file.
    least : float
        The least score of a face.

    Returns
    -------
    FaceFile
        The detector.

    Raises
    ------
    ConfigError
        If it is none that is known, or as `read_file`.
    """
    file = read_file(path)
    return kind_of(file, "detector", (Scrfd, YoloFace, RetinaFace))(file, least)


def model_in(path: Path, role: str) -> FaceFile:
    """Recognise another model; as `detector_in`.

    Parameters
    ----------
    path : Path
        An ONNX file.
    role : str
        ``"recognizer"``, ``"swapper"`` or ``"enhancer"``.
    """
    file = read_file(path)
    return kind_of(file, role, _KINDS[role])(file)
