"""Videos, frame by frame: read, changed and written at once, in segments that survive a stop."""

from vramx.pipelines.video.job import VideoChange, VideoResult, transform_video
from vramx.pipelines.video.running import Counted, SegmentFrames
from vramx.pipelines.video.source import VideoSource

__all__ = [
    "Counted",
    "SegmentFrames",
    "VideoChange",
    "VideoResult",
    "VideoSource",
    "transform_video",
]
