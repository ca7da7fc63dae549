"""Which pixel format an encoder is given: one that loses nothing of the source, unless told."""

from __future__ import annotations

import re
from typing import NamedTuple

import av
from av.video.format import VideoFormat

from vramx.errors import ConfigError, MediaError

#: Planes of YUV or RGB in bytes or little-endian words, and those of encoders in hardware, whose
#: chroma share one; what encoders take besides are the same colours stored in another way.
_PLAIN = re.compile(r"(yuvj?4\d\dp|gbrp)(\d+le)?|nv12|nv16|p[02]1[026]le")
#: The deepest colours that fit in arrays of uint16.
_DEEPEST = 16


class PixelFormat(NamedTuple):
    """What a pixel format holds.

    Attributes
    ----------
    name : str
        FFmpeg's name.
    depth : int
        Bits a colour.
    across, down : int
        How many pixels share a chroma sample.
    rgb : bool
        Whether it holds RGB.
    """

    name: str
    depth: int
    across: int
    down: int
    rgb: bool

    def holds(self, other: PixelFormat) -> bool:
        """Tell whether it has at least as many bits and chroma samples."""
        finer = self.across <= other.across and self.down <= other.down
        return self.depth >= other.depth and finer

    def turned(self) -> PixelFormat:
        """Return it with its chroma samples on their side."""
        return self._replace(across=self.down, down=self.across)

    def fits(self, height: int, width: int) -> bool:
        """Tell whether frames of a size are whole numbers of chroma samples."""
        return width % self.across == 0 and height % self.down == 0


def describe(pixels: VideoFormat) -> PixelFormat:
    """Tell what a pixel format holds; grey counts as 4:2:0."""
    across = down = 2
    if len(pixels.components) > 1:
        across, down = 64 // pixels.chroma_width(64), 64 // pixels.chroma_height(64)
    depth = max(each.bits for each in pixels.components)
    return PixelFormat(pixels.name, depth, across, down, pixels.is_rgb)


def readable(path: object, pixels: VideoFormat | None) -> PixelFormat:
    """Tell what a source's pixel format holds.

    Parameters
    ----------
    path : Path
        What messages name.
    pixels : av.VideoFormat or None
        The format, if it is known.

    Returns
    -------
    PixelFormat
        What it holds.

    Raises
    ------
    MediaError
        If it is unknown, has alpha or a palette, or more than 16 bits a colour.
    """
    if pixels is None:
        raise MediaError(f"{path}: its video is damaged or of an unknown kind")
    if any(each.is_alpha for each in pixels.components) or pixels.has_palette:
        raise MediaError(f"{path} is in {pixels.name}, with alpha or a palette: convert it")
    described = describe(pixels)
    if described.depth > _DEEPEST:
        raise MediaError(
            f"{path} is in {pixels.name}, with more than {_DEEPEST} bits a colour: convert it"
        )
    return described


def taken(codec: str) -> list[PixelFormat]:
    """Return the formats of usual planes that an encoder takes, in its own order.

    Parameters
    ----------
    codec : str
        FFmpeg's name of the encoder.

    Raises
    ------
    ConfigError
        If it takes none.
    """
    known = av.Codec(codec, "w").video_formats
    formats = [describe(each) for each in known or () if _PLAIN.fullmatch(each.name)]
    if not any(not each.rgb for each in formats):
        raise ConfigError(f"codec {codec!r} takes no YUV frames; one that does is 'libx264'")
    return formats


def choose(
    codec: str, source: PixelFormat, height: int, width: int, *, asked: str | None = None
) -> PixelFormat:
    """Choose a format for an encoder: the source's, or the nearest that loses nothing of it.

    Parameters
    ----------
    codec : str
        FFmpeg's name of the encoder.
    source : PixelFormat
        The source's.
    height, width : int
        The target's size.
    asked : str, optional
        The name of the format to take in place of that.

    Returns
    -------
    PixelFormat
        One that the encoder takes.

    Raises
    ------
    ConfigError
        If each that it takes would lose some, or it does not take the one that was asked for, at
        all or for that size.
    """
    formats = taken(codec)
    fit = {each.name: each for each in formats if each.fits(height, width)}
    if asked is not None:
        if asked not in (names := [each.name for each in formats]):
            raise ConfigError(
                f"pix_fmt {asked!r} is not one that codec {codec!r} takes: {', '.join(names)}"
            )
        if asked in fit:
            return fit[asked]
        instead = f": one of {', '.join(fit)}" if fit else ""
        raise ConfigError(
            f"pix_fmt {asked!r} cannot hold {width}x{height} pixels, which are no whole number of "
            f"its chroma samples; give one with more{instead}"
        )
    whole = [
        (each.rgb != source.rgb, each.depth, -each.across * each.down, place, each)
        for place, each in enumerate(fit.values())
        if each.holds(source) and (source.rgb or not each.rgb)
    ]
    if whole:
        return min(whole)[-1]
    remedy = f"pix_fmt= with one of {', '.join(fit)}, or " if fit else ""
    raise ConfigError(
        f"codec {codec!r} has no pixel format that holds {width}x{height} pixels of {source.name} "
        f"without loss: give {remedy}another codec, such as 'libx265' or 'ffv1'"
    )
