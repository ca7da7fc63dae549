"""Numpy views of the simulated card's memory, and where arrays lie."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from vramx import _core
from vramx.errors import ConfigError, OutOfMemoryError
from vramx.units import LARGEST, shown


def checked_shape(shape: int | Iterable[int]) -> tuple[int, ...]:
    """Check a shape.

    Parameters
    ----------
    shape : int or iterable of int
        The shape as given.

    Returns
    -------
    tuple of int
        The shape.

    Raises
    ------
    ConfigError
        If a dimension is not a whole number of zero or more.
    """
    given: Any = shape if isinstance(shape, Iterable) else (shape,)
    try:
        sizes = tuple(-1 if isinstance(size, bool) else operator.index(size) for size in given)
    except TypeError:
        sizes = (-1,)
    if any(size < 0 for size in sizes):
        raise ConfigError(f"shape {shape!r} is not whole numbers of zero or more")
    return sizes


def checked_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """Count an array's bytes.

    Parameters
    ----------
    shape : tuple of int
        The shape.
    itemsize : int
        Bytes an element.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    OutOfMemoryError
        If no memory is that large.
    """
    nbytes = math.prod(shape) * itemsize
    if nbytes > LARGEST:
        sides = ", ".join(map(shown, shape))
        raise OutOfMemoryError(
            f"an array of shape ({sides}) is asked for, which is more than 8 EiB"
        )
    return nbytes


def numpy_dtype(dtype: Any) -> Any:
    """Return a numpy dtype, told apart from others.

    Parameters
    ----------
    dtype : object
        A dtype of any framework, or None.

    Returns
    -------
    numpy.dtype or None
        The dtype, or None where it is not numpy's.

    Raises
    ------
    ConfigError
        If it is not a dtype at all.
    """
    torch = sys.modules.get("torch")
    if dtype is None or (torch is not None and isinstance(dtype, torch.dtype)):
        return None
    import numpy as np

    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        raise ConfigError(f"dtype {dtype!r} is neither a torch nor a numpy dtype") from None
    if found.hasobject or found.itemsize == 0:
        raise ConfigError(f"dtype {dtype!r} has no bytes of its own; give one of numbers")
    return found


def numpy_array(core: _core.Core, shape: tuple[int, ...], dtype: Any) -> Any:
    """Make an uninitialised numpy array in a core's memory.

    Parameters
    ----------
    core : _core.Core
        A core over the simulated device.
    shape : tuple of int
        The shape.
    dtype : numpy.dtype
        The type.

    Returns
    -------
    numpy.ndarray
        A view that keeps the memory.
    """
    import numpy as np

    nbytes = checked_bytes(shape, dtype.itemsize)
    if nbytes == 0:
        return np.empty(shape, dtype)
    memory = core.empty(nbytes, 0)
    return np.asarray(memory)[:nbytes].view(dtype).reshape(shape)


def array_ranges(x: Any) -> list[tuple[int, int]] | None:
    """Find where an array lies: numpy's, or one that tells by ``__cuda_array_interface__``.

    Parameters
    ----------
    x : object
        Anything.

    Returns
    -------
    list of (int, int) or None
        Address and bytes of what the array spans, nothing for an empty one; None for torch's
        tensors, whose storages are asked for, and for other objects.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(x, numpy.ndarray):
        return _span(x.__array_interface__["data"][0], x.shape, x.strides, x.itemsize)
    # A class or a tensor may have the attribute and fail as it is read.
    foreign = not isinstance(x, type) and hasattr(type(x), "__cuda_array_interface__")
    if not foreign or (torch is not None and isinstance(x, torch.Tensor)):
        return None
    interface = x.__cuda_array_interface__
    itemsize = int(interface["typestr"][2:])
    shape = interface["shape"]
    strides = interface.get("strides") or _packed(shape, itemsize)
    return _span(interface["data"][0], shape, strides, itemsize)


def _packed(shape: Sequence[int], itemsize: int) -> list[int]:
    """Return the strides, in bytes, of an array in C order without gaps."""
    return [itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _span(
    address: int, shape: Sequence[int], strides: Sequence[int], itemsize: int
) -> list[tuple[int, int]]:
    """Return what an array spans from its lowest byte to its highest."""
    if 0 in shape:
        return []
    low = high = _core.card_address(address)
    for size, stride in zip(shape, strides):
        low += min(0, (size - 1) * stride)
        high += max(0, (size - 1) * stride)
    return [(low, high + itemsize - low)]
