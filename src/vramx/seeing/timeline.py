"""From a log of events to what was where when: bytes on the card, leases, states of modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from vramx import _core

#: The states of a block in a picture, drawn in this order; where none is known it is on the host.
STATES = ("packed", "resident", "arriving", "leaving", "leased")

#: Kinds of events in which something comes to the card, and in which it leaves.
_COMES, _LEAVES = ("fetched", "held"), ("evicted", "let_go")


@dataclass(frozen=True)
class Lease:
    """A use of a group, in seconds: asked for, begun when its blocks had come, and ended."""

    group: int
    stream: int
    thread: int
    asked: float
    began: float
    ended: float


@dataclass(frozen=True)
class Request:
    """One request of the device, for one or more blocks: seconds, and what it was for.

    `bytes` of blocks or of packed copies moved, for which the link carried `crossed`.
    """

    kind: str
    cause: str
    how: str
    lane: int
    bytes: int
    crossed: int
    blocks: tuple[int, ...]
    submitted: float
    began: float
    ended: float

    @property
    def comes(self) -> bool:
        """Whether it was to the card."""
        return self.kind in _COMES

    @property
    def unpacks(self) -> bool:
        """Whether the card unpacked the blocks."""
        return self.kind == "fetched" and self.how != "empty" and self.crossed < self.bytes


@dataclass(frozen=True)
class Span:
    """A state of one block of a module, from and to in seconds; `place` of `places` in its row."""

    state: str
    place: int
    places: int
    began: float
    ended: float


@dataclass(frozen=True)
class Row:
    """A module in a picture."""

    name: str
    spans: list[Span]


def name_of(group: _core.TracedGroup) -> str:
    """Name a group as reports do: by its module, else by its number."""
    return group.name or f"group {group.serial}"


def leases(log: _core.Log) -> list[Lease]:
    """Pair the beginnings and ends of leases; those that never end, end with the log.

    Parameters
    ----------
    log : _core.Log
        The events.

    Returns
    -------
    list of Lease
        In the order in which they end.
    """
    last = end_of(log)
    open_leases: dict[tuple[int, int, int], list[tuple[float, float]]] = defaultdict(list)
    found = []
    for event in log.events:
        key = (event.group, event.stream, event.thread)
        if event.kind == "stalled" and event.began is not None and event.ended is not None:
            open_leases[key].append((event.began, event.ended))
        elif event.kind == "released" and event.ended is not None and open_leases[key]:
            found.append(Lease(*key, *open_leases[key].pop(), event.ended))
    for key, begun in open_leases.items():
        found += [Lease(*key, asked, began, max(began, last)) for asked, began in begun]
    return found


def requests(log: _core.Log) -> Iterator[Request]:
    """Put the moves of each request together, in the order of the log.

    On a virtual clock a request is known by its end; bytes flow for as long as the link needs, and
    are unpacked for as long as the card needs.

    Parameters
    ----------
    log : _core.Log
        The events.

    Yields
    ------
    Request
        A request.
    """
    moves = (event for event in log.events if event.kind in _COMES + _LEAVES)
    for _, same in groupby(moves, key=lambda event: event.request):
        parts = list(same)
        first = parts[0]
        if first.ended is None:
            continue
        request = Request(
            first.kind,
            first.cause,
            first.how,
            first.lane,
            sum(event.bytes for event in parts),
            sum(event.crossed for event in parts),
            tuple(event.block for event in parts),
            first.submitted or 0.0,
            first.ended,
            first.ended,
        )
        began = first.ended - _taken(log, request) if first.began is None else first.began
        yield replace(request, began=min(began, first.ended))


def _taken(log: _core.Log, request: Request) -> float:
    """Tell the virtual seconds that a request took."""
    crossing = request.crossed / (log.link_up if request.comes else log.link_down)
    return crossing + (request.bytes / log.unpack if request.unpacks else 0.0)


def end_of(log: _core.Log) -> float:
    """Return the last time in a log, in seconds."""
    times = [event.ended for event in log.events if event.ended is not None]
    return max([log.seconds, *times])


def bytes_on_card(log: _core.Log) -> list[tuple[float, int]]:
    """Replay the bytes on the card: (seconds, bytes) at each change, in order of time.

    Room for what arrives is taken when its bytes begin to flow, and given up when what leaves has
    left. Packed copies take room, and so does the memory that packed bytes arrive in.

    Parameters
    ----------
    log : _core.Log
        The events.

    Returns
    -------
    list of (float, int)
        From the start on.
    """
    sizes = {block.serial: block.nbytes for block in log.blocks}
    held = sum(sizes[serial] for serial in log.resident) + log.reserved
    held += sum(copy.nbytes for copy in log.held)
    changes = [
        (each.began, each.bytes) if each.comes else (each.ended, -each.bytes)
        for each in requests(log)
    ]
    reserved = log.reserved
    for event in log.events:
        if event.kind == "forgotten":
            changes.append((event.submitted or 0.0, -event.bytes))
        elif event.kind == "reserved":
            changes.append((event.submitted or 0.0, event.bytes - reserved))
            reserved = event.bytes
    series = [(min([0.0, *(at for at, _ in changes)]), held)]
    # At one moment, which reckoning from ends blurs, what leaves makes room for what comes.
    for at, size in sorted(changes, key=lambda change: (round(change[0], 12), change[1])):
        held += size
        series.append((at, held))
    return series


def budgets(log: _core.Log) -> list[tuple[float, int]]:
    """Return the budget at the start and at each change, as (seconds, bytes)."""
    changes = [(e.submitted or 0.0, e.bytes) for e in log.events if e.kind == "budget"]
    return [(0.0, log.budget), *changes]


def _states(log: _core.Log) -> dict[int, list[tuple[str, float, float]]]:
    """By block: when it was in a state other than on the host."""
    states: dict[int, list[tuple[str, float, float]]] = defaultdict(list)
    since = {("resident", block): 0.0 for block in log.resident}
    since |= {("packed", copy.serial): 0.0 for copy in log.held}

    def was(state: str, block: int, until: float) -> None:
        began = since.pop((state, block), until)
        if began < until:
            states[block].append((state, began, until))

    for request in requests(log):
        state = "packed" if request.kind in ("held", "let_go") else "resident"
        for block in request.blocks:
            if request.comes:
                states[block].append(("arriving", request.began, request.ended))
                since[state, block] = request.ended
            else:
                was(state, block, request.began)
                states[block].append(("leaving", request.began, request.ended))
    for event in log.events:
        if event.kind == "forgotten":
            was("resident", event.block, event.submitted or 0.0)
    last = end_of(log)
    for state, block in [*since]:
        was(state, block, last)
    return states


def rows(log: _core.Log) -> list[Row]:
    """Return when the modules' blocks were where.

    Parameters
    ----------
    log : _core.Log
        The events.

    Returns
    -------
    list of Row
        The modules in the order in which they were defined, then a row for blocks of no module, if
        there are any; spans in the order of `STATES`.
    """
    states = _states(log)
    leased: dict[int, list[Lease]] = defaultdict(list)
    for lease in leases(log):
        leased[lease.group].append(lease)
    grouped = {block for group in log.groups for block in group.blocks}
    others = [block for block in states if block not in grouped]
    named = [(name_of(group), group.blocks, leased[group.serial]) for group in log.groups]
    if others:
        named.append(("(activations and other)", others, []))
    found = []
    for name, blocks, uses in named:
        spans = [
            Span(state, place, len(blocks), began, ended)
            for place, block in enumerate(blocks)
            for state, began, ended in states.get(block, ())
        ]
        spans += [Span("leased", 0, 1, use.began, use.ended) for use in uses]
        spans.sort(key=lambda span: STATES.index(span.state))
        found.append(Row(name, spans))
    return found
