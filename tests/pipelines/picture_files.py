"""Picture files of many kinds, made by other libraries, and read by them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from vramx.pipelines.video.scheduling import kept_scheduling

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><title>a cat</title></x:xmpmeta>'
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CAMERA, MAKE, ORIENTATION, XMP_TAG, ICC_TAG = "a camera", 0x010F, 0x0112, 700, 34675
DPI = 300
WHITE = {"uint8": 255, "uint16": 65535, "float32": 1}


def scene(channels: int, dtype: str) -> Any:
    """A smooth picture with a little noise, ``(40, 30)`` or ``(40, 30, channels)``."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:30]
    waves = [np.sin(x / (5 + k)) * np.cos(y / (4 + k)) for k in range(channels)]
    values = np.stack(waves, axis=2) * 0.4 + 0.5 + rng.normal(0, 0.01, (40, 30, channels))
    made = values.clip(0, 1) * WHITE[dtype]
    made = made.astype(dtype) if dtype == "float32" else made.round().astype(dtype)
    return made[:, :, 0] if channels == 1 else made


def by_pillow(
    path: Path, mode: str, kind: str, *, turn: int = 1, beside: bool = True, **options: Any
) -> None:
    """Write a picture of 8 bits a channel with Pillow."""
    picture = scene_in(mode)
    if beside:
        exif = Image.Exif()
        exif[MAKE] = CAMERA
        if turn != 1:
            exif[ORIENTATION] = turn
        if kind == "TIFF":
            exif[XMP_TAG] = XMP
        options = {"icc_profile": SRGB, "exif": exif, "dpi": (DPI, DPI), "xmp": XMP, **options}
        if kind == "PNG":
            options["pnginfo"] = chunks = PngImagePlugin.PngInfo()
            chunks.add_itxt("XML:com.adobe.xmp", XMP.decode())
    picture.save(path, kind, **options)


def deep_heif(path: Path) -> None:
    """Write a HEIC file of 10 bits a channel."""
    import pillow_heif

    made = pillow_heif.from_bytes("RGB;16", (30, 40), scene(3, "uint16").tobytes())
    exif = Image.Exif()
    exif[MAKE] = CAMERA
    made[0].info.update(icc_profile=SRGB, icc_profile_type="prof", exif=exif.tobytes(), xmp=XMP)
    made.save(path, exif=exif.tobytes(), xmp=XMP)


def deep_avif(path: Path) -> None:
    """Write an AVIF file of 10 bits a channel with FFmpeg."""
    scaled = np.repeat(np.repeat(scene(3, "uint16"), 2, 0), 2, 1)  # encoders want 64 pixels a side
    picture = np.pad(scaled, ((0, 0), (0, 4), (0, 0)), "edge")
    with av.open(str(path), "w", format="avif") as container:
        stream: Any = container.add_stream("libsvtav1", rate=1)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p10le"
        with kept_scheduling():
            stream.codec_context.open()
        frame = av.VideoFrame.from_ndarray(picture, format="rgb48le")
        frame = frame.reformat(format="yuv420p10le")
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def scene_in(mode: str) -> Any:
    """The scene as a PIL image."""
    if mode in ("L", "LA", "RGB", "RGBA"):
        return Image.fromarray(scene(len(mode), "uint8"))
    if mode == "I;16":
        return Image.fromarray(scene(1, "uint16"))
    if mode == "F":
        return Image.fromarray(scene(1, "float32"))
    picture = Image.fromarray(scene(3, "uint8"))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    if mode == "P with one transparent":
        picture = picture.convert("P")
        picture.info["transparency"] = 3
        return picture
    return picture.convert(mode)


def deep_png(path: Path, channels: int, *, turn: int = 1) -> None:
    """Write a PNG file of 16 bits a channel with FFmpeg, and what belongs to it with chunks."""
    pixels = scene(channels, "uint16")
    form = {1: "gray16be", 3: "rgb48be", 4: "rgba64be"}[channels]
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 30, 40, form
    encoder.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(pixels, format=form)
    data = b"".join(bytes(packet) for packet in encoder.encode(frame) + encoder.encode(None))
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = CAMERA, turn
    file = io.BytesIO()
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", XMP.decode())
    Image.new("L", (1, 1)).save(
        file, "PNG", exif=exif, pnginfo=chunks, icc_profile=SRGB, dpi=(DPI, DPI)
    )
    head = 8 + 25  # the signature and IHDR
    donor = file.getvalue()
    beside = donor[head : donor.index(b"IDAT") - 4]
    body = data[head:]
    path.write_bytes(data[:head] + beside + body[body.index(b"IDAT") - 4 :])


def by_tifffile(path: Path, channels: int, dtype: str, *, turn: int = 1, **options: Any) -> None:
    """Write a TIFF file of any depth."""
    alpha = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    tifffile.imwrite(
        path,
        scene(channels, dtype),
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        resolution=(DPI, DPI),
        resolutionunit="INCH",
        metadata=None,
        extratags=[
            (ICC_TAG, 7, len(SRGB), SRGB, True),
            (XMP_TAG, 1, len(XMP), XMP, True),
            (MAKE, 2, 0, CAMERA, True),
            (ORIENTATION, 3, 1, turn, True),
        ],
        **alpha,
        **options,
    )


def packed_tiff(path: Path, algorithm: str) -> None:
    """Write a TIFF file of RGB with 16 bits a channel with FFmpeg."""
    encoder: Any = av.CodecContext.create("tiff", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 30, 40, "rgb48le"
    encoder.time_base, encoder.options = Fraction(1, 25), {"compression_algo": algorithm}
    frame = av.VideoFrame.from_ndarray(scene(3, "uint16"), format="rgb48le")
    path.write_bytes(
        b"".join(bytes(packet) for packet in encoder.encode(frame) + encoder.encode(None))
    )


def read(path: Path) -> Any:
    """Read a picture with all its bits, by what is not vramx."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            if file.pages[0].compression.name != "LZW":
                return file.asarray()
            deep = file.pages[0].bitspersample > 8
    else:
        with Image.open(path) as image:
            deep = path.suffix == ".png" and "16" in str(image.tile[0][3]) and image.mode != "I;16"
    if deep:
        return _by_ffmpeg(path)
    with Image.open(path) as image:
        if path.suffix == ".heic" and image.info["bit_depth"] > 8:
            return _by_pillow_heif(path)
        return np.asarray(image)


def _by_pillow_heif(path: Path) -> Any:
    import pillow_heif

    with_zeros = np.asarray(pillow_heif.open_heif(path, convert_hdr_to_8bit=False))
    return ((with_zeros >> 6) / 1023 * 65535).round().astype(np.uint16)


def _by_ffmpeg(path: Path) -> Any:
    decoder: Any = av.CodecContext.create("tiff" if path.suffix == ".tif" else "png", "r")
    frame = (decoder.decode(av.Packet(path.read_bytes())) + decoder.decode(None))[0]
    name = frame.format.name
    channels = {"ya16": 2, "rgb48": 3, "rgba64": 4}[name[:-2]]
    lines = np.frombuffer(frame.planes[0], f"{'>' if name.endswith('be') else '<'}u2")
    lines = lines.reshape(-1, frame.planes[0].line_size // 2)[: frame.height]
    shaped = lines[:, : frame.width * channels].reshape(frame.height, frame.width, channels)
    return shaped.astype(np.uint16)
