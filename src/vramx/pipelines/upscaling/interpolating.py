"""Interpolation row by row."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch.nn import functional

from vramx.pipelines.upscaling.layers import Layer, NotByRowsError, Resized, Run
from vramx.pipelines.upscaling.operations import CONTEXT, LARGEST_DIVISOR


def interpolated(
    name: str,
    x: Layer,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,  # noqa: ARG001 - of whole numbers it is the same
    antialias: bool = False,
) -> tuple[Resized, int, Run]:
    """Tell what an interpolation does to rows.

    Parameters
    ----------
    name : str
        What messages call it.
    x : Layer
        What is interpolated.
    size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
        As of `torch.nn.functional.interpolate`.

    Returns
    -------
    (Resized, int, callable)
        The rows, their width, and what computes them.

    Raises
    ------
    NotByRowsError
        If it does not go by rows.
    """
    if size is not None:
        sides = size if isinstance(size, (tuple, list)) else (size, size)
        factors = {sides[0] / x.height, sides[1] / x.width}
    else:
        factors = {*(scale_factor if isinstance(scale_factor, (tuple, list)) else [scale_factor])}
    factor = Fraction(factors.pop()).limit_denominator(LARGEST_DIVISOR)
    if factors or antialias or align_corners:
        raise NotByRowsError(f"{name} interpolates in another way than rows allow")
    if mode not in CONTEXT:
        raise NotByRowsError(f"{name} interpolates by {mode}")
    height, width = x.height * factor, x.width * factor
    if height.denominator != 1 or width.denominator != 1 or not height:
        raise NotByRowsError(
            f"{name} interpolates {x.width}x{x.height} to {float(factor):g} of that"
        )
    corners = {"align_corners": False} if CONTEXT[mode] else {}

    def run(given: Sequence[torch.Tensor]) -> torch.Tensor:
        return functional.interpolate(given[0], scale_factor=float(factor), mode=mode, **corners)

    times, of = factor.numerator, factor.denominator
    context = -(-CONTEXT[mode] // of) * of
    rows = Resized(x.height, int(height), times, of, context)
    return rows, int(width), run
