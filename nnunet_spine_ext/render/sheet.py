"""Many pictures on one page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_spine_ext.core.volume import Array

_GAP = 6
_CAPTION = 18
_TEXT = (230, 230, 230)
_PAPER = (24, 26, 28)


def contact_sheet(
    rows: Sequence[Sequence[Array]],
    *,
    captions: Sequence[Sequence[str]] | None = None,
    background: tuple[int, int, int] = _PAPER,
) -> Array:
    """Put pictures (H, W, 3) uint8 in rows and columns; cells are as large as the largest picture of their row/column.

    Parameters
    ----------
    rows: pictures, row by row; rows may differ in length.
    captions: one text per picture, written above it; what is wider than its column ends in an ellipsis.
    background: RGB 0-255.

    Returns
    -------
    (H, W, 3) uint8.

    Raises
    ------
    ValueError: no picture at all, or captions that do not match the pictures.
    """
    if not any(len(row) for row in rows):
        msg = "a contact sheet needs at least one picture"
        raise ValueError(msg)
    if captions is not None and [len(row) for row in captions] != [len(row) for row in rows]:
        msg = "captions and pictures differ in number"
        raise ValueError(msg)
    head = _CAPTION if captions is not None else 0
    heights = [max((picture.shape[0] for picture in row), default=0) + head for row in rows]
    widths = [
        max((row[column].shape[1] for row in rows if column < len(row)), default=0)
        for column in range(max(len(row) for row in rows))
    ]
    page = np.empty((sum(heights) + _GAP * (len(heights) + 1), sum(widths) + _GAP * (len(widths) + 1), 3), np.uint8)
    page[:] = background
    texts: list[tuple[int, int, int, str]] = []
    top = _GAP
    for r, row in enumerate(rows):
        left = _GAP
        for c, picture in enumerate(row):
            y, x = top + head, left + (widths[c] - picture.shape[1]) // 2
            page[y : y + picture.shape[0], x : x + picture.shape[1]] = picture[..., :3]
            if captions is not None:
                texts.append((left, top, widths[c], captions[r][c]))
            left += widths[c] + _GAP
        top += heights[r] + _GAP
    return _written(page, texts)


def _written(page: Array, texts: list[tuple[int, int, int, str]]) -> Array:
    if not texts:
        return page
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(page)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    for x, y, width, text in texts:
        kept = len(text)
        shown = text
        while font.getlength(shown) > width and kept > 1:
            kept -= 1
            shown = f"{text[:kept]}…"
        draw.text((x, y), shown, fill=_TEXT, font=font)
    return np.asarray(image)
