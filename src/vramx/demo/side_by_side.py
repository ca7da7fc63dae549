"""Pictures beside each other with labels above and lines of text below, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 12
TEXT = 20
INK, PAPER = "black", "white"


def side_by_side(pictures: Mapping[str, Image.Image], lines: Sequence[str]) -> Image.Image:
    """Put pictures of one size into a row.

    Parameters
    ----------
    pictures : mapping of str to PIL.Image.Image
        By label, from left to right.
    lines : sequence of str
        What to write below.

    Returns
    -------
    PIL.Image.Image
        In RGB.
    """
    font = ImageFont.load_default(TEXT)
    line = TEXT + GAP // 2
    width, height = next(iter(pictures.values())).size
    row_width = len(pictures) * (width + GAP) + GAP
    needed = max((int(font.getlength(each)) for each in lines), default=0) + 2 * GAP
    top = GAP + line
    size = (max(row_width, needed), top + height + GAP + len(lines) * line + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (label, picture) in enumerate(pictures.items()):
        left = GAP + place * (width + GAP)
        pen.text((left, GAP // 2), label, INK, font)
        sheet.paste(picture, (left, top))
    for place, text in enumerate(lines):
        pen.text((GAP, top + height + GAP + place * line), text, INK, font)
    return sheet
