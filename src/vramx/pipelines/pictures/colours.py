"""Colours for printers and laboratories, as a screen's."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

_SRGB: Any = ImageCms.createProfile("sRGB")


def as_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert a picture in CMYK or LAB to RGB.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture.
    path : Path
        Where it is from.

    Returns
    -------
    PIL.Image.Image
        What is in other colours as it is; else in sRGB, by the picture's profile, with that of
        sRGB. CMYK without one is as Pillow has it, without a profile.

    Warns
    -----
    RuntimeWarning
        If the picture has no profile that can be used.
    """
    if image.mode not in ("CMYK", "LAB"):
        return image
    kept = {key: value for key, value in image.info.items() if key != "icc_profile"}
    profile = image.info.get("icc_profile")
    made, why = None, "has no ICC profile"
    try:
        if profile:
            made = _converted(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError) as error:
        why = f"has an ICC profile that cannot be used ({error})"
    if made is None and image.mode == "LAB":
        made = _converted(image, ImageCms.createProfile("LAB"))  # which has but one meaning
    if made is None:
        warnings.warn(
            f"{path} is in CMYK and {why}: its colours are converted to RGB without one, and may "
            "differ from what was meant",
            RuntimeWarning,
            stacklevel=2,
        )
        made = image.convert("RGB")
    else:
        kept["icc_profile"] = ImageCms.ImageCmsProfile(_SRGB).tobytes()
    made.info = kept
    return made


def _converted(image: Image.Image, profile: Any) -> Image.Image:
    made = ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB")
    assert made is not None  # not in place
    return made
