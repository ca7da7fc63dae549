"""Results of another size than the network makes, whole or rows by rows."""

from __future__ import annotations

import torch
from torch.nn import functional

#: How far bicubic interpolation looks, in pixels of the smaller picture.
_REACH = 2


class RowResizer:
    """Resizes pictures whose rows come from the top on; holds those alone that are still needed.

    Parameters
    ----------
    height : int
        How many rows come.
    size : (int, int)
        Height and width of what becomes of them.
    """

    def __init__(self, height: int, size: tuple[int, int]) -> None:
        self._size = size
        self._taps = _Taps(height, size[0])
        self._held: torch.Tensor | None = None
        self._first = self._made = 0

    def put(self, rows: torch.Tensor) -> torch.Tensor:
        """Take the next rows, ``(n, channels, rows, width)``; return all that they suffice for."""
        rows = _across(rows, self._size[1])
        held = rows if self._held is None else torch.cat((self._held, rows), dim=2)
        high = self._taps.sufficing(self._first + held.shape[2])
        made = self._taps.apply(held, self._first, self._made, high)
        first = self._taps.first(high)
        self._held = held[:, :, first - self._first :].clone()  # lets go of what is before
        self._first, self._made = first, high
        return made


def resize(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize pictures by bicubic interpolation, which sees all pixels where it shrinks.

    Parameters
    ----------
    pictures : torch.Tensor
        Of shape ``(n, channels, height, width)``, from 0 to 1.
    size : (int, int)
        Height and width.

    Returns
    -------
    torch.Tensor
        Clipped to 0 to 1.
    """
    return resized_rows(pictures, size, 0, size[0])


def resized_rows(
    pictures: torch.Tensor, size: tuple[int, int], low: int, count: int
) -> torch.Tensor:
    """Return rows of what `resize` makes of pictures, from a number on."""
    taps = _Taps(pictures.shape[2], size[0])
    first = taps.first(low)
    needed = pictures[:, :, first : taps.end(low + count)]
    return taps.apply(_across(needed, size[1]), first, low, low + count)


def _across(rows: torch.Tensor, width: int) -> torch.Tensor:
    if rows.shape[3] == width:
        return rows
    return functional.interpolate(
        rows, size=(rows.shape[2], width), mode="bicubic", align_corners=False, antialias=True
    )


class _Taps:
    """Which rows a row is made of, and what each weighs, as Pillow and torch have it."""

    def __init__(self, height: int, made: int) -> None:
        self._height, self._made = height, made
        self._step = height / made
        self._spread = max(self._step, 1.0)

    def first(self, row: int) -> int:
        """Tell the first row that a row, and all after it, are made of."""
        return min(max(int(self._middle(row) - _REACH * self._spread + 0.5), 0), self._height)

    def end(self, row: int) -> int:
        """Tell the row behind the last that the rows before a row are made of."""
        return min(int(self._middle(row - 1) + _REACH * self._spread + 0.5), self._height)

    def sufficing(self, rows: int) -> int:
        """Tell how many rows can be made of the first ones."""
        if rows >= self._height:
            return self._made
        made = int((rows - _REACH * self._spread) / self._step)
        return min(max(made, 0), self._made)

    def apply(self, rows: torch.Tensor, first: int, low: int, high: int) -> torch.Tensor:
        """Make rows from `low` to `high` of those from `first` on."""
        if self._step == 1:
            return rows[:, :, low - first : high - first].clamp(0, 1)
        numbers = torch.arange(low, high, dtype=torch.float64)
        middles = (numbers + 0.5) * self._step
        begins = (middles - _REACH * self._spread + 0.5).long().clamp(min=0)
        ends = (middles + _REACH * self._spread + 0.5).long().clamp(max=self._height)
        count = int((ends - begins).max()) if high > low else 0
        places = begins[:, None] + torch.arange(count)
        weights = _cubic((places - middles[:, None] + 0.5) / self._spread)
        weights = torch.where(places < ends[:, None], weights, 0)
        weights = (weights / weights.sum(1, keepdim=True)).to(rows.device, rows.dtype)
        places = (places - first).clamp(max=rows.shape[2] - 1).to(rows.device)
        made = rows.new_zeros(*rows.shape[:2], high - low, rows.shape[3])
        for place, weight in zip(places.T, weights.T):
            made.addcmul_(rows.index_select(2, place), weight[:, None])
        return made.clamp_(0, 1)

    def _middle(self, row: int) -> float:
        return (row + 0.5) * self._step


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Return what bicubic interpolation weighs a pixel at a distance with."""
    x = x.abs()
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < _REACH, far, 0))
