"""Faces in a picture: cut out upright at the size a network wants, and put back seamlessly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from skimage import transform
from torch.nn.functional import grid_sample

from vramx.errors import ConfigError

_estimate: Any = transform.estimate_transform  # without types of its own

Floats = npt.NDArray[np.float64]
#: An array of shape ``(height, width[, channels])``, or a tensor of ``(channels, height, width)``.
Picture = TypeVar("Picture", npt.NDArray[Any], torch.Tensor)
Window = tuple[slice, slice]

#: Where eyes, nose and corners of the mouth lie, as (x, y), in the crops that networks were trained
#: with: left eye, right eye, nose, left and right corner, as seen in the picture. That of 112
#: pixels is ArcFace's, of 128 the same with 8 pixels more at either side, of 512 FFHQ's, which
#: restorers of faces take.
_ARCFACE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
_TEMPLATES = {
    112: _ARCFACE,
    128: tuple((x + 8.0, y) for x, y in _ARCFACE),
    512: (
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ),
}


#: How far landmarks may lie from the template's in the mean, over how far those lie apart. Five
#: points on a head that is turned aside by 90 degrees come to 0.68, corners of the mouth that are
#: taken for each other to 0.73, left for right to 0.97.
_FARTHEST = 0.7


def template(kind: int, size: int | None = None) -> Floats:
    """Return where five landmarks lie in a crop.

    Parameters
    ----------
    kind : int
        The template, by the crop's side that it was made for: 112, 128 or 512.
    size : int, optional
        The crop's side, to which the template is scaled; its own by default.

    Returns
    -------
    numpy.ndarray
        Of shape ``(5, 2)``: x and y of left eye, right eye, nose, left and right corner of the
        mouth.

    Raises
    ------
    ConfigError
        If there is no such template.
    """
    if kind not in _TEMPLATES:
        raise ConfigError(f"there is no face template of {kind!r} pixels; give 112, 128 or 512")
    return np.array(_TEMPLATES[kind]) * ((size or kind) / kind)


@dataclass(frozen=True)
class Alignment:
    """Where a face lies, as the mapping from the picture to an upright crop.

    Attributes
    ----------
    matrix : numpy.ndarray
        Of shape ``(3, 3)``: takes (x, y, 1) of the picture to the crop; a rotation, a scale and a
        shift.
    size : int
        The crop's side in pixels.
    """

    matrix: Floats
    size: int

    @cached_property
    def _to_picture(self) -> Floats:
        return np.linalg.inv(self.matrix).astype(np.float64)

    def overlaps(self, other: Alignment) -> bool:
        """Return whether two crops may have pixels of the picture in common."""
        mine, others = (_corners(each._to_picture, each.size) for each in (self, other))
        return bool(
            (mine.min(0) <= others.max(0) + 1).all() and (others.min(0) <= mine.max(0) + 1).all()
        )

    def crop(self, picture: Picture) -> Picture:
        """Cut the face out.

        Parameters
        ----------
        picture : numpy.ndarray or torch.Tensor
            Of shape ``(height, width[, channels])``, or ``(channels, height, width)`` on any
            device; uint8 or floating point.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            Of as many channels and the picture's type and dtype, `size` pixels high and wide, by
            bilinear interpolation; beyond the picture its edge is repeated.
        """
        window = self._window(*_sides(picture))
        planes = _planes(picture, window)
        places = _places(_moved(window) @ self._to_picture, (self.size, self.size), planes)
        return _like(picture, _sample(planes, places))

    def paste(
        self,
        picture: Picture,
        face: Picture,
        *,
        feather: float = 0.1,
        mask: Picture | None = None,
    ) -> Picture:
        """Put a crop back into a picture.

        Parameters
        ----------
        picture : numpy.ndarray or torch.Tensor
            What the crop was cut from; it is not changed.
        face : numpy.ndarray or torch.Tensor
            Of the type, shape and dtype of `crop`'s result.
        feather : float
            The part of the crop's side over which it fades out at its edges, from 0 to 0.5.
        mask : numpy.ndarray or torch.Tensor, optional
            Of shape ``(size, size)``, from 0 to 1: how much of each pixel of the crop is taken.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            A picture of the type, shape and dtype given, the same to the bit outside the crop.

        Raises
        ------
        ConfigError
            If the crop is not of the shape and dtype that belong to the picture, or the mask not of
            the crop's size.
        """
        sides: tuple[int, ...] = (self.size, self.size)
        if isinstance(picture, torch.Tensor):
            wanted = (*picture.shape[:-2], *sides)
        else:
            wanted = (*sides, *picture.shape[2:])
        if tuple(face.shape) != wanted or face.dtype != picture.dtype:
            raise ConfigError(
                f"the face is {face.dtype} of shape {tuple(face.shape)}, but this picture takes "
                f"{picture.dtype} of shape {wanted}"
            )
        if mask is not None and tuple(mask.shape) != sides:
            raise ConfigError(
                f"the mask is of shape {tuple(mask.shape)}, but this crop is of {sides}"
            )
        window = self._window(*_sides(picture))
        before = _planes(picture, window)
        share = torch.from_numpy(feathered(self.size, feather)).to(before)
        if mask is not None:
            share = share * torch.as_tensor(mask).to(before)
        to_crop = self.matrix @ np.linalg.inv(_moved(window))
        places = _places(to_crop, before.shape[-2:], before)
        back = _sample(torch.cat([_planes(face).to(before), share[None]]), places)
        last = self.size - 1
        covered = ((places >= 0) & (places <= last)).all(-1)
        result = before + back[-1] * covered * (back[:-1] - before)
        return _replaced(picture, window, result)

    def seen_in(self, other: Alignment, mask: torch.Tensor) -> torch.Tensor:
        """Find the values of this crop where another one has its pixels.

        Parameters
        ----------
        other : Alignment
            Another crop of the same face.
        mask : torch.Tensor
            Of shape ``(size, size)``, of this crop; beyond it its edge is repeated.

        Returns
        -------
        torch.Tensor
            Of shape ``(other.size, other.size)``.
        """
        places = _places(self.matrix @ other._to_picture, (other.size, other.size), mask)
        return _sample(mask[None], places)[0]

    def _window(self, height: int, width: int) -> Window:
        """Return which part of a picture a crop comes from: its rows and columns, never none."""
        last = self.size - 1
        corners = np.array([[0, 0, 1], [last, 0, 1], [0, last, 1], [last, last, 1]]).T
        x, y, _ = self._to_picture @ corners
        rows, columns = (
            slice(
                int(np.clip(np.floor(places.min()) - 1, 0, length - 1)),
                int(np.clip(np.ceil(places.max()) + 2, 1, length)),
            )
            for places, length in ((y, height), (x, width))
        )
        return rows, columns


def _moved(window: Window) -> Floats:
    """Return what maps a picture's places to a window's."""
    rows, columns = window
    return np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]], dtype=np.float64)


def _sides(picture: npt.NDArray[Any] | torch.Tensor) -> tuple[int, int]:
    shape = picture.shape[-2:] if isinstance(picture, torch.Tensor) else picture.shape[:2]
    height, width = shape
    return height, width


def _planes(picture: npt.NDArray[Any] | torch.Tensor, window: Window | None = None) -> torch.Tensor:
    """Return a part of a picture as ``(channels, height, width)``, in float64 where it is."""
    rows, columns = window or (slice(None), slice(None))
    if isinstance(picture, torch.Tensor):
        part = picture[:, rows, columns]
        return part if part.dtype == torch.float64 else part.float()
    floating = np.float64 if picture.dtype == np.float64 else np.float32
    pixels = torch.from_numpy(picture[rows, columns].astype(floating, order="C"))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _like(picture: Picture, planes: torch.Tensor) -> Picture:
    """Give planes the type and dtype that a picture has."""
    if isinstance(picture, torch.Tensor):
        whole = not picture.dtype.is_floating_point
        limits: Any = torch.iinfo(picture.dtype) if whole else None
    else:
        whole = bool(np.issubdtype(picture.dtype, np.integer))
        limits = np.iinfo(picture.dtype) if whole else None
    if whole:
        planes = planes.round().clamp(limits.min, limits.max)
    if isinstance(picture, torch.Tensor):
        return planes.to(picture.dtype)
    turned = planes[0] if picture.ndim == 2 else planes.permute(1, 2, 0)
    pixels: npt.NDArray[Any] = turned.contiguous().numpy().astype(picture.dtype, copy=False)
    return pixels


def _replaced(picture: Picture, window: Window, planes: torch.Tensor) -> Picture:
    """Return a copy of a picture with a part replaced."""
    part = _like(picture, planes)
    if isinstance(picture, torch.Tensor):
        result = picture.clone()
        result[:, window[0], window[1]] = part
        return result
    copied: npt.NDArray[Any] = picture.copy()
    copied[window] = part
    return copied


def _places(inverse: Floats, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Return where each pixel of a shape comes from: ``(height, width, 2)``, x and y."""
    rows, columns = (torch.arange(side, dtype=torch.float64, device=like.device) for side in shape)
    (xx, xy, x), (yx, yy, y) = inverse[:2].tolist()
    return torch.stack(
        [
            xx * columns[None, :] + xy * rows[:, None] + x,
            yx * columns[None, :] + yy * rows[:, None] + y,
        ],
        dim=-1,
    )


