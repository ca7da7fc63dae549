"""In which order the rows of a network's layers are made, and how much memory that takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vramx.pipelines.upscaling.layers import Layer, Resized, RowGraph


@dataclass(frozen=True)
class Step:
    """Rows of a layer that are made at once.

    Attributes
    ----------
    layer : Layer
        Which layer.
    low, high : int
        Which of its rows.
    kept : tuple of (Layer, int)
        What is kept afterwards of the memory of what it read: the rows from a number on.
    """

    layer: Layer
    low: int
    high: int
    kept: tuple[tuple[Layer, int], ...]


def steps(graph: RowGraph, bands: Sequence[int]) -> Iterator[Step]:
    """Order the rows of all layers, each once.

    Each stage, which is what has one size, takes a band of what comes before it and passes on what
    it can make of that, before it takes the next. So a stage whose rows are large can go in bands
    lower than those of the stage before.

    Parameters
    ----------
    graph : RowGraph
        The network.
    bands : sequence of int
        Of each stage, how many rows at once, in its own rows.

    Yields
    ------
    Step
        One after another.

    Notes
    -----
    Convolutions that keep the last rows of their input instead of computing with overlap are
    described in H. Pinckaers, B. van Ginneken and G. Litjens, "Streaming convolutional neural
    networks for end-to-end learning with multi-megapixel images", 2019.
    """
    run = _Run(graph, bands)
    yield from run.stage(0)


class _Run:
    """How far each layer is."""

    def __init__(self, graph: RowGraph, bands: Sequence[int]) -> None:
        self._bands = bands
        self._output = graph.output
        self._done: dict[Layer, int] = dict.fromkeys(graph.layers, 0)
        self._start: dict[Layer, int] = dict.fromkeys(graph.layers, 0)
        self._done[graph.layers[0]] = graph.layers[0].height
        self._stages: list[list[Layer]] = [[] for _ in range(graph.stages)]
        for layer in graph.layers[1:]:
            self._stages[layer.stage].append(layer)
        self._first = [[each for each in layers if _enters(each)] for layers in self._stages]

    def stage(self, number: int) -> Iterator[Step]:
        """Run a stage and those after it as far as what comes before allows."""
        if number == len(self._stages):
            return
        if not self._first[number]:  # of the picture's own size there may be nothing else
            yield from self.stage(number + 1)
            return
        went_on = True
        while went_on:
            went_on = False
            reached = min(self._done[each] for each in self._first[number])
            band = self._bands[number]
            for layer in self._stages[number]:
                before = reached if _enters(layer) else self._done[layer]
                for step in self._advance(layer, before + band):
                    went_on = True
                    yield step
            yield from self.stage(number + 1)

    def _advance(self, layer: Layer, limit: int) -> Iterator[Step]:
        rows = layer.rows
        low = self._done[layer]
        high = min(rows.possible(self._done[source]) for source in layer.sources)
        if high > limit:
            high = rows.whole(limit)
        if high <= low:
            return
        self._done[layer] = high
        if layer.run is not None or layer is self._output:
            held = {holder: None for source in layer.sources for holder in source.holders()}
            yield Step(layer, low, high, tuple(self._kept(held)))

    def _kept(self, holders: dict[Layer, None]) -> Iterator[tuple[Layer, int]]:
        for holder in holders:
            needed = min(self._needed(user, holder) for user in holder.users)
            if needed > self._start[holder]:
                self._start[holder] = needed
                yield holder, needed

    def _needed(self, user: Layer, holder: Layer) -> int:
        done = self._done[user]
        if done == user.height:
            return holder.height
        return max(0, user.rows.needed(done, done + 1)[0])


def _enters(layer: Layer) -> bool:
    return any(source.stage < layer.stage or not source.sources for source in layer.sources)


@dataclass(frozen=True)
class Load:
    """What an order of steps takes.

    Attributes
    ----------
    elements : int
        The most values that are held at once, beside the picture and what is passed on.
    tails : mapping of Layer to int
        How many of a layer's last rows are kept from band to band, at most, where those are few.
    steps : int
        How many steps there are.
    """

    elements: int
    tails: Mapping[Layer, int]
    steps: int


@dataclass(frozen=True)
class Order:
    """The steps of some bands, and what is kept between them.

    Attributes
    ----------
    bands : tuple of int
        Of each stage, how many rows at once.
    steps : tuple of Step
        One after another.
    load : Load
        What they take.
    """

    bands: tuple[int, ...]
    steps: tuple[Step, ...]
    load: Load


def order(graph: RowGraph, bands: Sequence[int]) -> Order:
    """Order the steps of some bands; see `steps`."""
    taken = tuple(steps(graph, bands))
    return Order(tuple(bands), taken, _load(graph, taken))


def is_tail(left: int, rows: int) -> bool:
    """Tell whether so few rows are left of some that they move out of their memory."""
    return 0 < 2 * left <= rows


@dataclass
class _Held:
    """The rows of a layer from a number on, in memory of their own or where tails are."""

    first: int
    end: int
    rows: int
    is_tail: bool = False


def load(graph: RowGraph, bands: Sequence[int]) -> Load:
    """Tell what the steps of some bands take, as `vramx.pipelines.upscaling.bands.run` does them.

    Parameters
    ----------
    graph, bands
        As `steps`.

    Returns
    -------
    Load
        Without scratch space inside an operation.
    """
    return _load(graph, steps(graph, bands))


def _load(graph: RowGraph, taken: Iterable[Step]) -> Load:
    picture = graph.layers[0]
    held: dict[Layer, _Held] = {}
    tails: dict[Layer, int] = {}
    now = most = count = 0
    for step in taken:
        count += 1
        layer, row = step.layer, step.layer.row_elements
        rows = layer.rows
        beyond = 2 * rows.made_of(rows.context) if isinstance(rows, Resized) else 0
        made = (step.high - step.low + beyond) * row
        most = max(most, now + _window_elements(step, held) + made)
        if layer.users:
            before = held.get(layer)
            if before is None:
                held[layer] = _Held(step.low, step.high, made // row)
            else:
                joined = step.high - before.first
                most = max(most, now + made + joined * row)
                now -= 0 if before.is_tail else before.rows * row
                made = joined * row
                held[layer] = _Held(before.first, step.high, joined)
            now += made
        for holder, first in step.kept:
            if holder is picture:
                continue
            mine = held[holder]
            mine.first = first
            left = mine.end - first
            if left == 0 or (not mine.is_tail and is_tail(left, mine.rows)):
                now -= 0 if mine.is_tail else mine.rows * holder.row_elements
                mine.is_tail = True
                tails[holder] = max(tails.get(holder, 0), left)
            if left == 0:
                del held[holder]
    kept = sum(rows * layer.row_elements for layer, rows in tails.items())
    return Load(most + kept, {layer: rows for layer, rows in tails.items() if rows}, count)


def _window_elements(step: Step, held: Mapping[Layer, _Held]) -> int:
    """Tell how many values are put together for a step to read."""
    layer = step.layer
    first, end = layer.rows.needed(step.low, step.high)
    inside = max(first, 0), min(end, layer.rows.given)
    source = layer.sources[0]
    padded = inside != (first, end) and (step.low, step.high) != (0, layer.height)
    lies_there = len(source.holders()) == 1 and source.part is None
    if lies_there and layer.module is None:
        return 0
    mine = held.get(source)
    if lies_there and not padded and mine and inside == (mine.end - mine.rows, mine.end):
        return 0
    return sum((end - first) * each.row_elements for each in layer.sources)
