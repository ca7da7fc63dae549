"""A log in Chrome's trace event format, as Perfetto reads it.

The format: "Trace Event Format", Chromium project, 2016. Times are microseconds, kept to the
nanosecond. Complete events of one track never overlap in part: what would, gets a track of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vramx import _core
from vramx.seeing.timeline import (
    Request,
    budgets,
    bytes_on_card,
    end_of,
    leases,
    name_of,
    requests,
)

_SESSION, _MOVER, _UNPACKING, _LANES, _COMPUTE = 1, 2, 5, 10, 1000
_PROCESS = 1


@dataclass
class _Span:
    name: str
    category: str
    began: int  # nanoseconds
    ended: int
    args: dict[str, Any] = field(default_factory=dict)


def _separate(spans: Iterable[_Span]) -> list[list[_Span]]:
    """Divide spans into tracks in which each two are apart or one holds the other."""
    tracks: list[list[_Span]] = []
    open_ends: list[list[int]] = []  # by track
    for span in sorted(spans, key=lambda each: (each.began, -each.ended)):
        for ends in open_ends:
            while ends and ends[-1] <= span.began:
                ends.pop()
        fitting = (n for n, ends in enumerate(open_ends) if not ends or span.ended <= ends[-1])
        number = next(fitting, len(tracks))
        if number == len(tracks):
            tracks.append([])
            open_ends.append([])
        tracks[number].append(span)
        open_ends[number].append(span.ended)
    return tracks


class _Writer:
    """Collects events; times become nanoseconds from the first one on."""

    def __init__(self, log: _core.Log, card: str) -> None:
        self._log = log
        starts = (e.began if e.began is not None else e.submitted for e in log.events)
        self._first = min([0.0, *(at for at in starts if at is not None)])
        self._first = min([self._first, *(each.began for each in requests(log))])
        self._metadata = [self._name("process_name", 0, f"vramx: {card}")]
        self._events: list[dict[str, Any]] = []

    def at(self, seconds: float) -> int:
        return round((seconds - self._first) * 1e9)

    @staticmethod
    def _name(what: str, thread: int, name: str) -> dict[str, Any]:
        return {"ph": "M", "pid": _PROCESS, "tid": thread, "name": what, "args": {"name": name}}

    def track(self, thread: int, name: str) -> None:
        self._metadata.append(self._name("thread_name", thread, name))
        order = self._name("thread_sort_index", thread, "")
        self._metadata.append({**order, "args": {"sort_index": thread}})

    def _event(self, phase: str, thread: int, at: int, name: str, **more: Any) -> None:
        self._events.append(
            {"ph": phase, "pid": _PROCESS, "tid": thread, "ts": at / 1e3, "name": name, **more}
        )

    def spans(self, thread: int, name: str, spans: list[_Span]) -> int:
        """Write spans to as many tracks as they need from `thread` on; return how many."""
        tracks = _separate(spans)
        for number, track in enumerate(tracks):
            self.track(thread + number, name if number == 0 else f"{name} ({number + 1})")
            for span in track:
                duration = (span.ended - span.began) / 1e3
                self._event(
                    "X", thread + number, span.began, span.name,
                    cat=span.category, dur=duration, args=span.args,
                )  # fmt: skip
        return len(tracks)

    def instant(self, thread: int, at: float, name: str, category: str, **args: Any) -> None:
        self._event("i", thread, self.at(at), name, cat=category, s="t", args=args)

    def counter(self, at: float, name: str, value: int) -> None:
        self._event("C", 0, self.at(at), name, args={"bytes": value})

    def events(self) -> list[dict[str, Any]]:
        # Of what begins at one moment the longer one holds the others.
        by_time = sorted(self._events, key=lambda e: (e["ts"], -e.get("dur", 0.0)))
        return self._metadata + by_time


def _moves(writer: _Writer, log: _core.Log, names: dict[int, list[str]]) -> None:
    lanes: dict[int, list[_Span]] = defaultdict(list)
    issued: list[_Span] = []
    unpacked: list[_Span] = []
    for request in requests(log):
        span = _move(writer, request, names)
        if request.crossed > 0:
            lanes[request.lane].append(span)
        elif request.unpacks:
            unpacked.append(span)
        elif log.virtual_clock:
            writer.instant(_MOVER, request.ended, span.name, "move", **span.args)
        else:
            issued.append(span)
    writer.track(_MOVER, "moves without bytes")
    if issued:
        writer.spans(_MOVER, "moves without bytes", issued)
    if unpacked:
        writer.spans(_UNPACKING, "unpacking", unpacked)
    for lane, spans in sorted(lanes.items()):
        for before, after in zip(spans, spans[1:]):
            after.began = max(after.began, min(before.ended, after.ended))
        writer.spans(_LANES + lane * 10, f"lane {lane}", spans)


def _move(writer: _Writer, request: Request, names: dict[int, list[str]]) -> _Span:
    modules = [*dict.fromkeys(name for block in request.blocks for name in names.get(block, ()))]
    what = {
        "fetched": "unpack" if request.unpacks and request.crossed == 0 else "fetch",
        "evicted": request.how.replace("_", " "),
        "held": "fetch packed",
        "let_go": "drop packed",
    }[request.kind]
    name = f"{what} {modules[0]}" if modules else what
    args = {
        "modules": modules,
        "blocks": list(request.blocks),
        "bytes": request.bytes,
        "link_bytes": request.crossed,
        "cause": request.cause,
        "how": request.how,
        "submitted": writer.at(request.submitted) / 1e3,
    }
    return _Span(name, "move", writer.at(request.began), writer.at(request.ended), args)


def _compute(writer: _Writer, log: _core.Log) -> None:
    names = {group.serial: name_of(group) for group in log.groups}
    sizes = {block.serial: block.nbytes for block in log.blocks}
    held = {group.serial: sum(sizes[block] for block in group.blocks) for group in log.groups}
    by_place: dict[tuple[int, int], list[_Span]] = defaultdict(list)
    for lease in leases(log):
        name = names[lease.group]
        asked, began, ended = (writer.at(each) for each in (lease.asked, lease.began, lease.ended))
        spans = by_place[lease.stream, lease.thread]
        args = {"module": name, "bytes": held[lease.group]}
        spans.append(_Span(name, "compute", began, max(began, ended), args))
        if began > asked:
            spans.append(_Span("stall", "stall", asked, began, {"module": name}))
    thread_number = _COMPUTE
    for (stream, thread), spans in sorted(by_place.items()):
        thread_number += writer.spans(thread_number, f"stream {stream:#x}, thread {thread}", spans)


def _decisions(writer: _Writer, log: _core.Log) -> None:
    writer.track(_SESSION, "session")
    for event in log.events:
        at = event.submitted or 0.0
        if event.kind == "budget":
            writer.instant(_SESSION, at, "budget", "budget", bytes=event.bytes)
        elif event.kind == "failed":
            writer.instant(_SESSION, at, "failure", "failure", error=event.text)
        elif event.kind == "plan":
            writer.instant(
                _SESSION, at, "plan", "plan",
                predicted_seconds=event.seconds,
                predicted_bytes_in=event.bytes,
                predicted_bytes_out=event.bytes_out,
            )  # fmt: skip
    for at, size in bytes_on_card(log):
        writer.counter(at, "bytes on the card", size)
    for at, size in budgets(log):
        writer.counter(at, "budget", size)
    writer.counter(end_of(log), "budget", budgets(log)[-1][1])


def chrome_trace(log: _core.Log, card: str) -> dict[str, Any]:
    """Write a log in Chrome's trace event format.

    Parameters
    ----------
    log : _core.Log
        The events.
    card : str
        The card's name.

    Returns
    -------
    dict
        A JSON object: metadata events, then all others in the order of time.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for group in log.groups:
        for block in group.blocks:
            names[block].append(name_of(group))
    writer = _Writer(log, card)
    _decisions(writer, log)
    _moves(writer, log, names)
    _compute(writer, log)
    return {
        "traceEvents": writer.events(),
        "displayTimeUnit": "ms",
        "otherData": {
            "card": card,
            "clock": "the simulated card's" if log.virtual_clock else "the host's and the card's",
            "times of moves": "the card's" if log.lane_times else "the host's, of issuing them",
            "lost events": log.lost,
        },
    }
