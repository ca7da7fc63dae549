"""How high the bands of a network are that fit into some memory."""

from __future__ import annotations

from collections.abc import Sequence

from vramx.pipelines.upscaling.layers import Layer, RowGraph
from vramx.pipelines.upscaling.schedule import load

#: Kernels on fewer pixels do not fill a card.
_FULL = 2**18
#: Below so many rows, launches take many times what computing takes.
_LEAST = 16
#: How often that is doubled where there is room. Beyond that nothing was gained, and what is not
#: taken leaves room for what is allocated unevenly.
_HIGHER = 2
#: On so few they take as long as on one.
_LEAST_FULL = 2**14
#: What kernels count without going beyond 31 bits.
_MOST_ELEMENTS = 2**30


def fitting_bands(graph: RowGraph, elements: int) -> tuple[int, ...] | None:
    """Choose the bands of a network that go through in fewest steps, of those that fit.

    Later stages, whose rows are longer, go in bands just high enough to fill a card; what memory is
    left goes to the first stage, and from there on.

    Parameters
    ----------
    graph : RowGraph
        The network.
    elements : int
        How many values may be held at once.

    Returns
    -------
    tuple of int or None
        Of each stage, how many rows at once; None where nothing fits.
    """
    stages = [[each for each in graph.layers if each.stage == k] for k in range(graph.stages)]
    least = [max(each.least for each in stage) for stage in stages]
    height = stages[0][0].height
    full = _FULL
    found: list[list[int]] = []
    while True:
        later = [_rows_of(stage, full, low) for stage, low in zip(stages[1:], least[1:])]
        first = _highest(graph, later, _MOST_ELEMENTS // _widest(stages[0]), elements)
        if first is not None:
            found.append([first, *later])
        elif full == _FULL and load(graph, [min(_LEAST, height), *least[1:]]).elements > elements:
            return None
        if first == height or later == least[1:] or (found and full <= _LEAST_FULL):
            break
        full //= 4
    if not found:
        return None
    bands = min(found, key=lambda each: load(graph, each).steps)
    first, later = bands[0], bands[1:]
    for _ in range(_HIGHER if first == height else 0):  # the later ones may be higher too
        higher = [first, *(2 * band for band in later)]
        if load(graph, higher).elements > elements:
            break
        bands, later = higher, higher[1:]
    return tuple(bands)


def _widest(stage: Sequence[Layer]) -> int:
    return max(each.row_elements for each in stage)


def _rows_of(stage: Sequence[Layer], pixels: int, least: int) -> int:
    width = max(each.width for each in stage)
    return max(least, -(-pixels // width) // least * least)


def _highest(graph: RowGraph, later: list[int], most: int, elements: int) -> int | None:
    """Find the highest equal bands of the first stage that fit, beside those of later ones."""
    height = graph.layers[0].height

    def fits(count: int) -> bool:
        band = -(-height // count)
        return band <= most and load(graph, [band, *later]).elements <= elements

    if fits(1):
        return height
    low, high = 1, 2
    lowest = -(-height // _LEAST)
    while not fits(high):
        if high >= lowest:
            return None
        low, high = high, min(2 * high, lowest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return -(-height // high)
