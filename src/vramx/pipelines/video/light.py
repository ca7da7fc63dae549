"""What a video says of the light it was made for, and of what else goes with its frames."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from av.sidedata.sidedata import Type

#: FFmpeg's AVMasteringDisplayMetadata: ten fractions, and whether colours and luminances are set.
_DISPLAY, _LEVEL = struct.Struct("=20i2i"), struct.Struct("=2I")
#: Steps of chromaticities and of luminances in H.264 and H.265.
_CHROMA_STEPS, _LIGHT_STEPS = 50_000, 10_000
#: What goes with single frames and has no place in frames that are encoded anew.
_OF_FRAMES = {
    "A53_CC": "closed captions",
    "DYNAMIC_HDR_PLUS": "HDR10+ data",
    "DYNAMIC_HDR_VIVID": "HDR Vivid data",
    "DOVI_RPU_BUFFER": "Dolby Vision data",
    "DOVI_METADATA": "Dolby Vision data",
    "AMBIENT_VIEWING_ENVIRONMENT": "its ambient light",
    "ICC_PROFILE": "an ICC profile",
    "SPHERICAL": "how it is laid on a sphere",
    "STEREO3D": "how it holds two eyes' pictures",
}


class Display(NamedTuple):
    """The display that a video was mastered on.

    Attributes
    ----------
    chromaticities : tuple of Fraction
        x and y of red, green, blue and white.
    least, most : Fraction
        Candelas a square metre.
    """

    chromaticities: tuple[Fraction, ...]
    least: Fraction
    most: Fraction

    def rounded(self) -> tuple[int, ...]:
        """Return it in H.265's steps, as which displays differ."""
        colours = [round(each * _CHROMA_STEPS) for each in self.chromaticities]
        return (*colours, round(self.most * _LIGHT_STEPS), round(self.least * _LIGHT_STEPS))


class Light(NamedTuple):
    """HDR10's static metadata.

    Attributes
    ----------
    display : Display or None
        What it was mastered on.
    levels : (int, int) or None
        The brightest pixel and the brightest frame on average, in candelas a square metre.
    """

    display: Display | None = None
    levels: tuple[int, int] | None = None

    def options(self, codec: str, given: Mapping[str, str]) -> dict[str, str]:
        """Add to an encoder's options what makes it write this, if it can and was not told other.

        Parameters
        ----------
        codec : str
            FFmpeg's name of the encoder.
        given : mapping of str to str
            Its options.
        """
        options = dict(given)
        if codec not in _NAMES:
            return options
        group, display_name, levels_name = _NAMES[codec]
        added = []
        if self.display is not None and display_name not in options.get(group, ""):
            added.append(f"{display_name}={_written(self.display, codec)}")
        if self.levels is not None and levels_name not in options.get(group, ""):
            added.append(f"{levels_name}={self.levels[0]},{self.levels[1]}")
        if added:
            options[group] = ":".join([*filter(None, [options.get(group)]), *added])
        return options

    def lacks(self, other: Light) -> list[str]:
        """Tell in words what of this another does not say."""
        lacking = []
        if self.display and (
            other.display is None
            or any(
                abs(a - b) > _SLACK
                for a, b in zip(self.display.rounded(), other.display.rounded(), strict=True)
            )
        ):
            lacking.append("the display it was mastered on")
        if self.levels and self.levels != other.levels:
            lacking.append("its brightest pixel and frame")
        return lacking


#: Encoders' options, and in those the names of the display and the levels.
_NAMES = {
    "libx264": ("x264-params", "mastering-display", "cll"),
    "libx265": ("x265-params", "master-display", "max-cll"),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light"),
}
#: AV1 has steps of its own.
_SLACK = 2


def _written(display: Display, codec: str) -> str:
    if codec == "libsvtav1":
        values = [f"{float(each):.5f}" for each in display.chromaticities]
        light = f"L({float(display.most):.4f},{float(display.least):.4f})"
    else:
        *steps, most, least = display.rounded()
        values, light = [str(each) for each in steps], f"L({most},{least})"
    red, green, blue, white = (",".join(values[n : n + 2]) for n in range(0, 8, 2))
    return f"G({green})B({blue})R({red})WP({white}){light}"


def _side_data(frame: Any) -> list[Any] | None:
    """Return what goes with a frame; None where PyAV refuses a kind that FFmpeg has since added."""
    try:
        data = frame.side_data
        return [data[place] for place in range(len(data))]  # its iterator differs by version
    except ValueError:
        return None


def light_of(frame: Any) -> Light:
    """Read what a decoded frame says."""
    display = levels = None
    for each in _side_data(frame) or ():
        if each.type == Type.MASTERING_DISPLAY_METADATA:
            *numbers, has_colours, has_light = _DISPLAY.unpack_from(bytes(each))
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            values = [Fraction(part, whole) if whole else Fraction(0) for part, whole in pairs]
            if has_colours and has_light:
                display = Display(tuple(values[:8]), values[8], values[9])
        elif each.type == Type.CONTENT_LIGHT_LEVEL:
            brightest, average = _LEVEL.unpack_from(bytes(each))
            levels = (brightest, average)
    return Light(display, levels)


def left_of(frame: Any) -> list[str]:
    """Tell in words what goes with a decoded frame and is not kept."""
    data = _side_data(frame)
    if data is None:
        return ["data of a kind that PyAV does not know"]
    kinds = {each.type.name for each in data}
    return list(dict.fromkeys(text for kind, text in _OF_FRAMES.items() if kind in kinds))
