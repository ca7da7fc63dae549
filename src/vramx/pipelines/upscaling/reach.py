"""How far a network looks in a picture, as far as it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from vramx.pipelines.upscaling.footprint import Shape
from vramx.pipelines.upscaling.tiles import round_up

#: The most context that tiles share.
FARTHEST = 96
#: Of values of half precision, so many decide.
_MOST = 0.99
#: In how many places of a picture it is looked.
_PLACES = 3


def invisible(white: float) -> float:
    """Tell what change of a value from 0 to 1 a kind of picture does not show.

    Parameters
    ----------
    white : float
        What white is in it: 255, 65535, or 1 for floating point, of which 16 bits are asked.

    Returns
    -------
    float
        Half a step.
    """
    return 0.5 / (65535 if white == 1 else white)


def measure_reach(
    network: Callable[[torch.Tensor], torch.Tensor],
    picture: torch.Tensor,
    shape: Shape,
    tolerance: float,
    most: int = FARTHEST,
) -> int:
    """Measure on a picture how much context a tile's edge needs.

    Parts of the picture go through the network, and then halves of them: what comes of a half
    differs near the cut, where the context is missing.

    Parameters
    ----------
    network : callable
        Takes and gives ``(1, channels, height, width)``.
    picture : torch.Tensor
        Of shape ``(channels, height, width)``.
    shape : Shape
        What it takes and gives.
    tolerance : float
        What change of a value is not seen.
    most : int
        How far it is looked; parts are twice as long.

    Returns
    -------
    int
        Pixels of the input, at most `most`.
    """
    depth = round_up(most, shape.stride)
    worst = torch.zeros(depth)
    for axis, part in _parts(picture, depth, shape.stride):
        half = part.shape[axis] // 2 // shape.stride * shape.stride
        wide, cut = (network(each[None])[0] for each in (part, part.narrow(axis, 0, half)))
        shown = [x.float().clamp(0, 1) for x in (wide.narrow(axis, 0, cut.shape[axis]), cut)]
        off = (shown[0] - shown[1]).abs().movedim(axis, 0).reshape(half, -1).cpu()
        if wide.dtype.itemsize < 4:  # whose rounding alone shows in some pixels, far from the cut
            off = off.quantile(_MOST, dim=1, keepdim=True)
        by_distance = off.amax(1).flip(0)[:depth]
        worst[: len(by_distance)] = worst[: len(by_distance)].maximum(by_distance)
    seen = (worst > tolerance).nonzero()
    return 0 if len(seen) == 0 else int(seen[-1]) + 1


def _parts(picture: torch.Tensor, depth: int, multiple: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Cut parts out along the picture's diagonal, twice as long along one axis, by turns."""
    for place in range(_PLACES):
        axis = -1 - place % 2
        sides = {-1: depth, -2: depth, axis: 2 * depth}
        part, enough = picture, True
        for each, side in sides.items():
            length = picture.shape[each]
            side = min(side, length) // multiple * multiple  # noqa: PLW2901
            enough &= side >= multiple * (2 if each == axis else 1)
            part = part.narrow(each, (length - side) * place // (_PLACES - 1), side)
        if enough:
            yield axis, part.contiguous()
