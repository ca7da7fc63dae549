"""What the head of a picture's file claims, held against its bytes before they are decoded."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vramx.errors import MediaError

#: Pictures that small are decoded whatever their files weigh.
_SMALL = 2**22
#: The most pixels of a side. Pillow takes memory for each row, however short it is.
_LONGEST = 2**20
#: The most pixels that formats make of a byte: of those that repeat a few, QOI's runs and all
#: others'; of those that Deflate and LZW pack, black and white ones. The rest have no such limit.
_RUNS, _MOST_A_BYTE = 1024, {"GIF": 2731, "JPEG": 8192, "MPO": 8192, "PNG": 8256, "QOI": 62}
_WITHOUT_LIMIT = ("AVIF", "HEIF", "JPEG2000", "TIFF", "WEBP")


def check_claim(size: tuple[int, int], kind: str, path: Path) -> None:
    """Refuse a picture that is larger than is decoded, or than its file can be.

    Parameters
    ----------
    size : (int, int)
        Width and height, as the file's head has them.
    kind : str
        Pillow's name of the format.
    path : Path
        The file.

    Raises
    ------
    MediaError
        If the bytes of the file do not suffice for such a picture, or a side is too long.
    PIL.Image.DecompressionBombError
        If it has more pixels than Pillow's limit allows.
    """
    pixels, claimed = size[0] * size[1], f"{path} claims {size[0]}x{size[1]} pixels"
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > 2 * most:
        raise Image.DecompressionBombError(
            f"Image size ({pixels} pixels) exceeds limit of {2 * most} pixels."
        )
    if max(size) > _LONGEST:
        raise MediaError(
            f"{claimed}, and pictures of at most {_LONGEST} a side are read: it is damaged, or is "
            "to be cut into several"
        )
    if pixels <= _SMALL or kind in _WITHOUT_LIMIT:
        return
    nbytes = path.stat().st_size
    held = nbytes * _MOST_A_BYTE.get(kind, _RUNS)
    if pixels > held:
        raise MediaError(
            f"{claimed}, but the {nbytes} bytes of a {kind} file make at most {held}: it is "
            "damaged or not whole"
        )


def check_tiles(image: Image.Image, path: Path) -> None:
    """Refuse the present frame of a TIFF file that claims more pixels than lie in it.

    Parameters
    ----------
    image : PIL.Image.Image
        As Pillow opened it, before its pixels are loaded.
    path : Path
        The file.

    Raises
    ------
    MediaError
        If its strips or tiles leave a part of the picture open.
    """
    tiles = getattr(image, "tile", ())
    boxes = [tile[1] for tile in tiles if tile[1] is not None] if image.format == "TIFF" else []
    held = sum((right - left) * (low - high) for left, high, right, low in boxes)
    if boxes and held < image.width * image.height:
        raise MediaError(
            f"{path} claims {image.width}x{image.height} pixels, but has {held}: it is damaged"
        )
