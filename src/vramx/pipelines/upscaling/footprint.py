"""What a network does to a picture: its channels, scale and stride, and bytes a pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from vramx.errors import ConfigError, OutOfMemoryError
from vramx.pipelines.upscaling.tiles import round_up

Network = Callable[[torch.Tensor], Any]

#: Sides of the pictures that are tried; the stride is added to see whether it is one.
_SIDE = 64
_STRIDES = (1, 2, 4, 8, 16, 32, 64)

OUT_OF_MEMORY = (OutOfMemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Shape:
    """What a network takes and gives.

    Attributes
    ----------
    channels : int
        1 or 3.
    scale : int
        How much larger the output is.
    multiple : int
        What the sides of an input must be multiples of.
    stride : int
        What tiles begin at multiples of; a multiple of `multiple`, and more where the network pads
        by itself but works in strides.
    """

    channels: int
    scale: int
    multiple: int
    stride: int = 1


def find_shape(
    network: Network,
    place: Callable[[torch.Tensor], torch.Tensor],
    *,
    scale: int | None,
    multiple: int | None,
    most: int | None = None,
) -> Shape:
    """Find what a network takes and gives, by trying small pictures.

    Parameters
    ----------
    network : callable
        Takes and gives ``(n, channels, height, width)``.
    place : callable
        Puts a tensor where the network wants it.
    scale, multiple : int, optional
        What must be found, where it is known.
    most : int, optional
        The longest side that it takes, if there is one.

    Returns
    -------
    Shape
        With three channels where it takes them, and the least stride that it takes.

    Raises
    ------
    ConfigError
        If it takes none of them, or what it gives is not the picture enlarged.
    """
    least = _SIDE if scale is None or multiple is None else _SIDE // 2  # only a check
    reasons: dict[int, str] = {}
    cause: Exception | None = None
    for stride in _STRIDES if multiple is None else (multiple,):
        for channels in (3, 1):
            side = round_up(least, stride) + stride
            side = side if most is None else min(side, most)
            picture = place(torch.full((1, channels, side, side), 0.5))
            try:
                made = _checked(network(picture), picture, scale)
            except OUT_OF_MEMORY:
                raise
            except ConfigError as error:
                reasons[channels] = str(error)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
                cause = error
                reasons[channels] = f"{type(error).__name__}: {error}".splitlines()[0]
            else:
                return Shape(channels, made, stride, stride)
    raise ConfigError(
        "the model does not take pictures of 3 or 1 channels, (n, channels, height, width), and "
        "give them enlarged by a whole number; tried with strides of "
        f"{multiple or f'{_STRIDES[0]} to {_STRIDES[-1]}'}, and last, with 3 channels: "
        f"{reasons[3]}; with 1: {reasons[1]}"
    ) from cause


def _checked(result: Any, picture: torch.Tensor, scale: int | None) -> int:
    """Tell how much larger a result is."""
    if not isinstance(result, torch.Tensor):
        raise ConfigError(f"it returned a {type(result).__name__}, not a tensor")
    given, made = tuple(picture.shape), tuple(result.shape)
    found = made[-1] // given[-1] if made else 0
    if len(made) != 4 or found < 1 or made != (*given[:2], given[2] * found, given[3] * found):
        raise ConfigError(f"it made {made} of {given}")
    if scale is not None and scale != found:
        raise ConfigError(f"it made {made} of {given}, which is not {scale} times as large")
    return found


def precision_of(made: torch.Tensor) -> float:
    """Tell the least step from 1 in which a result was computed."""
    in_tf32 = made.is_cuda and made.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return torch.finfo(torch.float16 if in_tf32 else made.dtype).eps  # with as many bits


def bytes_per_pixel(
    network: Network, place: Callable[[torch.Tensor], torch.Tensor], shape: Shape
) -> float:
    """Measure the peak bytes of a network's activations on two small pictures.

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
    float
        For each pixel of the input: the more of those a pixel of the larger picture and those that
        it takes beyond the smaller one.
    """
    side = round_up(_SIDE, shape.multiple)
    noise = torch.rand(
        1, shape.channels, side, 2 * side, generator=torch.Generator().manual_seed(0)
    )
    small, _ = peak_bytes(network, place(noise[..., :side]))
    large, _ = peak_bytes(network, place(noise))
    pixels = side * side
    return max(large / (2 * pixels), (large - small) / pixels, 1.0)


def peak_bytes(network: Network, picture: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Run a network and tell the most bytes that it held at once beyond what was there before.

    On CUDA torch's allocator counts them, and its peak is reset. Elsewhere the storages that
    operations return are summed while they live; scratch space inside an operation is not seen.

    Parameters
    ----------
    network : callable
        What to run.
    picture : torch.Tensor
        Its input.

    Returns
    -------
    int
        Bytes.
    torch.Tensor
        What it returned.
    """
    if picture.device.type == "cuda":
        before = torch.cuda.memory_allocated(picture.device)
        torch.cuda.reset_peak_memory_stats(picture.device)
        result = network(picture)
        return torch.cuda.max_memory_allocated(picture.device) - before, result
    with LiveBytes() as live:
        result = network(picture)
    return live.peak, result


class LiveBytes(TorchDispatchMode):
    """Sums the storages that operations make, while in force.

    Attributes
    ----------
    peak : int
        The most bytes that lived at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_storage(x) for x in _pytree.tree_leaves((args, kwargs)) if _has_storage(x)}
        for leaf in _pytree.tree_leaves(result):
            if _has_storage(leaf) and (key := _storage(leaf)) not in given:
                storage = leaf.untyped_storage()
                self._live[key] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {k: each for k, each in self._live.items() if not each[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self._live.values()))
        return result


def _has_storage(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.layout == torch.strided


def _storage(x: torch.Tensor) -> int:
    return int(x.untyped_storage()._cdata)
