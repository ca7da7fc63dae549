"""Pictures of more than 8 bits a channel, which Pillow cuts off or does not know.

FFmpeg reads PNG and TIFF, and pillow-heif HEIC.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vramx.errors import ConfigError, MediaError
from vramx.pipelines.pictures.types import Pixels

#: FFmpeg's names of the pixels that are taken, their types, and their channels.
_PACKED = {
    f"{name}{'le' if order == '<' else 'be'}": (order + kind, channels)
    for order in "<>"
    for name, kind, channels in (
        ("gray16", "u2", 1),
        ("ya16", "u2", 2),
        ("rgb48", "u2", 3),
        ("rgba64", "u2", 4),
        ("rgbf32", "f4", 3),
        ("rgbaf32", "f4", 4),
    )
}
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tags of TIFF files.
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _PREDICTOR = 258, 262, 277, 284, 317
_EXTRA, _SAMPLE_FORMAT = 338, 339
_GREY, _COLOUR = 1, 2
_UNSIGNED, _FLOAT = 1, 3
_PREMULTIPLIED, _ALPHA = 1, 2
#: Flags of an AVIF file's configuration: more than 8 bits, and 12 of them.
_HIGH, _TWELVE = 0x40, 0x20


def is_tiff(path: Path) -> bool:
    """Tell by its first bytes whether a file is TIFF."""
    with path.open("rb") as file:
        return file.read(4) in _TIFF_HEADS


def tiff_tags(path: Path) -> ImageFileDirectory_v2:
    """Read the tags of a TIFF file's first picture, whatever its pixels are."""
    with path.open("rb") as file:
        head = file.read(8)
        if head[2:3] == b"\x2b" or head[3:4] == b"\x2b":
            head += file.read(8)
        tags = ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        for tag in tags:
            tags[tag]  # which decodes it, while the file is open
        return tags


def is_deep_tiff(tags: ImageFileDirectory_v2) -> bool:
    """Tell whether a picture has several channels of more than 8 bits."""
    bits = tags.get(_BITS, (1,))
    return len(bits) > 1 and any(each > 8 for each in bits)


def is_deep_png(image: Image.Image) -> bool:
    """Tell whether a file that Pillow opened has several channels of 16 bits."""
    tiles: Any = getattr(image, "tile", ())
    return (
        image.format == "PNG"
        and len(image.getbands()) > 1
        and any("16" in str(tile[3]) for tile in tiles)
    )


def is_deep_heif(image: Image.Image) -> bool:
    """Tell whether a file that Pillow opened is HEIC of more than 8 bits a channel."""
    return image.format == "HEIF" and image.info.get("bit_depth", 8) > 8


def avif_bits(path: Path) -> int:
    """Tell how many bits a channel an AVIF file has: 8, 10 or 12."""
    content = path.read_bytes()
    if (place := content.find(b"av1C")) < 0 or len(content) < place + 7:
        return 8
    flags = content[place + 6]
    return (12 if flags & _TWELVE else 10) if flags & _HIGH else 8


def read_heif(path: Path) -> Pixels:
    """Read a HEIC file of more than 8 bits a channel, with values of 16 bits."""
    import pillow_heif

    file = pillow_heif.open_heif(path, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    most = 2 ** int(file.info["bit_depth"]) - 1
    values = np.asarray(file).astype(np.uint32)
    pixels: Pixels = ((values * 65535 + most // 2) // most).astype(np.uint16)
    return _divided(pixels, pixels.shape[2] - 1) if file.premultiplied_alpha else pixels


def read_png(path: Path) -> Pixels:
    """Read a PNG file of 16 bits a channel."""
    return _decoded(path, "png")


def read_tiff(path: Path, tags: ImageFileDirectory_v2) -> Pixels:
    """Read a TIFF file of several channels of 16 bits, or of float32.

    Parameters
    ----------
    path : Path
        The file.
    tags : ImageFileDirectory_v2
        Its tags.

    Returns
    -------
    numpy.ndarray
        ``(height, width, channels)``: uint16 or float32.

    Raises
    ------
    MediaError
        If it is of another kind, or cannot be decoded.
    """
    bits, kinds = set(tags[_BITS]), set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    is_float = (bits, kinds) == ({32}, {_FLOAT})
    if not is_float and (bits, kinds) != ({16}, {_UNSIGNED}):
        what = {_UNSIGNED: "unsigned", _FLOAT: "floating point"}
        raise MediaError(
            f"{path} has channels of {', '.join(map(str, sorted(bits)))} bits, "
            f"{', '.join(what.get(kind, 'signed') for kind in sorted(kinds))}: save it as 16 bits "
            "unsigned or as 32 bits floating point"
        )
    if tags.get(_PHOTOMETRIC) not in (_GREY, _COLOUR):
        raise MediaError(
            f"{path} has more than 8 bits a channel in other colours than grey and RGB: save it "
            "as RGB"
        )
    if tags.get(_PLANAR, 1) != 1 or tags.get(_PREDICTOR, 1) > 2:
        raise MediaError(
            f"{path} stores its more than 8 bits a channel in planes, or as differences of "
            "floating point values, which cannot be read: save it with its channels interleaved, "
            "without a predictor"
        )
    with path.open("rb") as file:
        if b"+" in file.read(4):
            raise MediaError(
                f"{path} is a BigTIFF file with more than 8 bits a channel, which cannot be read: "
                "save it as TIFF, or as PNG"
            )
    pixels = _decoded(path, "tiff")
    colours = 1 if tags[_PHOTOMETRIC] == _GREY else 3
    extra = tags.get(_EXTRA, ())[:1]
    if pixels.shape[2] == colours or extra in ((_ALPHA,), (_PREMULTIPLIED,)):
        return _divided(pixels, colours) if extra == (_PREMULTIPLIED,) else pixels
    return np.ascontiguousarray(pixels[:, :, :colours])  # of no meaning, as Pillow has it


def _divided(pixels: Pixels, colours: int) -> Pixels:
    """Return colours that had been multiplied by alpha as they were before."""
    white = 65535 if pixels.dtype == np.uint16 else 1
    alpha = pixels[:, :, colours:].astype(np.float64) / white
    divided = pixels[:, :, :colours] / np.where(alpha > 0, alpha, 1)
    if white != 1:
        divided = divided.round()
    made = np.concatenate((divided.clip(0, white), pixels[:, :, colours:]), axis=2)
    return made.astype(pixels.dtype)


def _decoded(path: Path, codec: str) -> Pixels:
    try:
        import av
        import av.error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path} has more than 8 bits a channel, which needs {error.name} to be read: "
            "pip install 'vramx[video]'"
        ) from error
    try:
        decoder: Any = av.CodecContext.create(codec, "r")
        packet = av.Packet(path.read_bytes())
        frames = decoder.decode(packet) + decoder.decode(None)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    if not frames or frames[0].format.name not in _PACKED:
        found = frames[0].format.name if frames else "nothing"
        raise MediaError(f"{path} cannot be read: its pixels are {found}; save it as a 16-bit PNG")
    frame = frames[0]
    kind, channels = _PACKED[frame.format.name]
    dtype, plane = np.dtype(kind), frame.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height]
    packed = lines[:, : frame.width * channels * dtype.itemsize]
    shaped = np.ascontiguousarray(packed).view(dtype)
    return shaped.reshape(frame.height, frame.width, channels).astype(dtype.newbyteorder("="))
