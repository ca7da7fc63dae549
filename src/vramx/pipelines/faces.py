"""Faces in a picture: cut out upright at the size a network wants, and put back without an edge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage import transform

from vramx.errors import ConfigError

# Without types of their own.
_estimate: Any = transform.estimate_transform
_interpolate: Any = transform.warp

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[Any]

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


def template(kind: int, size: int | None = None) -> Floats:
    """Return where five landmarks lie in a crop.

    Parameters
    ----------
    kind : int
        The template, by the crop's side that it was made for: 112, 128 or 512.
    size : int, optional
        The crop's side, to which the template is scaled; its own unless given.

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
    """Where a face lies, as what maps a picture to an upright crop.

    Attributes
    ----------
    matrix : numpy.ndarray
        Of shape ``(3, 3)``: takes (x, y, 1) of the picture to the crop; a turn, a scale and a
        shift.
    size : int
        The crop's side in pixels.
    """

    matrix: Floats
    size: int

    @cached_property
    def _to_picture(self) -> Floats:
        return np.linalg.inv(self.matrix).astype(np.float64)

    def crop(self, picture: Pixels) -> Pixels:
        """Cut the face out.

        Parameters
        ----------
        picture : numpy.ndarray
            Of shape ``(height, width[, channels])``, uint8 or floating point.

        Returns
        -------
        numpy.ndarray
            Of shape ``(size, size[, channels])`` and the picture's dtype, by bilinear
            interpolation; beyond the picture its edge goes on.
        """
        window = self._window(*picture.shape[:2])
        return _warp(picture[window], _moved(window) @ self._to_picture, (self.size, self.size))

    def paste(
        self,
        picture: Pixels,
        face: Pixels,
        *,
        feather: float = 0.1,
        mask: Pixels | None = None,
    ) -> Pixels:
        """Put a crop back into a picture.

        Parameters
        ----------
        picture : numpy.ndarray
            What the crop was cut from; it is not changed.
        face : numpy.ndarray
            Of the shape and dtype of `crop`'s result.
        feather : float
            The part of the crop's side over which it fades out at its edges, from 0 to 0.5.
        mask : numpy.ndarray, optional
            Of shape ``(size, size)``, from 0 to 1: how much of each pixel of the crop is taken.

        Returns
        -------
        numpy.ndarray
            A picture of the shape and dtype given, the same to the bit outside the crop.

        Raises
        ------
        ConfigError
            If the crop is not of the shape and dtype that belong to the picture, or the mask not of
            the crop's size.
        """
        wanted = (self.size, self.size, *picture.shape[2:])
        if face.shape != wanted or face.dtype != picture.dtype:
            raise ConfigError(
                f"the face is {face.dtype} of shape {face.shape}, but this picture takes "
                f"{picture.dtype} of shape {wanted}"
            )
        share = feathered(self.size, feather)
        if mask is not None:
            if mask.shape != share.shape:
                raise ConfigError(
                    f"the mask is of shape {mask.shape}, but this crop is of {share.shape}"
                )
            share = share * mask
        window = self._window(*picture.shape[:2])
        before = picture[window]
        to_crop = self.matrix @ np.linalg.inv(_moved(window))
        share = _warp(share, to_crop, before.shape[:2]) * self._covers(to_crop, before.shape[:2])
        share = share.reshape(share.shape + (1,) * (picture.ndim - 2))
        back = _warp(face.astype(np.float64), to_crop, before.shape[:2])
        result: Pixels = picture.copy()
        result[window] = _as(before + share * (back - before), picture.dtype)
        return result

    def _window(self, height: int, width: int) -> tuple[slice, slice]:
        """Tell which part of a picture a crop comes from: its rows and columns, never none."""
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

    def _covers(self, to_crop: Floats, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Tell which pixels lie between the middles of the crop's outermost ones."""
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        places = np.stack([columns, rows, np.ones_like(rows)])
        x, y = np.tensordot(to_crop[:2], places, axes=1)
        last = self.size - 1
        return np.asarray((x >= 0) & (x <= last) & (y >= 0) & (y <= last))


def _moved(window: tuple[slice, slice]) -> Floats:
    """Return what maps a picture's places to a window's."""
    rows, columns = window
    return np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]], dtype=np.float64)


def _warp(pixels: Pixels, inverse: Floats, shape: tuple[int, ...]) -> Pixels:
    """Take pixels from where a matrix says, by bilinear interpolation."""
    warped = _interpolate(
        pixels.astype(np.float64),
        inverse,
        output_shape=shape,
        order=1,
        mode="edge",
        preserve_range=True,
    )
    return _as(warped, pixels.dtype)


def _as(pixels: Floats, dtype: Any) -> Pixels:
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        pixels = pixels.round().clip(limits.min, limits.max)
    return pixels.astype(dtype)


def align(landmarks: npt.ArrayLike, size: int, kind: int | None = None) -> Alignment:
    """Find what maps a face to a crop, from five landmarks.

    The least squares similarity of Umeyama, "Least-squares estimation of transformation parameters
    between two point patterns" (1991): a turn, one scale and a shift, and never a mirroring.

    Parameters
    ----------
    landmarks : array
        Of shape ``(5, 2)``: x and y in the picture, in the order of `template`.
    size : int
        The crop's side in pixels.
    kind : int, optional
        The template, 112, 128 or 512, which is scaled to the crop; that of the crop's own side
        unless given.

    Returns
    -------
    Alignment
        What cuts out and puts back.

    Raises
    ------
    ConfigError
        If they are not five points, not finite, or all in one place.
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
    return Alignment(matrix, size)


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
