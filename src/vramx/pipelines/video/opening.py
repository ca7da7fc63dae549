"""Opening a video's file: its name is only a name, and what it holds is a video itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import av.error

from vramx.errors import MediaError

#: FFmpeg's names of the containers that are read. None of them names other files to read, as
#: playlists, manifests and lists to join do.
_CONTAINERS = (
    "3dostr,amv,apng,asf,av1,avi,bink,cavsvideo,cdxl,cine,dhav,dirac,dnxhd,dv,dxa,evc,film_cpk,"
    "flic,flv,gif,gxf,h261,h263,h264,hevc,ivf,ivr,kux,live_flv,lmlm4,lxf,m4v,matroska,mjpeg,mlv,"
    "mov,mpeg,mpegts,mpegtsraw,mpegvideo,mpjpeg,mv,mxf,mxg,nsv,nut,nuv,obu,ogg,pva,r3d,rm,roq,ser,"
    "smjpeg,smk,swf,ty,vc1,vc1test,vivo,vvc,webp,wtv,yuv4mpegpipe"
)


def ffmpeg_name(path: Path) -> str:
    """Return a name that FFmpeg takes for a file's, whatever is in it.

    FFmpeg takes what is before a colon for a protocol, unless a slash comes first.
    """
    return os.path.abspath(path)


def open_video(path: Path) -> Any:
    """Open a file that holds a video itself.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    av.container.InputContainer
        A context manager.

    Raises
    ------
    MediaError
        If it cannot be read, or is in no container that holds videos.
    """
    only = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        # What is said of a video may be in any encoding, which is no reason not to read it.
        return av.open(ffmpeg_name(path), container_options=only, metadata_errors="replace")
    except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not in the list
        raise MediaError(
            f"{path} cannot be read as a video: it is in no container that holds one, such as "
            ".mp4, .mkv or .avi; of a playlist, give the videos that it names"
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read as a video: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return what FFmpeg or the system says, without the file's name."""
    return getattr(error, "strerror", None) or str(error)
