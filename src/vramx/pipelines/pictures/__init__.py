"""Pictures from files and to files."""

from vramx.pipelines.pictures.formats import (
    Layout,
    is_named_as_picture,
    is_picture_file,
    writable_format,
)
from vramx.pipelines.pictures.reading import count_frames, load_picture, upright_size
from vramx.pipelines.pictures.through import change_picture
from vramx.pipelines.pictures.types import Beside, FilePicture
from vramx.pipelines.pictures.writing import layout_of, picture_target

__all__ = [
    "Beside",
    "FilePicture",
    "Layout",
    "change_picture",
    "count_frames",
    "is_named_as_picture",
    "is_picture_file",
    "layout_of",
    "load_picture",
    "picture_target",
    "upright_size",
    "writable_format",
]