def _sample(planes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take pixels from places, by bilinear interpolation."""
    sides = places.new_tensor([planes.shape[-1], planes.shape[-2]])
    # From -1 to 1 between the outer edges of the outermost pixels.
    grid = ((2 * places + 1) / sides - 1).to(planes.dtype)
    return grid_sample(
        planes[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def align(landmarks: npt.ArrayLike, size: int, kind: int | None = None) -> Alignment:
    """Find the mapping from a face to a crop, from five landmarks.

    The least squares similarity of Umeyama, "Least-squares estimation of transformation parameters
    between two point patterns" (1991): a rotation, one scale and a shift, never a reflection.

    Parameters
    ----------
    landmarks : array
        Of shape ``(5, 2)``: x and y in the picture, in the order of `template`.
    size : int
        The crop's side in pixels.
    kind : int, optional
        The template, 112, 128 or 512, which is scaled to the crop; that of the crop's own side
        by default.

    Returns
    -------
    Alignment
        Cuts the face out and puts it back.

    Raises
    ------
    ConfigError
        If they are not five points, not finite, all in one place, or cannot be a face's.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    goal = template(size if kind is None else kind, size)
    if points.shape != goal.shape or not np.isfinite(points).all():
        raise ConfigError(
            f"landmarks are five finite points (x, y), not an array of shape {points.shape}"
        )
    if np.ptp(points, axis=0).max() < 1e-6:
        raise ConfigError("the landmarks are all in one place: no face is that small")
    found = _estimate("similarity", points, goal)
    matrix = np.asarray(getattr(found, "params", np.nan), dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise ConfigError(f"the landmarks {points.tolist()} fit no face")
    off = _spread(np.c_[points, np.ones(len(points))] @ matrix[:2].T - goal)
    if off > _FARTHEST * _spread(goal - goal.mean(0)):
        raise ConfigError(
            f"the landmarks {points.tolist()} lie as no face's do, also not as one's that looks "
            "aside; their order is left eye, right eye, nose, left and right corner of the mouth, "
            "as seen in the picture"
        )
    return Alignment(matrix, size)


def _corners(to_picture: Floats, size: int) -> Floats:
    """Return where a crop's corners lie in the picture, ``(4, 2)``."""
    corners = np.array([(x, y, 1) for x in (0, size) for y in (0, size)], np.float64)
    return np.asarray((corners @ to_picture.T)[:, :2], np.float64)


def _spread(vectors: Floats) -> float:
    """Return the root of the mean square of vectors' lengths."""
    return float(np.sqrt((vectors**2).sum(1).mean()))


def feathered(size: int, feather: float) -> Floats:
    """Make a mask that fades out at its edges.

    Parameters
    ----------
    size : int
        Its side in pixels.
    feather : float
        The part of the side over which it fades, from 0 to 0.5.

    Returns
    -------
    numpy.ndarray
        Of shape ``(size, size)``: 1 in the middle, falling smoothly (as a cosine) to the edges.

    Raises
    ------
    ConfigError
        If the part is not from 0 to 0.5.
    """
    if not 0 <= feather <= 0.5:
        raise ConfigError(f"feather {feather!r} is not a part from 0 to 0.5")
    place = np.arange(size) + 0.5
    inside = np.minimum(place, size - place)
    part = np.minimum(inside / max(feather * size, 0.5), 1)  # the outermost middles lie at 0.5
    side = (1 - np.cos(np.pi * part)) / 2
    return np.outer(side, side)
