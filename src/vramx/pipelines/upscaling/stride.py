"""At what places tiles may begin, of a network that pads pictures by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from vramx.pipelines.upscaling.footprint import OUT_OF_MEMORY, Shape, precision_of
from vramx.pipelines.upscaling.tiles import round_up

#: The side of the picture that is moved, and of its corner in which the results are compared:
#: the one farthest from what the move cuts off.
_SIDE, _CORNER = 128, 32
#: Windows and steps that networks have, of which some are no powers of two.
_USUAL = (2, 3, 4, 6, 7, 8, 10, 12, 14, 16, 20, 22, 24, 28, 32, 48, 64)
#: Moves by what is no step change so many times as much as others, at least. A network that sees
#: far changes with what any move cuts off.
_MORE = 2.0
#: What is rounding in float32, which many additions have gone through.
_ROUNDING = 1e-5


def find_stride(
    network: Callable[[torch.Tensor], torch.Tensor],
    place: Callable[[torch.Tensor], torch.Tensor],
    shape: Shape,
) -> int:
    """Find the least move of a picture by which its result only moves.

    A network of windows gives other values where they lie elsewhere in the picture. If it pads by
    itself, it takes sides of any length, and nothing but its values shows it.

    Parameters
    ----------
    network : callable
        Takes and gives ``(n, channels, height, width)``.
    place : callable
        Puts a tensor where the network wants it.
    shape : Shape
        What it takes and gives.

    Returns
    -------
    int
        A multiple of the shape's, of which tiles must begin at multiples.

    Warns
    -----
    RuntimeWarning
        If a small picture does not fit, so that it cannot be found.
    """
    multiple = shape.multiple
    moves = [multiple, *(usual for usual in _USUAL if usual > multiple and usual % multiple == 0)]
    if len(moves) == 1:
        return multiple
    try:
        return _least(network, place, shape, moves)
    except OUT_OF_MEMORY as error:
        warnings.warn(
            f"a picture of {_SIDE} pixels a side does not fit, with which is found at what places "
            f"tiles may begin: they begin at multiples of {multiple}. If the network has windows, "
            f"give multiple= ({str(error).splitlines()[0]})",
            RuntimeWarning,
            stacklevel=4,
        )
        return multiple


def _least(
    network: Callable[[torch.Tensor], torch.Tensor],
    place: Callable[[torch.Tensor], torch.Tensor],
    shape: Shape,
    moves: list[int],
) -> int:
    side = round_up(_SIDE, shape.multiple)
    noise = torch.rand(1, shape.channels, side, side, generator=torch.Generator().manual_seed(0))
    noise = 0.25 + noise / 2  # what black and white cut off shows nothing
    corner = round_up(_CORNER, shape.multiple) * shape.scale

    def after(move: int) -> torch.Tensor:
        return network(place(noise[..., move:, move:]))[..., -corner:, -corner:]

    kept = after(0)
    changes: dict[int, float] = {}
    for move in moves:
        change = after(move).float() - kept.float()
        change -= change.mean((-2, -1), keepdim=True)  # as by the mean of what is left
        changes[move] = change.abs().mean().item()
        if changes[move] <= max(_ROUNDING, precision_of(kept)):
            return move
    return next((move for move in moves[1:] if _is_step(move, changes)), shape.multiple)


def _is_step(step: int, changes: dict[int, float]) -> bool:
    by_steps = [change for move, change in changes.items() if move % step == 0]
    by_others = [change for move, change in changes.items() if move % step != 0]
    return _MORE * max(by_steps) <= min(by_others)
