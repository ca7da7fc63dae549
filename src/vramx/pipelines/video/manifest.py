"""What a work folder holds, as it is noted in its manifest, and whether that can be true."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: What no number that is meant goes beyond, and what no manifest is longer than.
_MOST, LONGEST = 2**62, 2**26
_MOST_PIXELS_A_SIDE = 2**20
_NAME = re.compile(r"(\d{6,9})\.(mp4|mov)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Segment:
    """A finished segment.

    Attributes
    ----------
    file : str
        Its name in the work folder.
    frames : int
        How many frames it holds.
    first, last : int
        When its first and last frames are shown, in units of the source's time base. In the file
        the first is shown at zero.
    width, height : int
        The frames' size.
    digest : str
        The SHA-256 of the file.
    counts : mapping of str to int
        Sums of what was counted of its frames.
    """

    file: str
    frames: int
    first: int
    last: int
    width: int
    height: int
    digest: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What is noted of a job.

    Attributes
    ----------
    job : mapping of str to str
        What the segments depend on.
    segments : tuple of Segment
        Those that are finished, in order.
    complete : bool
        Whether there are no more to come.
    lost : tuple of float
        When frames are missing, in seconds.
    target : (int, int), optional
        Bytes of the finished target, and the time of its last change in nanoseconds; None where it
        was not put together.
    ahead : tuple of Segment
        Those that are finished although one before them is not, in order.
    """

    job: Mapping[str, str]
    segments: tuple[Segment, ...]
    complete: bool
    lost: tuple[float, ...] = ()
    target: tuple[int, int] | None = None
    ahead: tuple[Segment, ...] = ()

    def as_json(self) -> bytes:
        """Return what `parsed` reads."""
        content = {
            "job": dict(self.job),
            "complete": self.complete,
            "lost": [*self.lost],
            "target": self.target and [*self.target],
            "segments": [asdict(each) for each in self.segments],
            "ahead": [asdict(each) for each in self.ahead],
        }
        return json.dumps(content, indent=1).encode()


def segment_name(number: int, suffix: str) -> str:
    """Return the name of a segment's file by its number from 0 and its format."""
    return f"{number:06}.{suffix}"


def parsed(text: bytes) -> Manifest:
    """Read a manifest that another process wrote, or somebody changed.

    Parameters
    ----------
    text : bytes
        The file's content.

    Returns
    -------
    Manifest
        Of values that can be true.

    Raises
    ------
    ValueError
        If it is none; the message says in what.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} bytes")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    job, complete, listed = (content.get(key) for key in ("job", "complete", "segments"))
    if not isinstance(job, dict) or not all(isinstance(each, str) for each in job.values()):
        raise ValueError("it does not say what job it is of")
    if not isinstance(complete, bool) or not isinstance(listed, list):
        raise ValueError("it does not say which segments are finished")
    segments = tuple(_segment(number, each) for number, each in enumerate(listed))
    ahead = _ahead(content.get("ahead", []), len(segments))
    every = segments + ahead
    if not every:
        raise ValueError("it lists no segments")
    if complete and ahead:
        raise ValueError("it is complete, and segments are missing")
    if len({(each.width, each.height) for each in every}) > 1:
        raise ValueError("its segments are of several sizes")
    if any(after.first <= before.last for before, after in zip(every, every[1:])):
        raise ValueError("its segments are not in the order of their times")
    lost, target = _times(content.get("lost")), _target(content.get("target"))
    return Manifest(job, segments, complete, lost, target, ahead)


def number_of(segment: Segment) -> int:
    """Return a segment's number in its video, from 0."""
    return int(segment.file.partition(".")[0])


def _ahead(data: Any, after: int) -> tuple[Segment, ...]:
    if not isinstance(data, list):
        raise ValueError("it does not say which segments are finished ahead of others")
    found: list[Segment] = []
    for each in data:
        file = each.get("file") if isinstance(each, dict) else None
        named = _NAME.fullmatch(file) if isinstance(file, str) else None
        found.append(_segment(int(named[1]) if named else after, each))
        if number_of(found[-1]) <= after:
            raise ValueError(f"segment {after} is finished ahead of itself")
        after = number_of(found[-1])
    return tuple(found)


def _target(data: Any) -> tuple[int, int] | None:
    if data is None:
        return None
    if not isinstance(data, list) or [type(each) for each in data] != [int, int]:
        raise ValueError(f"it says {_short(data)} of the target")
    return data[0], data[1]


def _times(data: Any) -> tuple[float, ...]:
    if not isinstance(data, list) or not all(
        type(each) in (int, float) and math.isfinite(each) for each in data
    ):
        raise ValueError(f"the times of lost frames are {_short(data)}")
    return tuple(map(float, data))


def _segment(number: int, data: Any) -> Segment:
    what = f"segment {number}"
    if not isinstance(data, dict):
        raise ValueError(f"{what} is {_short(data)}")
    file, digest, counts = data.get("file"), data.get("digest"), data.get("counts")
    named = _NAME.fullmatch(file) if isinstance(file, str) else None
    if named is None or named[0] != segment_name(number, named[2]):
        raise ValueError(f"the file of {what} is {_short(file)}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"the digest of {what} is {_short(digest)}")
    if not isinstance(counts, dict):
        raise ValueError(f"the counts of {what} are {_short(counts)}")
    first = _whole(data, "first", what, -_MOST, _MOST)
    frames = _whole(data, "frames", what, 1, _MOST)
    return Segment(
        named[0],
        frames,
        first,
        _whole(data, "last", what, first + frames - 1, _MOST),
        _whole(data, "width", what, 1, _MOST_PIXELS_A_SIDE),
        _whole(data, "height", what, 1, _MOST_PIXELS_A_SIDE),
        digest,
        {key: _whole(counts, key, what, 0, _MOST) for key in counts},
    )


def _whole(data: Mapping[str, Any], key: str, what: str, least: int, most: int) -> int:
    value = data.get(key)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key!r} of {what} is {_short(value)}")
    return value


def _short(value: object) -> str:
    return repr(value)[:40]
