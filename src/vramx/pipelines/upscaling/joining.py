"""Layers that change values in place, done together with the layer before them."""

from __future__ import annotations

from collections import Counter

from vramx.pipelines.upscaling.layers import Layer, Rows, Run


def joined(layers: list[Layer], output: Layer) -> tuple[list[Layer], Layer]:
    """Do what changes values in place together with what it alone reads.

    Parameters
    ----------
    layers : list of Layer
        In order, without those that nothing uses.
    output : Layer
        What the network returns.

    Returns
    -------
    (list of Layer, Layer)
        Those that are left, and what the output has become.
    """
    readers = Counter(source for layer in layers for source in layer.sources)
    became: dict[Layer, Layer] = {}
    for layer in layers:
        layer.sources = [became.get(source, source) for source in layer.sources]
        if layer.run is None or type(layer.rows) is not Rows or len(layer.sources) != 1:
            continue
        (before,) = layer.sources
        then = layer.run if layer.in_place else layer.on_own
        alone = readers[before] == 1 and before is not output
        if before.run is not None and then is not None and alone:
            before.run = _one_after_another(before.run, then)
            readers[before] = readers[layer]
            became[layer] = before
    return [each for each in layers if each not in became], became.get(output, output)


def _one_after_another(one: Run, other: Run) -> Run:
    return lambda given: other([one(given)])
